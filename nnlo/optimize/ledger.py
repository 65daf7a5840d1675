"""What each block was told and has said: from its messages to the coordinator's events, pure.

A block trains several folds of a trial side by side or one after another; the coordinator knows
trials only. What it hears of one is the mean over the folds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnlo.errors import TrainingError
from nnlo.optimize.events import Event, Failed, Finished, Idle, Interrupted, Reported, Start
from nnlo.optimize.folds import joined
from nnlo.optimize.layout import Layout
from nnlo.optimize.wire import Order, Outcome, PartEnd, Report

MOST_OF_A_REASON = 2_000  # characters, from the end: that of a traceback says most


@dataclass
class _Task:
    """A trial in a block. reports: of each fold by epoch. ended: the last ones of folds that
    have ended. word: the verdict that took it away, empty while it goes on."""

    trial: int
    attempt: int
    started: float
    reports: list[dict[int, Report]]
    n_told: int = 0
    word: str = ""
    ended: dict[int, Report] = field(default_factory=dict)

    def of_fold(self, fold: int, epoch: int) -> Report | None:
        """What a fold has reported of ``epoch``; of later ones than it had, the last."""
        found = self.reports[fold].get(epoch)
        last = self.ended.get(fold)
        return last if found is None and last is not None and last.epoch < epoch else found


class Ledger:
    """One trial a block at most, from ``start`` to ``outcome``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._tasks: dict[int, _Task] = {}
        self._seconds: dict[int, float] = {}  # by trial, of earlier attempts

    def start(self, action: Start, now: float) -> Order:
        """The order for a block."""
        reports: list[dict[int, Report]] = [{} for _ in range(self._layout.n_folds)]
        self._tasks[action.block] = _Task(action.trial, action.attempt, now, reports)
        return Order(action.trial, action.params, action.attempt, action.from_epoch)

    def take_away(self, block: int, trial: int, verdict: str) -> int | None:
        """Note a verdict other than ``continue``; the attempt that it is for."""
        task = self._tasks.get(block)
        if task is None or task.trial != trial:
            return None
        task.word = verdict
        return task.attempt

    def trial_of(self, block: int) -> tuple[int, int] | None:
        """Its trial and attempt."""
        task = self._tasks.get(block)
        return None if task is None else (task.trial, task.attempt)

    def forget(self, block: int) -> None:
        """It is not there any more."""
        self._tasks.pop(block, None)

    def report(self, block: int, report: Report) -> Iterable[Reported]:
        """What the coordinator shall hear, one event after the other."""
        task = self._tasks.get(block)
        if task is None or (task.trial, task.attempt) != (report.trial, report.attempt):
            return
        if self._layout.n_folds > 1 and self._layout.n_at_once == 1:
            yield from self._next_fold(block, task, report)
            return
        task.reports[report.fold][report.epoch] = report
        if report.is_last:
            task.ended[report.fold] = report
        for epoch in sorted(set().union(*task.reports)):
            found = [task.of_fold(fold, epoch) for fold in range(self._layout.n_folds)]
            known = [one for one in found if one is not None]
            if epoch > task.n_told and not task.word and len(known) == len(found):
                task.n_told = epoch
                yield _reported(block, epoch, known)

    def _next_fold(self, block: int, task: _Task, report: Report) -> Iterable[Reported]:
        """Folds one after another: the merit is that of the folds so far."""
        task.ended[report.fold] = report
        if not task.word:
            yield _reported(block, len(task.ended), list(task.ended.values()))

    def outcome(self, block: int, outcome: Outcome, now: float) -> list[Event]:
        """What the coordinator shall hear; the block has no trial then."""
        task = self._tasks.get(block)
        told = outcome.trial, outcome.attempt
        if task is not None and outcome.trial >= 0 and told != (task.trial, task.attempt):
            return []  # of an order before
        self.forget(block)
        if task is None or outcome.trial < 0:
            return [Idle(block)]
        seconds = self._seconds.get(task.trial, 0.0) + now - task.started
        self._seconds[task.trial] = seconds
        states = {part.state for part in outcome.parts}
        is_done = states == {"done"} and len(outcome.parts) == self._layout.n_folds
        if is_done and task.word in ("", "suspend"):
            return [self._finished(block, task, outcome.parts, seconds)]
        if task.word:
            return [Idle(block)]
        bad = [part for part in outcome.parts if part.state == "failed"]
        if bad:
            reason = bad[0].reason[-MOST_OF_A_REASON:]
            return [Failed(block, task.trial, reason, bad[0].kind)]  # type: ignore[arg-type]
        broken = [part for part in outcome.parts if part.state == "interrupted"]
        if broken:
            return [Interrupted(broken[0].reason), Idle(block)]
        return [Failed(block, task.trial, "ranks of its block were lost", "transient")]

    def _finished(
        self, block: int, task: _Task, parts: Sequence[PartEnd], seconds: float
    ) -> Event:
        try:
            merits, spread = _joined([part.merits for part in parts], self._layout.n_folds)
        except TrainingError as error:
            return Failed(block, task.trial, str(error), "nan")
        metrics = dict(_means([part.metrics for part in parts]))
        if len(parts) > 1:
            metrics["spread"] = spread
            metrics |= {f"fold_{i}": part.merits[0] for i, part in enumerate(parts, 1)}
        one_after_another = self._layout.n_folds > 1 and self._layout.n_at_once == 1
        epochs = len(parts) if one_after_another else max(part.epochs for part in parts)
        return Finished(
            block,
            task.trial,
            merits[0],
            merits if len(merits) > 1 else (),
            metrics,
            epochs,
            round(seconds, 3),
            {name: file for part in parts for name, file in part.files.items()},
        )


def _reported(block: int, epoch: int, reports: Sequence[Report]) -> Reported:
    first = reports[0]
    merit = float(np.mean([one.merits[0] for one in reports]))
    saved = all(one.saved for one in reports)
    metrics = _means([one.metrics for one in reports])
    return Reported(block, first.trial, epoch, merit, metrics, saved)


def _joined(merits: Sequence[tuple[float, ...]], n_folds: int) -> tuple[tuple[float, ...], float]:
    """The mean of each merit, and the spread of the first; with one fold as it is."""
    if n_folds == 1:
        return tuple(merits[0]), 0.0
    columns = [joined(column, n_folds) for column in zip(*merits, strict=True)]
    return tuple(column.mean for column in columns), columns[0].spread


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of those that all have."""
    names = [name for name in metrics[0] if all(name in one for one in metrics)]
    return {name: float(np.mean([one[name] for one in metrics])) for name in names}
