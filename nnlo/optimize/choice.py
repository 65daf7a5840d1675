"""Which trial is next: one that lost its block, a paused one that is worth more, a new one."""

from collections import deque
from collections.abc import Callable
from typing import Literal

from nnlo.optimize.fidelity import at_the_end
from nnlo.optimize.pruning import Curves, Pruner
from nnlo.optimize.searcher import Searcher
from nnlo.optimize.trials import Trial, Trials


class Choice:
    """trials: the table of its coordinator, to which it keeps the merits by epoch."""

    def __init__(self, searcher: Searcher, pruner: Pruner, n_trials: int, trials: Trials) -> None:
        self.curves = Curves()
        self.is_exhausted = False
        """Whether the searcher has nothing left to propose."""
        self._searcher = searcher
        self._pruner = pruner
        self._n_trials = n_trials
        self._trials = trials
        self._waiting: deque[int] = deque()
        for trial in trials.rows:
            self._adopt(trial)

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
        return self.is_exhausted or len(self._trials) >= self._n_trials

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
        told, running = at_the_end(self._trials), self._trials.unanswered
        params = self._searcher.ask(number, told, running)
        if params is None:
            self.is_exhausted = True
            return None
        write("asked", trial=number, params=params, told=len(told), running=list(running))
        return number
