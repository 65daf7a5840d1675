"""A search in one process: trials one after another, without messages."""

from collections.abc import Callable

from nnlo.optimize.block import Trainer
from nnlo.optimize.conductor import Conductor
from nnlo.optimize.events import Idle, Interrupted
from nnlo.optimize.teller import Voice
from nnlo.optimize.wire import Order, Outcome, PartEnd, Report, Word

BLOCK = 1


class Alone:
    """Stands where ``Desk`` does among many ranks; the trainer is called in its place."""

    hung: frozenset[int] = frozenset()

    def __init__(
        self, conductor: Conductor, trainer: Trainer, is_interrupted: Callable[[], str]
    ) -> None:
        self._conductor = conductor
        self._trainer = trainer
        self._is_interrupted = is_interrupted
        self._order: Order | None = None
        self._word = ""
        self._is_told = False  # of the interruption

    def run(self) -> None:
        """Until the search is over."""
        self._conductor.tell(Idle(BLOCK), self)
        while self._order is not None:
            order, self._order, self._word = self._order, None, ""
            parts = tuple(self._trainer.train(None, order, self._speak))
            self._look()
            self._conductor.conclude(BLOCK, Outcome(order.trial, order.attempt, parts), self)

    def finish(self, refit: Order | None = None) -> PartEnd | None:
        """The end of ``refit``, which is trained now."""
        if refit is None or self._is_interrupted():
            return None

        def ask() -> str:
            return "suspend" if self._is_interrupted() else ""

        voice = Voice(refit, 0, lambda report: None, ask)  # nobody follows this one
        return self._trainer.train(None, refit, lambda *_: voice)[0]

    def order(self, block: int, order: Order) -> None:
        self._order = order

    def word(self, block: int, word: Word) -> None:
        self._word = word.verdict

    def dismiss(self, block: int) -> None: ...

    def _look(self) -> None:
        """See what has happened beside the training."""
        if not self._is_told and (reason := self._is_interrupted()):
            self._is_told = True
            self._conductor.tell(Interrupted(reason), self)

    def _speak(self, order: Order, fold: int) -> Voice:
        return Voice(order, fold, self._hear, self._obey)

    def _hear(self, report: Report) -> None:
        self._conductor.report(BLOCK, report, self)

    def _obey(self) -> str:
        """What a training must know now."""
        self._look()
        self._conductor.tick(self)
        return self._word
