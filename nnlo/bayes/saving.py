"""Checkpoints of particles: ``<base>-<epoch>.npz`` says how far all are, a folder beside it of
that name without ending holds one file a particle."""

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnlo.bayes import store
from nnlo.bayes.method import Method, Stepper
from nnlo.checkpoint import Arrays, Checkpoint, CheckpointStore, read
from nnlo.errors import CheckpointError
from nnlo.history import History
from nnlo.mpi.setup import together

if TYPE_CHECKING:
    from nnlo.bayes.particles import Particles


@dataclass
class Progress:
    """How far a run is. epoch, step: done. sums: of each particle here since the epoch began.
    time_s: of this epoch."""

    sums: NDArray[np.float64]
    epoch: int = 0
    step: int = 0
    time_s: float = 0.0
    history: History = field(default_factory=History)


def write_checkpoint(
    particles: "Particles", method: Method, stepper: Stepper, progress: Progress, base: Path
) -> None:
    """Write all that ``restore`` needs; collective. Raises CheckpointError on all ranks."""
    team = particles.team
    folder = _folder(base, progress.epoch)
    about = {
        **_identity(particles, method),
        "epoch": progress.epoch,
        "step": progress.step,
        "time_s": progress.time_s,
        "scalars": stepper.scalars(),
        "history": progress.history.to_json(),
    }
    arrays = {f"method/{name}": array for name, array in stepper.arrays().items()}
    arrays |= {"weights": particles.weights, "state": particles.state, "sums": progress.sums}
    held = enumerate(particles.pids) if team.holds else ()
    parts = {pid: {name: array[row] for name, array in arrays.items()} for row, pid in held}
    store.save(team.comm, folder, parts, about)

    def complete() -> None:
        kept = CheckpointStore(base)
        kept.save(Checkpoint({}, about), progress.epoch)
        _forget(kept)

    together(team.comm, lambda: complete() if team.rank == 0 else None)


def restore(particles: "Particles", method: Method, stepper: Stepper, path: Path) -> Progress:
    """Put particles and stepper where the checkpoint at ``path``, a file or base, left them.

    Collective; any number of ranks may have written it. Raises CheckpointError.
    """
    comm = particles.team.comm
    found = together(comm, lambda: _read(particles, method, path) if _is_first(comm) else None)
    meta, folder = found if comm is None else comm.bcast(found)  # type: ignore[misc]
    parts = together(comm, lambda: [store.read_particle(folder, pid) for pid in particles.pids])

    def take() -> NDArray[np.float64]:
        stacked = _stacked(parts, folder)
        for name in ("weights", "state"):
            target: Any = getattr(particles, name)
            if stacked[name].shape != target.shape:
                raise _unfit(folder, f"{name} of another shape")
            target[:] = stacked[name]
        own = {k.removeprefix("method/"): v for k, v in stacked.items() if k.startswith("method/")}
        stepper.load_arrays(own)
        stepper.load_scalars(meta["scalars"])
        return stacked["sums"]

    sums = together(comm, take)
    history = History.from_json(meta["history"])
    return Progress(sums, meta["epoch"], meta["step"], meta["time_s"], history)


def _read(particles: "Particles", method: Method, path: Path) -> tuple[dict[str, Any], Path]:
    file = path if path.is_file() else None
    checkpoint = read(file) if file else CheckpointStore(path).newest()
    meta = checkpoint.meta
    for name, value in _identity(particles, method).items():
        if meta.get(name) != value:
            raise CheckpointError(
                f"a checkpoint must be of the same {name}, got {meta.get(name)} in {path} for "
                f"{value}; restore it with the model and options that wrote it"
            )
    folder = file.with_suffix("") if file else _folder(path, meta["epoch"])
    # Within an epoch a checkpoint replaces that of its beginning: where the program was killed
    # between the two writes, the folder is newer than the file, and tells its own step.
    about = store.read_about(folder)
    if not all(name in about for name in ("epoch", "step", "time_s", "scalars", "history")):
        raise _unfit(folder, "no run of particles")
    if about["epoch"] != meta["epoch"]:
        raise _unfit(folder, f"particles of epoch {about['epoch']}, not {meta['epoch']}")
    return about, folder


def _identity(particles: "Particles", method: Method) -> dict[str, Any]:
    """What must agree between the run that writes and the one that reads."""
    return {
        "kind": method.name,
        "n_particles": particles.n,
        "seed": particles.seed,
        "manifest": particles.adapter.manifest.hash,
        "metrics": list(particles.adapter.metric_names),
    }


def _stacked(parts: list[Arrays], folder: Path) -> Arrays:
    names = {name for part in parts for name in part}
    try:
        return {name: np.stack([part[name] for part in parts]) for name in names}
    except (KeyError, ValueError) as error:
        raise _unfit(folder, f"particles that differ ({error})") from error


def _forget(kept: CheckpointStore) -> None:
    """Remove folders whose file is gone; nothing else that happens to begin with that name."""
    names = {path.stem for path in kept.files()}
    pattern = re.compile(re.escape(kept.base.name) + r"-\d+")
    for folder in kept.base.parent.iterdir():
        is_ours = pattern.fullmatch(folder.name) and (folder / store.ABOUT).is_file()
        if is_ours and folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)


def _folder(base: Path, epoch: int) -> Path:
    return base.with_name(f"{base.name}-{epoch:05d}")


def _unfit(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"a checkpoint must hold particles of this run, got {what} in {path}; name another one"
    )


def _is_first(comm: Any) -> bool:
    return comm is None or comm.rank == 0
