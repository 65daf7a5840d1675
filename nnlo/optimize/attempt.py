"""One part of a trial, trained by an MPIManager on the ranks that it was given."""

import json
import logging
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from nnlo.errors import ModelError, NNLOError, RanksLost, TrainingError
from nnlo.files import write_text
from nnlo.history import History, Record
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi import ulfm
from nnlo.mpi.manager import MPIManager
from nnlo.mpi.master import Master
from nnlo.mpi.plan import Listener
from nnlo.mpi.root import Root
from nnlo.mpi.setup import together
from nnlo.optimize.space import Params
from nnlo.optimize.wire import PartEnd, part_from_json

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")

log = logging.getLogger(__name__)

OUTCOME = "outcome.json"
"""Left in the folder of a part that is done, so that nobody trains it again."""

Measure = Callable[[History, ModelAdapter], tuple[float, ...]]

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


class Voice(Protocol):
    """How the first rank of a part speaks with rank 0 of the search."""

    def report(
        self,
        epoch: int,
        merits: Sequence[float],
        metrics: Mapping[str, float],
        *,
        saved: bool = False,
        is_last: bool = False,
    ) -> None: ...

    def verdict(self) -> str:
        """Why the part must be left, empty while it goes on; asked again and again."""


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
        return end if manager is None else self._close(manager, end)

    def _begin(self, part: Part, teller: "Teller") -> "MPIManager | PartEnd":
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

    def _end(self, part: Part, manager: MPIManager, teller: "Teller") -> PartEnd:
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
            metrics=_numbers(history.epochs[-1] if history.epochs else {}),
            epochs=len(history.epochs),
            files=files,
        )
        write_text(part.folder / OUTCOME, json.dumps(asdict(end)))
        return end

    def _measure(self, part: Part) -> "Measure":
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


class Teller:
    """Listens to a training: reports its merits, and ends it when it is told to.

    from_epoch: what came before is known to rank 0; what a restored training did after it is
    told when it goes on. Epochs without the validation that the others have are passed over.
    """

    def __init__(
        self,
        measure: "Measure",
        is_saved: Callable[[int], bool],
        voice: Voice,
        from_epoch: int = 0,
    ) -> None:
        self.verdict = ""
        self._measure = measure
        self._is_saved = is_saved
        self._voice = voice
        self._from_epoch = from_epoch
        self._manager: MPIManager | None = None
        self._root: Root | None = None
        self._master: Master | None = None
        self._last: tuple[int, tuple[float, ...], dict[str, float]] | None = None

    def prepared(self, manager: MPIManager) -> None:
        """The training is about to begin."""
        self._manager = manager

    @property
    def is_whole(self) -> bool:
        """Whether the last epoch is over and its merit known."""
        assert self._manager is not None
        return self._last is not None and self._last[0] >= self._manager.settings.num_epochs

    def begin(self, root: Root, master: Master) -> None:
        self.goes_on(root, master)
        epochs = root.history.epochs
        for n, record in enumerate(epochs, 1):
            if record["epoch"] > self._from_epoch:
                self._tell(replace(root.history, epochs=epochs[:n]), is_saved=True)

    def goes_on(self, root: Root, master: Master) -> None:
        self._root, self._master = root, master

    def epoch_began(self, epoch: int) -> None: ...

    def updated(self, version: int, n_samples: int, logs: Record) -> None:
        self._obey()

    def epoch_ended(self, epoch: int, record: Record) -> None:
        assert self._root is not None
        self._tell(self._root.history, is_saved=self._is_saved(record["epoch"]))
        self._obey()

    def _tell(self, history: History, *, is_saved: bool) -> None:
        """Report the last epoch of ``history``."""
        assert self._root is not None
        assert self._manager is not None
        record = history.epochs[-1]
        if not all(name in record for name in self._root.metric_names):
            return
        merits = self._measure(history, self._manager.adapter)
        self._last = record["epoch"], merits, _numbers(record)
        if not self.verdict:
            self._voice.report(*self._last, saved=is_saved)

    def end(self) -> None:
        if self._last is not None and not self.verdict:
            self._voice.report(*self._last, saved=True, is_last=True)

    def _obey(self) -> None:
        assert self._root is not None
        assert self._master is not None
        if self.verdict or self.is_whole:  # what is done is not thrown away
            return
        if verdict := self._voice.verdict():
            self.verdict = verdict
            self._root.leave(self._master, f"search: {verdict}")


def _all_or_none(part: Part, step: Callable[[], T]) -> T:
    return step() if part.comm is None else ulfm.all_or_none(part.comm, step)


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


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a record of an epoch."""
    work = ("epoch", "samples", "version", "staleness")
    return {
        name: float(value)
        for name, value in record.items()
        if name not in work and isinstance(value, int | float)
    }
