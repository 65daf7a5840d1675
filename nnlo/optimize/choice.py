"""Which trial is next: one that lost its block, a paused one that is worth more, a new one."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from nnlo.optimize.ahead import Ahead, Orders
from nnlo.optimize.events import Limits
from nnlo.optimize.fidelity import at_the_end
from nnlo.optimize.pruning import Curves, Pruner
from nnlo.optimize.searcher import Searcher
from nnlo.optimize.trials import Record, Trial, Trials


class Choice:
    """trials: the table of its coordinator, made of ``past``."""

    def __init__(
        self,
        searcher: Searcher,
        pruner: Pruner,
        limits: Limits,
        trials: Trials,
        past: Sequence[Record],
    ) -> None:
        self.curves = Curves()
        self.is_exhausted = False
        """Whether the searcher has nothing left to propose."""
        self._ahead = Ahead(searcher, in_thread=limits.n_ahead > 0)
        self._pruner = pruner
        self._limits = limits
        self._trials = trials
        self._waiting: deque[int] = deque()
        for trial in trials.rows:
            self._adopt(trial)
        orders = Orders.left_open(past)
        for number in orders:
            self._ahead.order(number, *orders.of(number))

    def close(self) -> None:
        """No proposals are made any more, and no thread for them is left."""
        self._ahead.close()

    def _adopt(self, trial: Trial) -> None:
        """Take over what the past has left."""
        for epoch, merit in trial.curve.items():
            self.curves.put(trial.number, epoch, merit)
        if trial.state in ("waiting", "running"):
            self.wait(trial.number)
        elif trial.state == "paused":
            self.pause(trial.number, trial.epochs)

    def wait(self, number: int) -> None:
        """A trial that has lost its block is in the queue for another."""
        self._waiting.append(number)

    def waiting(self) -> int | None:
        """The first in the queue, which leaves it."""
        return self._waiting.popleft() if self._waiting else None

    def pause(self, number: int, epoch: int) -> None:
        """A trial rests after ``epoch``, whose merit was judged."""
        self.curves.pause(number, epoch)

    def judge(
        self, trial: Trial, epoch: int, merit: float
    ) -> Literal["continue", "pause", "stop", "suspend"]:
        """A trial that was lost and repeats an epoch was judged there already."""
        is_repeated = epoch in trial.curve
        self.curves.put(trial.number, epoch, merit)
        if is_repeated:
            return "continue"
        return self._pruner.judge(trial.number, epoch, self.curves)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to give, and no trial that runs on could change that."""
        return not self._waiting and self._is_last and self._promotion() is None

    def next(self, write: Callable[..., None]) -> int | None:
        """A promoted or a new trial, of which ``write`` makes a record; None: there is none."""
        promoted = self._promoted()
        if promoted is not None:
            return promoted
        asked = self._ask(write)
        # Without any new ones to come, more of the paused may go on.
        return self._promoted() if asked is None else asked

    @property
    def _is_last(self) -> bool:
        """Whether there will be no new trials."""
        return self.is_exhausted or len(self._trials) >= self._limits.n_trials

    def _promoted(self) -> int | None:
        number = self._promotion()
        if number is not None:
            self.curves.resume(number, self._trials[number].epochs)
        return number

    def _promotion(self) -> int | None:
        return self._pruner.promoted(self.curves, self._is_last)

    def _ask(self, write: Callable[..., None]) -> int | None:
        number = len(self._trials)
        if self._is_last:
            return None
        if number not in self._ahead:
            self._order(number)
        params, about = self._ahead.take(number)
        if params is None:
            self.is_exhausted = True
            return None
        write("asked", trial=number, params=params, **about)
        end = min(number + 1 + self._limits.n_ahead, self._limits.n_trials)
        for later in range(number + 1, end):
            if later not in self._ahead:
                write("ordered", trial=later)
                self._order(later)
        return number

    def _order(self, number: int) -> None:
        self._ahead.order(number, at_the_end(self._trials), self._trials.unanswered)
