"""Updates that are not finite: who made them does not send them, but says so."""

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nnlo.errors import TrainingError
from nnlo.history import History
from nnlo.mpi.frame import Flag, Frame

log = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """One such update. rank: whose. epoch, batch: the last in it, from 1. norm: of its vector,
    finite where only the loss was not. joint: whether it was that of a whole ring of ranks,
    which their leader reports."""

    rank: int
    epoch: int
    batch: int
    n_samples: int
    n_steps: int
    norm: float
    joint: bool = False

    def __str__(self) -> str:
        whose = "the mean over its ring" if self.joint else "its update"
        if math.isfinite(self.norm):
            what = f"the loss of {whose} was not finite"
        else:
            what = f"{whose} was not finite"
        where = f"in epoch {self.epoch}, batch {self.batch}"
        return f"rank {self.rank}: {what} (norm {self.norm:.4g}) {where}"


def pack_refusals(refusals: Sequence[Refusal]) -> bytes:
    """What a message with Flag.REFUSED has behind its vector, before a state; none: nothing."""
    if not refusals:
        return b""
    numbers = [float(x) for one in refusals for x in one]
    return np.array([len(refusals), *numbers]).tobytes()


def read_extra(frame: Frame) -> tuple[list[Refusal], bytes]:
    """The refusals in a message, and its local state, which is empty where it has none."""
    data = frame.extra.tobytes()
    if not data or not frame.header.flags & Flag.REFUSED:
        return [], data
    n_fields = len(Refusal._fields)
    count = int(np.frombuffer(data, np.float64, 1)[0])
    rows = np.frombuffer(data, np.float64, count * n_fields, 8).reshape(count, n_fields)
    refusals = []
    for *whole, norm, joint in rows:
        rank, epoch, batch, n_samples, n_steps = (int(x) for x in whole)
        refusals.append(Refusal(rank, epoch, batch, n_samples, n_steps, float(norm), bool(joint)))
    return refusals, data[8 * (1 + count * n_fields) :]


class RefusalBook:
    """Counts refusals at the root. ``limit``: of messages in a row that bring nothing else."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_a_row = 0
        self._by_rank: dict[int, int] = {}
        self.last: Refusal | None = None

    def applied(self) -> None:
        """An update has been applied."""
        self._in_a_row = 0

    def note(self, refusals: Sequence[Refusal], history: History, version: int) -> None:
        """Count those of one message before weights ``version``. TrainingError at the limit.

        Warned of are the 1st, 2nd, 4th, 8th ... of each rank.
        """
        for one in refusals:
            count_refusal(history, one)
            count = self._by_rank[one.rank] = self._by_rank.get(one.rank, 0) + 1
            if count & (count - 1) == 0:
                log.warning("an update was refused: %s; refused %d so far", one, count)
            self.last = one
        self._in_a_row += 1
        if self._in_a_row >= self._limit:
            raise self._error(f"{self._in_a_row} in a row that are not", version)

    def check(self, version: int) -> None:
        """Raise TrainingError where a run ends in which nothing was ever applied."""
        if self._in_a_row and version == 0:
            raise self._error("none that is", version)

    def _error(self, got: str, version: int) -> TrainingError:
        return TrainingError(
            f"updates must be finite, got {got} at version {version}, the last from {self.last}; "
            "lower the learning rate, clip gradients (--clip-norm) or look for bad values in the "
            "data"
        )


def count_refusal(history: History, refusal: Refusal) -> None:
    """Add it to the rows of its rank."""
    history.count_refused(refusal.rank, refusal.epoch)
