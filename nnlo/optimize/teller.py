"""Between the training of a part and rank 0 of its search: what is told, and what is obeyed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnlo.history import History, Record
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi.manager import MPIManager
from nnlo.mpi.master import Master
from nnlo.mpi.root import Root
from nnlo.optimize.wire import Order, Report

Measure = Callable[[History, ModelAdapter], tuple[float, ...]]
"""The merits of a training so far."""


class Voice:
    """How the first rank of a part speaks with rank 0 of the search.

    tell: brings a report there. ask: why the part must be left, empty while it goes on.
    """

    def __init__(
        self, order: Order, fold: int, tell: Callable[[Report], None], ask: Callable[[], str]
    ) -> None:
        self._order = order
        self._fold = fold
        self._tell = tell
        self.verdict = ask

    def report(
        self,
        epoch: int,
        merits: Sequence[float],
        metrics: Mapping[str, float],
        *,
        saved: bool = False,
        is_last: bool = False,
    ) -> None:
        """The part has come to ``epoch``; the rest as in ``wire.Report``."""
        trial, attempt = self._order.trial, self._order.attempt
        args = (trial, attempt, self._fold, epoch, tuple(merits), dict(metrics))
        self._tell(Report(*args, saved, is_last))

    def quiet(self) -> "Voice":
        """One that hears as much and says nothing."""
        return Voice(self._order, self._fold, lambda report: None, self.verdict)


class Teller:
    """Listens to a training: reports its merits, and ends it when it is told to.

    from_epoch: what came before is known to rank 0; what a restored training did after it is
    told when it goes on. Epochs without the validation that the others have are passed over.
    """

    def __init__(
        self,
        measure: Measure,
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
        self._last = record["epoch"], merits, numbers(record)
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


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a record of an epoch."""
    work = ("epoch", "samples", "version", "staleness")
    return {
        name: float(value)
        for name, value in record.items()
        if name not in work and isinstance(value, int | float)
    }
