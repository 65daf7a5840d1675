"""Particles in files: a folder with one file a particle, and one that says what they are.

Every rank writes the particles that it answers for, so that nothing is gathered; the folder must
be on a disk that all ranks see. It appears under its name once it is complete.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlo.checkpoint import Arrays, Checkpoint, read, write
from nnlo.errors import CheckpointError
from nnlo.files import write_text
from nnlo.mpi.setup import together

if TYPE_CHECKING:
    from mpi4py import MPI

ABOUT = "posterior.json"


def save(
    comm: "MPI.Intracomm | None",
    folder: Path,
    particles: Mapping[int, Arrays],
    about: Mapping[str, Any],
) -> None:
    """Write ``folder`` anew; collective. particles: those of this rank. about: JSON, of rank 0.

    Raises CheckpointError on all ranks where the disk of any does not take it.
    """
    rank = 0 if comm is None else comm.rank
    new = folder.with_name(f".{folder.name}.new")
    together(comm, lambda: _begin(new) if rank == 0 else None)

    def write_own() -> None:
        for pid, arrays in particles.items():
            write(new / _name(pid), Checkpoint(arrays, {"particle": pid}))

    together(comm, write_own)
    together(comm, lambda: _complete(new, folder, about) if rank == 0 else None)


def _begin(new: Path) -> None:
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(new, error) from error


def _complete(new: Path, folder: Path, about: Mapping[str, Any]) -> None:
    old = folder.with_name(f".{folder.name}.old")
    try:
        write_text(new / ABOUT, json.dumps(about, indent=1))
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def read_about(folder: Path) -> dict[str, Any]:
    """What ``save`` was told of the particles; raises CheckpointError for anything else."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        for name, least in (("n_particles", 1), ("seed", 0)):
            if type(about[name]) is not int or about[name] < least:
                raise TypeError(f"its {name} is {about[name]!r}")  # noqa: TRY301
        last = folder / _name(about["n_particles"] - 1)
        if not last.is_file():
            raise FileNotFoundError(f"it has no {last.name}")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"a posterior must be a folder with {ABOUT} and a file for each particle, got "
            f"{folder} ({error}); name the folder that a run has written"
        ) from error
    return about


def read_particle(folder: Path, pid: int) -> Arrays:
    """The arrays of one particle; raises CheckpointError where its file is missing or damaged."""
    checkpoint = read(folder / _name(pid))
    if checkpoint.meta.get("particle") != pid:
        raise CheckpointError(
            f"{folder / _name(pid)} must hold particle {pid}, got "
            f"{checkpoint.meta.get('particle')}; restore the folder from a copy"
        )
    return checkpoint.arrays


def _name(pid: int) -> str:
    return f"particle-{pid:05d}.npz"


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"particles must be written to {path}, got {error}; free space or name another --output"
    )
