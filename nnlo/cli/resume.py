"""Where a program that was started again goes on."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nnlo.checkpoint import Checkpoint, CheckpointStore, read
from nnlo.cli.marks import count_restarts, first_start
from nnlo.errors import CheckpointError

log = logging.getLogger(__name__)


def resume_from(
    base: Path | None, given: Path | None, n_epochs: int, environ: Mapping[str, str]
) -> Path | None:
    """Return what to restore, and say in the log why; rank 0 decides for all.

    base: of the checkpoints that the run writes itself, None without any. given: what the
    command line says, which holds for the first start and where the run has left nothing.
    n_epochs: a checkpoint that has them all behind it is passed over for the one before.
    """
    n_restarts = count_restarts(environ)
    if n_restarts == 0:
        return given
    found = newest_whole(base, first_start(environ), n_epochs) if base else None
    if found is not None:
        path, checkpoint = found
        epoch = checkpoint.meta["epoch"]
        log.info("restart %d: going on after epoch %d, from %s", n_restarts, epoch, path)
        return path
    reason = "has not left a whole checkpoint" if base else "had no --checkpoint to write"
    goes_on = f"begins again from {given}" if given else "begins anew: all it had done is lost"
    log.warning("restart %d: the run before %s and %s", n_restarts, reason, goes_on)
    return given


def newest_whole(base: Path, since: float, n_epochs: int) -> tuple[Path, Checkpoint] | None:
    """Return the newest whole checkpoint ``<base>-*.npz`` with epochs to go, None without one.

    since: files last written before that time are those of other runs.
    """
    for path in reversed(files_since(base, since)):
        try:
            checkpoint = read(path)
        except CheckpointError as error:
            log.warning("%s", error)
            continue
        if checkpoint.meta["epoch"] < n_epochs:
            return path, checkpoint
    return None


def files_since(base: Path, since: float) -> list[Path]:
    """Return the checkpoint files of ``base`` written at ``since`` or later, oldest first."""
    found = []
    for path in CheckpointStore(base).files():
        with suppress(FileNotFoundError):  # the run has just forgotten it
            if path.stat().st_mtime >= since:
                found.append(path)
    return found
