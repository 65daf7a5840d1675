"""What a rank takes of its node: threads, a GPU, and an end together with its launcher.

``nnlorun`` starts every rank as ``python -m nnlo.cli.threads PROGRAM ...``, which settles these
three and becomes PROGRAM. A driver calls ``settle_rank`` itself, so that a plain ``mpirun`` or
``srun`` does as well. All of it has to happen before a backend is imported.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import MutableMapping
from typing import NamedTuple

from nnlo.cli.marks import mark_ranks

Environ = MutableMapping[str, str]

# (rank on the node, number of ranks on the node), as each launcher names them. SLURM comes last
# of those with plain numbers: its variables are there under an mpirun inside a batch job too.
PLACE_NAMES = (
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE"),
    ("PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
    ("PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
)
THREAD_NAMES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)
TERMINAL = "NNLO_TERMINAL"
"""Set by nnlorun where its own standard error is a terminal."""
GPU_NAMES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
SLURM_GPUS_PER_RANK = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPU_BIND")


class Place(NamedTuple):
    """Where a rank stands among those of its node."""

    rank: int  # 0 <= rank < size
    size: int  # ranks on this node, >= 1


ALONE = Place(0, 1)
"""The place of a program that no launcher has started."""


def local_place(environ: Environ) -> Place:
    """Return the place that the launcher's variables tell, ``ALONE`` without any."""
    for rank_name, size_name in PLACE_NAMES:
        rank, size = environ.get(rank_name, ""), environ.get(size_name, "")
        if rank.isdigit() and size.isdigit():
            return Place(int(rank), max(1, int(size)))
    if environ.get("SLURM_LOCALID", "").isdigit():
        return Place(int(environ["SLURM_LOCALID"]), _slurm_local_size(environ))
    return ALONE


def _slurm_local_size(environ: Environ) -> int:
    """Expand ``SLURM_STEP_TASKS_PER_NODE``, for example ``4(x2),3``, at this node's index."""
    sizes: list[int] = []
    for size, repeat in re.findall(
        r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    ):
        sizes += [int(size)] * int(repeat or 1)
    node = int(environ.get("SLURM_NODEID", "0"))
    return max(1, sizes[node]) if node < len(sizes) else 1


def available_cores(pid: int = 0) -> int:
    """Return the number of logical cores that process ``pid`` (0: this one) may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(pid))
    return os.cpu_count() or 1


def threads_per_rank(own: int, node: int, n_local: int) -> int:
    """Return the threads one of ``n_local`` ranks should use, >= 1.

    own: cores this rank is bound to. node: cores of which all ranks of the node together take.
    """
    return max(1, min(own, node // n_local))


def limit_threads(environ: Environ = os.environ, threads: int | None = None) -> int:
    """Set the thread counts of the numerical libraries; return the threads per rank.

    What the user has set stays, unless ``threads`` gives the number by hand; OMP_NUM_THREADS is
    the number for all that is not set. JAX offers no variable for its pool on the CPU and is
    left alone.
    """
    given = environ.get("OMP_NUM_THREADS", "")
    share = (
        threads
        or (int(given) if given.isdigit() else 0)
        or threads_per_rank(
            # The parent is the launcher's daemon, which is not bound when it binds each rank.
            available_cores(),
            available_cores(os.getppid()),
            local_place(environ).size,
        )
    )
    # Two are enough between operations: the work inside them is what fills the cores.
    wanted = dict.fromkeys(THREAD_NAMES, share) | {"TF_NUM_INTEROP_THREADS": min(share, 2)}
    for name, count in wanted.items():
        if threads is not None or not environ.get(name):
            environ[name] = str(count)
    return share


def assign_gpu(environ: Environ = os.environ) -> str | None:
    """Leave this rank one of the node's visible GPUs; return its id, None if nothing was changed.

    Where several ranks share a node and see the same several GPUs, local rank r keeps number
    ``r % count``. Ids stay as they are written (``10``, ``GPU-8f2c...``). A scheduler's choice for
    one rank, and a list of one GPU or none, are left alone.
    """
    place = local_place(environ)
    if place.size == 1 or any(environ.get(name) for name in SLURM_GPUS_PER_RANK):
        return None
    name = next((name for name in GPU_NAMES if name in environ), GPU_NAMES[0])
    visible = _ids(environ[name]) if name in environ else _installed_gpus()
    if len(visible) < 2 or len(visible) < len(_ids(environ.get("SLURM_STEP_GPUS", ""))):
        return None
    environ[name] = visible[place.rank % len(visible)]
    return environ[name]


def _ids(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _installed_gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer is no GPU
        return []
    return done.stdout.split()


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel for signal ``number`` once the parent is gone; does nothing but on Linux."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(number), 0, 0, 0)


def settle_rank(environ: Environ = os.environ, threads: int | None = None) -> None:
    """Do at the start of a rank all that this module is for; harmless when done twice."""
    limit_threads(environ, threads)
    assign_gpu(environ)
    # A program that a shell has started may outlive it (nohup); a rank never its launcher.
    if local_place(environ) is not ALONE:
        die_with_parent()


def main() -> None:
    """Settle this rank and become ``PROGRAM args...``; ``@T`` before it fixes the threads."""
    command = sys.argv[1:]
    threads = None
    if command[0].startswith("@"):
        threads, command = int(command[0][1:]), command[1:]
    settle_rank(threads=threads)
    if local_place(os.environ).rank == 0:
        mark_ranks()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
