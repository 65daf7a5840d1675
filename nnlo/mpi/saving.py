"""Checkpoints of a running job: the master's part at one version, the workers' parts as they come.

A checkpoint begins as a draft: a copy of the master's arrays. Every child that is still active
is asked, in its next answer, for its local state (where it is in its data, random states, local
optimizer), which comes with its next message. When all have come, and the epoch's validation
with them, the file is written in the background.
"""

import json
import logging
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.algo import kernels
from nnlo.checkpoint import Arrays, Checkpoint, CheckpointStore
from nnlo.errors import CheckpointError, TrainingError
from nnlo.history import History
from nnlo.mpi.evaluate import Background
from nnlo.mpi.frame import unpack_arrays

log = logging.getLogger(__name__)


_NUMBERS = ("version", "epoch", "least_epoch", "samples", "learning_rate", "base_learning_rate")
_TEXTS = ("manifest", "algorithm", "topology", "history")
_LISTS = ("sums", "staleness", "metrics")


def check(checkpoint: Checkpoint, name: str) -> None:
    """Raise CheckpointError unless this is what a ``Saver`` writes. name: in the message."""
    kinds = {int | float: _NUMBERS, str: _TEXTS, list: _LISTS}
    for kind, keys in kinds.items():
        for key in keys:
            if not isinstance(checkpoint.meta.get(key), kind):
                raise CheckpointError(
                    f"a checkpoint must hold {key}, got {checkpoint.meta.get(key)!r:.80} in "
                    f"{name}; restore one that this version of NNLO has written"
                )
    if "weights" not in checkpoint.arrays:
        raise CheckpointError(f"a checkpoint must hold weights, got none in {name}")
    History.from_json(checkpoint.meta["history"])


@dataclass
class Draft:
    """A checkpoint in the making.

    ranks: the books of that moment; those of the history go on while it is validated. results:
    history, best weights and learning rate, None until the epoch is validated.
    """

    epoch: int
    version: int
    arrays: Arrays
    meta: dict[str, Any]
    waiting: set[int]
    ranks: dict[str, Any] | None = None
    states: dict[int, bytes] = field(default_factory=dict)
    results: tuple[str, NDArray[np.float32] | None, float] | None = None


def is_sound(draft: Draft) -> bool:
    """Whether its weights are finite; warns where not: no checkpoint must replace one that is."""
    if kernels.is_finite(draft.arrays["weights"]):
        return True
    log.warning(
        "version %d gets no checkpoint: its weights are not finite; lower the learning rate",
        draft.version,
    )
    return False


def check_end(weights: NDArray[np.float32], has_best: bool) -> None:
    """Raise TrainingError where the final ``weights`` are not finite and no best ones are kept."""
    if kernels.is_finite(weights):
        return
    if not has_best:
        raise TrainingError(
            "the final weights must be finite, got some that are not; lower the learning rate or "
            "clip gradients (--clip-norm)"
        )
    log.error("the final weights are not finite, the best ones are; lower the learning rate")


class Saver:
    """Writes checkpoints to ``store``; ``identity`` goes into the meta of each.

    One that the disk does not take is logged and the run goes on: the next is tried when it is
    due. ``unsaved`` is the error of the last one, None once a checkpoint has been written.
    """

    def __init__(
        self, store: CheckpointStore, background: Background, identity: dict[str, Any]
    ) -> None:
        self._store = store
        self._background = background
        self._identity = identity
        self._draft: Draft | None = None
        self._left: dict[int, bytes] = {}
        self._writing: Future[Any] | None = None
        self._saved_version = -1
        self.unsaved: CheckpointError | None = None

    def begin(self, draft: Draft) -> set[int]:
        """Start a checkpoint; return the children to ask. None are asked while one is open,
        which ``poll`` may have written before."""
        if self._draft is not None:
            log.warning(
                "epoch %d gets no checkpoint: that of epoch %d still waits for ranks %s",
                draft.epoch,
                self._draft.epoch,
                sorted(self._draft.waiting),
            )
            return set()
        self._draft = draft
        return set(draft.waiting)

    def take(self, child: int, state: bytes, leaves: bool) -> None:
        """A child's local state has come."""
        if self._draft is not None and child in self._draft.waiting:
            self._draft.waiting.discard(child)
            self._draft.states[child] = state
        if leaves:
            self._left[child] = state

    def validated(
        self, epoch: int, history: str, best: NDArray[np.float32] | None, rate: float
    ) -> None:
        """The record of ``epoch`` is complete."""
        if self._draft is not None and self._draft.epoch == epoch:
            self._draft.results = (history, best, rate)

    def poll(self, active: frozenset[int]) -> None:
        """Write the draft if nothing is missing; ``active`` are the children still there."""
        if self._writing is not None and self._writing.done():
            self._settle()
        draft = self._draft
        if draft is None or draft.results is None or draft.waiting & active:
            return
        self._draft = None
        self._write(draft)

    def finish(self, draft: Draft | None) -> None:
        """Write the state at the end of the run, unless it is None or has been written already.

        ``unsaved`` tells afterwards whether the run can be gone on with.
        """
        self.poll(frozenset())
        self._draft = None
        self._settle()
        if draft is not None and draft.version != self._saved_version:
            self._write(draft)
        self._settle()

    def _settle(self) -> None:
        """Wait for the file that is being written and say what became of it."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            log.info("wrote checkpoint %s", writing.result())
            self.unsaved = None
        except CheckpointError as error:
            log.error("%s; the run goes on", error)  # noqa: TRY400 (the reason is in the text)
            self.unsaved = error
            self._saved_version = -1

    def _write(self, draft: Draft) -> None:
        assert draft.results is not None
        history, best, rate = draft.results
        if draft.ranks is not None:
            history = json.dumps(json.loads(history) | {"ranks": draft.ranks}, indent=1)
        arrays = dict(draft.arrays)
        if best is not None:
            arrays["best"] = best
        for state in (self._left | draft.states).values():
            for name, value in unpack_arrays(state).items():  # names begin with a rank
                arrays[f"worker/{name}"] = value
        meta = self._identity | draft.meta
        meta |= {
            "version": draft.version,
            "epoch": draft.epoch,
            "history": history,
            "learning_rate": rate,
        }
        self._settle()
        self._saved_version = draft.version
        checkpoint = Checkpoint(arrays, meta)
        self._writing = self._background.submit(self._store.save, checkpoint, draft.epoch)
