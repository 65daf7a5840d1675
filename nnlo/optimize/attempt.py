"""One part of a trial, trained by an MPIManager on the ranks that it was given."""

import json
import logging
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from nnlo.errors import ModelError, NNLOError, RanksLost, TrainingError
from nnlo.files import write_text
from nnlo.history import History
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi import ulfm
from nnlo.mpi.manager import MPIManager
from nnlo.mpi.plan import Listener
from nnlo.mpi.setup import together
from nnlo.optimize.space import Params
from nnlo.optimize.teller import Measure, Teller, Voice, numbers
from nnlo.optimize.wire import PartEnd, part_from_json

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")

log = logging.getLogger(__name__)

OUTCOME = "outcome.json"
"""Left in the folder of a part that is done, so that nobody trains it again."""

_NO_ROOM = re.compile(
    r"MemoryError|out of memory|\bOOM\b|RESOURCE_EXHAUSTED|ResourceExhausted", re.IGNORECASE
)


@dataclass(frozen=True)
class Part:
    """What a group of ranks is to train.

    comm: theirs, None for a single rank without MPI. folder: of the part. fold: from 0, None
    without folds. refit_epochs, from_epoch: as in ``Order``.
    """

    trial: int
    params: Params
    comm: "MPI.Intracomm | None"
    folder: Path
    fold: int | None = None
    refit_epochs: int = 0
    from_epoch: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks for the part."""
        return self.comm is None or self.comm.rank == 0


class Task(Protocol):
    """What a search trains; the user's side of it."""

    def make_manager(self, part: Part, listeners: Sequence[Listener]) -> MPIManager:
        """The training of ``part``; on each of its ranks. listeners: on the first one."""

    def measure(self, history: History, adapter: ModelAdapter) -> tuple[float, ...]:
        """The merits, smaller being better; nan for what is not known yet."""

    def is_saved(self, epoch: int) -> bool:
        """Whether a training writes a checkpoint after that epoch."""

    def save(self, part: Part, manager: MPIManager, *, is_done: bool) -> Mapping[str, str]:
        """On the first rank, after the training: files by what they are, relative to the folder
        of the search. is_done: False for a trial that was left."""

    def forget(self) -> None:
        """Let go of what the models of a part have taken; on each rank."""


class Attempt:
    """Calls train a part; all its ranks call. Returns its end on the first rank, None elsewhere.

    Only the death of ranks may leave it as an exception.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def __call__(self, part: Part, voice: Voice) -> PartEnd | None:
        end = self._train(part, voice)
        self._task.forget()  # now that nothing holds the model
        return replace(end, fold=part.fold or 0) if part.is_first and end else None

    def _train(self, part: Part, voice: Voice) -> PartEnd | None:
        teller = Teller(self._measure(part), self._task.is_saved, voice, part.from_epoch)
        manager: MPIManager | None = None
        end: PartEnd | None = None
        try:
            found = _all_or_none(part, lambda: self._begin(part, teller))
            if isinstance(found, PartEnd):
                if part.is_first:  # others of its trial may still train
                    about = found.epochs, found.merits, found.metrics
                    voice.report(*about, saved=True, is_last=True)
                return found
            manager = found
            manager.prepare()
            teller.prepared(manager)
            manager.train()
            if part.is_first:
                end = self._end(part, manager, teller)
        except ulfm.PeersLost:
            raise
        except NNLOError as error:
            end = _failed(error, teller.verdict)
        except (Exception, SystemExit):  # code of the user's
            reason = traceback.format_exc()
            end = PartEnd("failed", reason=reason, kind=_kind(reason))
        if end is not None and end.state == "failed" and _has_lost_ranks(part):
            end = replace(end, kind="transient")  # whatever came of that
        return end if manager is None else self._close(manager, end)

    def _begin(self, part: Part, teller: Teller) -> "MPIManager | PartEnd":
        """What trains a part, or how it has ended before; collective."""
        known = self._known(part)
        if known is not None:
            return known
        listeners = [teller] if part.is_first else []

        def make() -> MPIManager:
            part.folder.mkdir(parents=True, exist_ok=True)
            return self._task.make_manager(part, listeners)

        return together(part.comm, make)

    def _known(self, part: Part) -> PartEnd | None:
        """The end of a part that was done before its search was killed."""
        found = together(part.comm, lambda: _read(part.folder) if part.is_first else None)
        if part.comm is not None:
            found = part.comm.bcast(found)
        return found

    def _end(self, part: Part, manager: MPIManager, teller: Teller) -> PartEnd:
        history = manager.history
        assert history is not None
        is_done = teller.is_whole or not (teller.verdict or manager.interrupted)
        files = self._task.save(part, manager, is_done=is_done)
        if not is_done and teller.verdict:
            return PartEnd("left", reason=teller.verdict)
        if not is_done:
            return PartEnd("interrupted", reason=manager.interrupted)
        end = PartEnd(
            "done",
            part.fold or 0,
            merits=self._measure(part)(history, manager.adapter),
            metrics=numbers(history.epochs[-1] if history.epochs else {}),
            epochs=len(history.epochs),
            files=files,
        )
        write_text(part.folder / OUTCOME, json.dumps(asdict(end)))
        return end

    def _measure(self, part: Part) -> Measure:
        """What a training is judged by; one on all data has nothing to be judged on."""
        return (lambda history, adapter: ()) if part.refit_epochs else self._task.measure

    def _close(self, manager: MPIManager, end: PartEnd | None) -> PartEnd | None:
        if manager.abandoned:
            reason = (end.reason if end else "") or "ranks of its block did not end"
            return PartEnd("failed", reason=reason, hangs=True)
        try:
            manager.close()
        except NNLOError as error:
            return _failed(error, "")
        return end


def _all_or_none(part: Part, step: Callable[[], T]) -> T:
    return step() if part.comm is None else ulfm.all_or_none(part.comm, step)


def _has_lost_ranks(part: Part) -> bool:
    return part.comm is not None and bool(ulfm.failed_ranks(part.comm))


def _read(folder: Path) -> PartEnd | None:
    try:
        found = json.loads((folder / OUTCOME).read_text())
        return part_from_json(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s is of no use (%s): trained again", folder / OUTCOME, error)
        return None


def _failed(error: NNLOError, verdict: str) -> PartEnd:
    """kind: what is to be blamed, see ``events.Failed``."""
    if verdict:  # it was not wanted any more
        return PartEnd("left", reason=verdict)
    kinds = {TrainingError: "nan", RanksLost: "transient", ModelError: "infeasible"}
    kind = next((word for one, word in kinds.items() if isinstance(error, one)), "")
    return PartEnd("failed", reason=str(error), kind=kind or _kind(str(error)))


def _kind(reason: str) -> str:
    """Parameters that need more memory than there is are not a mistake of the user's."""
    return "infeasible" if _NO_ROOM.search(reason) else "error"
