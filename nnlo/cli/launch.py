"""``nnlorun -n N PROGRAM``: run a program on N MPI ranks, however this machine starts them."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from nnlo.cli.job import JobEnd, caught_signals, run_job
from nnlo.cli.machine import Machine, living_hosts, probe_machine, read_hostfile
from nnlo.cli.marks import RESTARTS, SINCE, count_restarts
from nnlo.cli.request import (
    LAUNCHERS,
    Request,
    choose_launcher,
    describe_launcher,
    is_one_machine,
    lacks_fault_tolerance,
    plan_command,
)
from nnlo.cli.restart import Ranks, Restarts, run_job_again
from nnlo.cli.threads import TERMINAL
from nnlo.errors import ConfigError, NNLOError

# A waiting rank lets others have its core; costs 0.05 us of latency.
ADDED_ENVIRONMENT = {"OMPI_MCA_mpi_yield_when_idle": "1"}
# Job data go to the ranks in messages. By itself PMIx maps them at one address in all processes,
# and where that is taken in one of them the job ends (openpmix pull request 3886, not in 5.0).
# For a job whose both ends we start: another PMIx than srun's own must not be told.
MPIRUN_ENVIRONMENT = {"PMIX_MCA_gds": "hash"}


def find_program(words: Sequence[str], *, is_module: bool, path: str) -> tuple[str, ...]:
    """Return the command of one rank for ``PROGRAM args...``.

    PROGRAM is a module (``is_module``), a ``.py`` file, or a program: beside this Python first,
    so that an environment need not be activated, then on ``path``. Python runs under mpi4py's
    runner, which ends all ranks when one raises or calls ``sys.exit`` with an error.
    """
    name, *arguments = words
    python = (sys.executable, "-m", "mpi4py")
    if is_module:
        return (*python, "-m", name, *arguments)
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ConfigError(f"the program must be a file, got {name!r}; check the path")
        return (*python, name, *arguments)
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, path]))
    if found is None:
        raise ConfigError(
            f"the program must be on PATH or beside {sys.executable}, got {name!r}; give its "
            "path, a .py file, or -m MODULE"
        )
    return (found, *arguments)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnlorun",
        usage="nnlorun -n N [options] PROGRAM [arguments], or nnlorun --check [-n N]",
        description="Run PROGRAM on N MPI ranks.",
        epilog="Ctrl-C asks the ranks to stop (SIGUSR1) and ends them within 5 s; a second one at "
        "once. The exit code is the job's; 75 asks for another start. NNLO_MPIRUN names another "
        "mpirun.",
    )
    add = parser.add_argument
    add("-n", "-np", dest="n_ranks", type=int, metavar="N", help="ranks to start")
    add("-m", dest="is_module", action="store_true", help="PROGRAM is a Python module")
    add("-H", "--hosts", metavar="A:4,B:4", help="hosts, with slots, for mpirun")
    add("--hostfile", metavar="FILE", help="file of hosts, for mpirun")
    add("--launcher", choices=LAUNCHERS, default="auto", help="(default: as the job needs)")
    add("--threads", type=int, metavar="T", help="per rank (default: cores / ranks on the node)")
    add("--fault-tolerant", action="store_true", help="ranks may outlive others (Open MPI 5)")
    add("--max-restarts", type=int, default=0, metavar="K", help="of a job that fails (default 0)")
    add("--check", action="store_true", help="show what this MPI is and does, on 2 ranks or N")
    add("--dry-run", action="store_true", help="print the command and do not run it")
    add("-v", "--verbose", action="store_true", help="print the command, then run it")
    add("program", metavar="PROGRAM", nargs="?", help="console program, path, .py or -m module")
    add("arguments", nargs=argparse.REMAINDER, help="arguments of PROGRAM")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; return the exit code."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.check:
        options.n_ranks = options.n_ranks or 2
        if options.program:
            parser.error("--check runs a program of its own: leave PROGRAM out")
    elif options.program is None or options.n_ranks is None:
        parser.error("the following arguments are required: -n N and PROGRAM, or --check")
    try:
        return _check(options) if options.check else _run(options)
    except (NNLOError, OSError) as error:
        print(f"nnlorun: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    if options.max_restarts < 0:
        raise ConfigError(f"--max-restarts must be at least 0, got {options.max_restarts}")
    words = [options.program, *options.arguments]
    program = find_program(words, is_module=options.is_module, path=os.environ.get("PATH", ""))
    return run_request(_request(options, program), options, probe_machine(os.environ))


def _check(options: argparse.Namespace) -> int:
    """Run nnlo.cli.check on the ranks, or alone where no rank can be started."""
    if options.max_restarts or options.is_module:
        raise ConfigError("--check must come without -m and --max-restarts; leave them out")
    machine = probe_machine(os.environ)
    request = _request(options, ())
    facts = [f"--ranks={request.n_ranks}"]
    try:
        plan_command(request, machine)
    except ConfigError as error:
        alone = [sys.executable, "-m", "nnlo.cli.check", *facts, f"--problem={error}"]
        return subprocess.run(alone, check=False).returncode
    lacks = lacks_fault_tolerance(machine)
    facts += [
        f"--launcher={describe_launcher(choose_launcher(request, machine), machine)}",
        f"--fault-tolerance={f'not here: {lacks}' if lacks else 'nnlorun --fault-tolerant'}",
    ]
    request = replace(request, program=(sys.executable, "-m", "nnlo.cli.check", *facts))
    return run_request(request, options, machine)


def run_request(request: Request, options: argparse.Namespace, machine: Machine) -> int:
    """Run what was asked for, again where it fails and may be; return the exit code."""
    command = plan_command(request, machine)
    added = added_environment(command, os.environ)
    if options.dry_run or options.verbose:
        settings = [f"{name}={value}" for name, value in added.items()]
        shown = sys.stdout if options.dry_run else sys.stderr
        print(*settings, shlex.join(command), file=shown, flush=True)
    if options.dry_run:
        return 0
    # Where a scheduler has started us again, too, checkpoints of our own are older than this.
    n_before = count_restarts(os.environ)
    since = 0.0 if n_before else time.time()
    environ = {SINCE: str(since), **added, **os.environ, **terminal_of(sys.stderr)}
    # Where somebody has named hosts, those that are gone can be left out.
    hosts, hostfile = request.hosts, request.hostfile or machine.nodefile
    if options.max_restarts and hosts is None and hostfile is not None:
        hosts = read_hostfile(Path(hostfile))
    first = Ranks(request.n_ranks, hosts)
    is_local = is_one_machine(request, machine)

    def start(ranks: Ranks, n_restarts: int) -> JobEnd:
        now = request
        if ranks != first:
            now = replace(request, n_ranks=ranks.n, hosts=ranks.hosts, hostfile=None)
        told = {**environ, RESTARTS: str(n_before + n_restarts)}
        return run_job(plan_command(now, machine), told, signals, is_local=is_local)

    with caught_signals() as signals:
        again = Restarts(options.max_restarts, since, signals, living_hosts)
        return run_job_again(start, first, again)


def added_environment(command: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the job is told beside ``environ``, whose own settings stay."""
    is_mpirun = Path(command[0]).name not in ("srun", "jsrun")
    settings = ADDED_ENVIRONMENT | (MPIRUN_ENVIRONMENT if is_mpirun else {})
    return {name: value for name, value in settings.items() if name not in environ}


def terminal_of(stream: TextIO) -> dict[str, str]:
    """What tells rank 0, whose standard error is a pipe, that a person looks at ``stream``."""
    if not stream.isatty():
        return {}
    size = shutil.get_terminal_size()
    return {TERMINAL: "1", "COLUMNS": str(size.columns), "LINES": str(size.lines)}


def _request(options: argparse.Namespace, program: tuple[str, ...]) -> Request:
    return Request(
        n_ranks=options.n_ranks,
        program=program,
        launcher=options.launcher,
        hosts=options.hosts,
        hostfile=options.hostfile,
        threads=options.threads,
        fault_tolerant=options.fault_tolerant,
    )


if __name__ == "__main__":
    sys.exit(main())
