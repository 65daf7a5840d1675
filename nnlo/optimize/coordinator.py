"""Who trains what next: every decision of a search, as a pure function of what happened.

``Coordinator.handle(event, now)`` answers an event by actions, to be carried out in their order.
It sends nothing, writes nothing and reads no clock. A ``Write`` stands before the actions that
rest on it: a log that holds it tells of everything that blocks were told. From those records
another coordinator goes on. The searcher sees results in their order and no times, so equal
results in equal order bring equal proposals. With ``Limits.n_ahead`` a thread makes them, for
which ``handle`` may have to wait, but which has no other effect.

A block is free after Idle, Finished and Failed. One that was told ``pause``, ``suspend`` or
``stop`` says Idle next; after Interrupted it may also have finished meanwhile. Each Reported is
answered by one Verdict at once. Which trial is next is the matter of ``choice``.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from nnlo.optimize.choice import Choice
from nnlo.optimize.events import (
    NO_BLOCK,
    Action,
    BlockLost,
    Dismiss,
    End,
    Event,
    Failed,
    Finished,
    Idle,
    Interrupted,
    Limits,
    Reported,
    Start,
    Verdict,
    Write,
)
from nnlo.optimize.pruning import Pruner
from nnlo.optimize.roster import Roster
from nnlo.optimize.searcher import Searcher
from nnlo.optimize.trials import Record, Trial, Trials


class Coordinator:
    """past: records of the search so far, without what was in flight being lost: those trials
    are given out first, each from its newest checkpoint."""

    def __init__(
        self, searcher: Searcher, limits: Limits, pruner: Pruner, past: Iterable[Record] = ()
    ) -> None:
        past = list(past)
        self.trials = Trials(past)
        self.reason = ""
        """Why nothing new is started any more; empty while the search goes on."""
        self.is_over = False
        self._limits = limits
        self._pruner = pruner
        self._choice = Choice(searcher, pruner, limits, self.trials, past)
        self._roster = Roster()
        self._actions: list[Action] = []
        for trial in self.trials.rows:
            self._aim(trial)

    def handle(self, event: Event, now: float = 0.0) -> list[Action]:
        """What follows from ``event`` at ``now`` seconds; after End nothing but Dismiss."""
        self._actions = []
        match event:
            case Idle(block):
                self._on_idle(block)
            case Reported(block, trial) if self._roster.has(block, trial):
                self._on_report(event, now)
            case Reported(block, trial):
                is_suspended = self._roster.may_finish(block, trial)
                verdict = Verdict(block, trial, "suspend" if is_suspended else "stop")
                self._actions.append(verdict)
            case Finished(block, trial):
                if self._roster.may_finish(block, trial):
                    self._on_finish(event)
                self._free(block, leaves=event.leaves)
            case Failed(block, trial):
                if self._roster.has(block, trial):
                    self._on_failure(event)
                self._free(block, leaves=event.leaves)
            case BlockLost():
                self._on_death(event)
            case Interrupted(reason):
                self._on_interrupt(reason)
        self._look_at(now)
        self._give(now)
        return self._actions

    def close(self) -> None:
        """Leave no thread behind; End has done it already."""
        self._choice.close()

    @property
    def n_idle(self) -> int:
        """Blocks that wait for one."""
        return len(self._roster.idle)

    def _write(self, event: str, **fields: Any) -> None:
        record = {"event": event, **fields}
        self.trials.apply(record)
        self._actions.append(Write(record))

    def _on_idle(self, block: int) -> None:
        if block in self._roster.busy:
            self._lose(block, "its block gave it up without a word")
        self._roster.free(block)

    def _on_report(self, event: Reported, now: float) -> None:
        block, number, epoch = event.block, event.trial, event.epoch
        if not math.isfinite(event.merit):
            self._fail(number, f"its merit was {event.merit} after epoch {epoch}", "nan")
            self._let_go(Verdict(block, number, "stop"))
            return
        trial = self.trials[number]
        judgement = self._choice.judge(trial, epoch, event.merit)
        is_whole = epoch >= self._pruner.epochs
        if judgement == "continue" and now >= self._limits.deadline and not is_whole:
            judgement = "suspend"
        limit = max(trial.limit, self._pruner.limit(number, epoch))
        if judgement != "continue":
            limit = epoch
        self._write(
            "reported",
            trial=number,
            epoch=epoch,
            merit=float(event.merit),
            metrics=_plain(event.metrics),
            saved=event.saved,
            verdict=judgement,
            to_epoch=limit,
        )
        self._aim(trial)
        if judgement == "continue":
            self._actions.append(Verdict(block, number, judgement, limit))
            return
        if judgement == "pause":
            self._choice.pause(number, epoch)
        elif judgement == "suspend":
            self._choice.wait(number)
        self._let_go(Verdict(block, number, judgement))

    def _let_go(self, verdict: Verdict) -> None:
        may_finish = verdict.trial if verdict.verdict == "suspend" else None
        self._roster.leave(verdict.block, may_finish)
        self._actions.append(verdict)

    def _on_finish(self, event: Finished) -> None:
        bad = [merit for merit in (event.merit, *event.merits) if not math.isfinite(merit)]
        if bad:
            self._fail(event.trial, f"its merit was {bad[0]}", "nan")
            return
        trial = self.trials[event.trial]
        self._write(
            "finished",
            trial=trial.number,
            merit=float(event.merit),
            merits=[float(merit) for merit in event.merits],
            metrics=_plain(event.metrics),
            epochs=event.epochs or self._pruner.epochs,
            seconds=event.seconds,
            files=dict(event.files),
        )
        self._aim(trial)

    def _aim(self, trial: Trial) -> None:
        target = self._limits.target
        if target is not None and trial.merit is not None and trial.merit <= target:
            self._stop(f"trial {trial.number} reached the target: {trial.merit:g} <= {target:g}")

    def _stop(self, reason: str) -> None:
        self.reason = self.reason or reason

    def _on_failure(self, event: Failed) -> None:
        trial = self.trials[event.trial]
        if event.kind == "transient" and trial.n_lost < self._limits.max_moves:
            self._lose(event.block, event.reason)
        else:
            self._fail(event.trial, event.reason, event.kind)

    def _fail(self, number: int, reason: str, kind: str) -> None:
        attempt = self.trials[number].attempts
        self._write("failed", trial=number, reason=reason, kind=kind, attempt=attempt)
        self._stop(self._limits.broken_by(self.trials))

    def _on_death(self, event: BlockLost) -> None:
        block = event.block
        if block in self._roster.busy:
            self._lose(block, event.reason)
        self._roster.remove(block)
        if event.returns:
            self._roster.leave(block)
        self._look_for_blocks()

    def _free(self, block: int, *, leaves: bool) -> None:
        if leaves:
            self._roster.remove(block)
            self._look_for_blocks()
        else:
            self._roster.free(block)

    def _look_for_blocks(self) -> None:
        if self._roster.is_empty and not (self._roster.stuck or self._is_done):
            self._stop(NO_BLOCK)

    def _lose(self, block: int, reason: str) -> None:
        """Take the trial of a block back."""
        number, _ = self._roster.busy[block]
        self._roster.remove(block)
        self._write("lost", trial=number, block=block, reason=reason)
        if self.trials[number].n_lost > self._limits.max_moves:
            n = self.trials[number].n_lost
            self._fail(number, f"{n} blocks were lost with it, the last time: {reason}", "lost")
        else:
            self._choice.wait(number)

    def _on_interrupt(self, reason: str) -> None:
        self._stop(reason)
        for block, (number, _) in list(self._roster.busy.items()):
            self._write("suspended", trial=number, block=block, reason=reason)
            self._choice.wait(number)
            self._roster.leave(block, number)
            self._actions.append(Verdict(block, number, "suspend"))

    def _look_at(self, now: float) -> None:
        if now >= self._limits.deadline:
            self._stop("the time for the search is over")
        for block, number in self._roster.overdue(now, self._limits.trial_s):
            self._fail(number, f"it took more than {self._limits.trial_s:g} s", "timeout")
            self._roster.hang(block)
            self._actions.append(Verdict(block, number, "stop"))

    def _give(self, now: float) -> None:
        """Work for free blocks while there is any; the end when nothing more can come."""
        roster = self._roster
        while roster.idle and not self.reason:
            number = self._next()
            if number is None:
                break
            self._start(roster.start(number, now), number)
        if self.is_over or self.reason or self._is_done:
            for block in list(roster.idle):
                self._actions.append(Dismiss(block))
                roster.remove(block)
            if roster.is_empty and not self.is_over:
                self._end()

    def _end(self) -> None:
        self._stop(
            "the space is exhausted" if self._choice.is_exhausted else "all trials are done"
        )
        self.is_over = True
        self.close()
        self._actions += [Dismiss(block) for block in sorted(self._roster.stuck)]
        self._write("ended", reason=self.reason)
        self._actions.append(End(self.reason))

    @property
    def _is_done(self) -> bool:
        """Whether no event can bring new work; only asked when there is none now."""
        return not self._roster.busy and self._choice.is_done

    def _next(self) -> int | None:
        """The trial to start."""
        while not self.reason:
            number = self._choice.waiting()
            if number is None:
                return self._choice.next(self._write)
            n = self.trials[number].n_interrupted
            if n <= self._limits.max_moves:
                return number
            self._fail(number, f"the search ended {n} times under it, without a report", "lost")
        return None

    def _start(self, block: int, number: int) -> None:
        trial = self.trials[number]
        start = trial.saved_epoch
        limit = max(trial.limit, self._pruner.limit(number, trial.epochs))
        attempt = trial.attempts + 1
        self._write(
            "started",
            trial=number,
            block=block,
            attempt=attempt,
            from_epoch=start,
            to_epoch=limit,
        )
        self._actions.append(Start(block, number, trial.params, attempt, start, limit))


def _plain(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """What JSON can hold: Python's numbers; None for those that are not finite."""
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
