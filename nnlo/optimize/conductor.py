"""Carries out what the coordinator decides: into the log first, then to the blocks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from nnlo.optimize.coordinator import Coordinator
from nnlo.optimize.events import (
    BlockLost,
    Dismiss,
    End,
    Event,
    Failed,
    Finished,
    Idle,
    Interrupted,
    Start,
    Tick,
    Verdict,
    Write,
)
from nnlo.optimize.layout import Layout
from nnlo.optimize.ledger import Ledger
from nnlo.optimize.optuna_mirror import Mirror
from nnlo.optimize.study import Study
from nnlo.optimize.trials import Record, Trials
from nnlo.optimize.wire import Order, Outcome, Report, Word

Hear = Callable[[Record, Trials], None]
"""Is told of each record of the log and of the trials after it."""


class Outlet(Protocol):
    """The way to the blocks."""

    def order(self, block: int, order: Order) -> None: ...

    def word(self, block: int, word: Word) -> None: ...

    def dismiss(self, block: int) -> None: ...


class Conductor:
    """Between the coordinator and whatever brings messages to blocks. hear: see ``Hear``.

    clock: in seconds; limits on time count from now.
    """

    def __init__(
        self,
        layout: Layout,
        coordinator: Coordinator,
        study: Study,
        mirror: Mirror,
        hear: Hear,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_over = False
        self.reason = ""
        """Why the search has ended."""
        self.interrupted = ""
        """What has ended it before its time, such as a signal."""
        self._coordinator = coordinator
        self._study = study
        self._mirror = mirror
        self._hear = hear
        self._clock = clock
        self._began = clock()
        self._ledger = Ledger(layout)

    @property
    def trials(self) -> Trials:
        return self._study.trials

    def close(self) -> None:
        """Propose no more."""
        self._coordinator.close()

    def _now(self) -> float:
        return self._clock() - self._began

    def tell(self, event: Event, outlet: Outlet) -> None:
        """Something has happened: write down what follows, then let it be known."""
        now = self._now()
        if isinstance(event, Interrupted):
            self.interrupted = self.interrupted or event.reason
        actions = self._coordinator.handle(event, now)
        writes = [action.record for action in actions if isinstance(action, Write)]
        if writes:
            for record in self._study.append(*writes):
                self._mirror.follow(record)
                self._hear(record, self._study.trials)
        for action in actions:
            match action:
                case Start():
                    outlet.order(action.block, self._ledger.start(action, now))
                case Verdict():
                    self._pass_on(action, outlet)
                case Dismiss(block):
                    outlet.dismiss(block)
                case End(reason):
                    self.is_over, self.reason = True, reason

    def _pass_on(self, action: Verdict, outlet: Outlet) -> None:
        if action.verdict == "continue":
            return  # a block goes on unless it is told otherwise
        attempt = self._ledger.take_away(action.block, action.trial, action.verdict)
        if attempt is not None:
            outlet.word(action.block, Word(action.trial, attempt, action.verdict))

    def report(self, block: int, report: Report, outlet: Outlet) -> None:
        """A part of a block's trial has reported."""
        for event in self._ledger.report(block, report):
            self.tell(event, outlet)

    def conclude(self, block: int, outcome: Outcome, outlet: Outlet) -> None:
        """A block has ended its order, or is there for the first time."""
        for event in self._ledger.outcome(block, outcome, self._now()):
            self.tell(_last(event, outcome) if outcome.leaves else event, outlet)

    def lose(self, block: int, reason: str, outlet: Outlet, *, returns: bool) -> None:
        """The leader of a block is dead; returns: others of it will speak."""
        self._ledger.forget(block)
        self.tell(BlockLost(block, reason, returns), outlet)

    def tick(self, outlet: Outlet) -> None:
        """Time has passed."""
        self.tell(Tick(), outlet)


def _last(event: Event, outcome: Outcome) -> Event:
    """What ``event`` is of a block that takes no other trial."""
    if isinstance(event, Finished):
        return replace(event, leaves=True)
    if isinstance(event, Failed) and any(part.hangs for part in outcome.parts):
        return replace(event, kind="timeout", leaves=True)  # nor shall another block hang
    if isinstance(event, Failed | Idle):
        return BlockLost(event.block, _why(outcome))
    return event


def _why(outcome: Outcome) -> str:
    reasons: Sequence[str] = [part.reason for part in outcome.parts if part.reason]
    return f"what was left of its block cannot train it: {reasons[0] if reasons else 'too few'}"
