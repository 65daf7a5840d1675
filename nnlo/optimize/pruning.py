"""Which trials are worth more epochs: pure rules on the merits that trials had by epoch.

Smaller merits are better. A rule says how far a trial may train before it asks (``limit``),
what becomes of it then (``judge``) and which paused trial is worth going on (``promoted``).
"""

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Literal, Protocol

from nnlo.errors import ConfigError

Judgement = Literal["continue", "pause", "stop"]
PRUNERS = ("none", "asha", "asha-stop", "median")
"""What ``--pruning`` takes."""


class Curves:
    """Merits by epoch and trial, sorted within an epoch, and which trials are paused there."""

    def __init__(self) -> None:
        self._merits: dict[int, dict[int, float]] = {}
        self._ranked: dict[int, list[tuple[float, int]]] = {}
        self._paused: dict[int, list[tuple[float, int]]] = {}

    def put(self, trial: int, epoch: int, merit: float) -> None:
        """Note the merit of a trial after ``epoch`` epochs; a second one replaces the first."""
        merits = self._merits.setdefault(epoch, {})
        ranked = self._ranked.setdefault(epoch, [])
        if trial in merits:
            del ranked[bisect_left(ranked, (merits[trial], trial))]
        merits[trial] = merit
        insort(ranked, (merit, trial))

    def pause(self, trial: int, epoch: int) -> None:
        """``trial`` rests after ``epoch``, whose merit it has put."""
        insort(self._paused.setdefault(epoch, []), (self.merit(trial, epoch), trial))

    def resume(self, trial: int, epoch: int) -> None:
        """``trial``, paused after ``epoch``, goes on."""
        paused = self._paused[epoch]
        del paused[bisect_left(paused, (self.merit(trial, epoch), trial))]

    def best_paused(self, epoch: int) -> int | None:
        """The trial with the best merit among those that rest after ``epoch``."""
        paused = self._paused.get(epoch)
        return paused[0][1] if paused else None

    def merit(self, trial: int, epoch: int) -> float:
        return self._merits[epoch][trial]

    @property
    def trials(self) -> set[int]:
        """Those that have a merit."""
        return {trial for merits in self._merits.values() for trial in merits}

    def of(self, trial: int) -> dict[int, float]:
        """The merits of ``trial`` by epoch."""
        return {epoch: one[trial] for epoch, one in self._merits.items() if trial in one}

    def best_at(self, epoch: int) -> float | None:
        """The best merit of ``epoch``, None without any."""
        ranked = self._ranked.get(epoch)
        return ranked[0][0] if ranked else None

    def n_at(self, epoch: int) -> int:
        """How many trials have a merit of ``epoch``."""
        return len(self._ranked.get(epoch, ()))

    def place(self, trial: int, epoch: int) -> int:
        """How many trials were better, of equals those with a smaller number."""
        return bisect_left(self._ranked[epoch], (self.merit(trial, epoch), trial))

    def median_of_others(self, trial: int, epoch: int) -> float:
        """The median merit of ``epoch`` without that of ``trial``; there must be another."""
        ranked, place = self._ranked[epoch], self.place(trial, epoch)
        n = len(ranked) - 1
        low, high = (i + (i >= place) for i in ((n - 1) // 2, n // 2))
        return (ranked[low][0] + ranked[high][0]) / 2


class Pruner(Protocol):
    @property
    def epochs(self) -> int:
        """Of a whole trial."""

    def limit(self, trial: int, epoch: int) -> int:
        """Up to which epoch ``trial``, after ``epoch`` epochs, trains before it must wait."""

    def judge(self, trial: int, epoch: int, curves: Curves) -> Judgement:
        """What becomes of a trial that has just put its merit of ``epoch`` into ``curves``."""

    def promoted(self, curves: Curves, is_last: bool) -> int | None:
        """The paused trial to go on with. is_last: no new trials will come."""


def _check(epochs: int) -> None:
    if epochs < 1:
        raise ConfigError(f"trials must have at least 1 epoch, got {epochs}; correct --epochs")


@dataclass(frozen=True)
class Never:
    """Every trial has all its epochs."""

    epochs: int

    def __post_init__(self) -> None:
        _check(self.epochs)

    def limit(self, trial: int, epoch: int) -> int:
        return self.epochs

    def judge(self, trial: int, epoch: int, curves: Curves) -> Judgement:
        return "continue"

    def promoted(self, curves: Curves, is_last: bool) -> int | None:
        return None


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934, algorithm 2).

    Rungs are at ``first * eta**k`` epochs. At a rung a trial is paused, its checkpoint kept,
    unless it is among the best 1/eta of all that reached it; when later ones make it so, it is
    promoted. first: 0 for max(1, epochs / 9). exempt: every so many-th trial trains to the end
    unasked, since low rungs mislead where learning curves cross; 0 for none.

    Departure: when no new trials will come the best 1/eta is rounded up, so that the best
    trial of each rung is promoted and one reaches the end.
    """

    epochs: int
    first: int = 0
    eta: int = 3
    exempt: int = 10
    pauses: bool = True
    """False: a trial that is not among the best 1/eta is stopped for good (ASHA's "stopping"
    form), for which no checkpoints are needed, and nobody waits for a verdict."""

    def __post_init__(self) -> None:
        _check(self.epochs)
        if self.eta < 2 or self.first < 0 or self.exempt < 0:
            raise ConfigError(
                "successive halving must have eta >= 2, a first rung >= 0 and an exempt share "
                f">= 0, got {self.eta}, {self.first}, {self.exempt}; correct them"
            )

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs after which trials are judged, upwards, without the last epoch."""
        rung = self.first or max(1, self.epochs // 9)
        found = []
        while rung < self.epochs:
            found.append(rung)
            rung *= self.eta
        return tuple(found)

    def is_exempt(self, trial: int) -> bool:
        return self.exempt > 0 and trial % self.exempt == self.exempt - 1

    def limit(self, trial: int, epoch: int) -> int:
        if self.is_exempt(trial) or not self.pauses:
            return self.epochs
        return next((rung for rung in self.rungs if rung > epoch), self.epochs)

    def judge(self, trial: int, epoch: int, curves: Curves) -> Judgement:
        if self.is_exempt(trial) or epoch not in self.rungs:
            return "continue"
        share = curves.n_at(epoch) // self.eta
        if curves.place(trial, epoch) < (share if self.pauses else max(1, share)):
            return "continue"
        return "pause" if self.pauses else "stop"

    def promoted(self, curves: Curves, is_last: bool) -> int | None:
        for rung in reversed(self.rungs):
            best = curves.best_paused(rung)
            n = curves.n_at(rung)
            share = -(-n // self.eta) if is_last else n // self.eta
            if best is not None and curves.place(best, rung) < share:
                return best
        return None


@dataclass(frozen=True)
class Median:
    """Stop a trial whose merit is worse than the median of the others' at that epoch.

    Golovin et al. 2017 (Vizier), section 3.1. Merits are those of the best epoch so far where
    the search counts the best epoch. n_trials: no verdict before so many others reached the
    epoch. warm_up: none in the first epochs.
    """

    epochs: int
    n_trials: int = 5
    warm_up: int = 1

    def __post_init__(self) -> None:
        _check(self.epochs)
        if self.n_trials < 1 or self.warm_up < 0:
            raise ConfigError(
                "the median rule must have n_trials >= 1 and warm_up >= 0, got "
                f"{self.n_trials}, {self.warm_up}; correct them"
            )

    def limit(self, trial: int, epoch: int) -> int:
        return self.epochs

    def judge(self, trial: int, epoch: int, curves: Curves) -> Judgement:
        is_due = self.warm_up < epoch < self.epochs  # after the last one there is none to save
        if not is_due or curves.n_at(epoch) <= self.n_trials:
            return "continue"
        is_worse = curves.merit(trial, epoch) > curves.median_of_others(trial, epoch)
        return "stop" if is_worse else "continue"

    def promoted(self, curves: Curves, is_last: bool) -> int | None:
        return None


def make_pruner(name: str, epochs: int) -> Pruner:
    """The rule called ``name`` with its usual settings; ConfigError for an unknown name."""
    if name not in PRUNERS:
        raise ConfigError(f"early stopping must be one of {', '.join(PRUNERS)}, got {name!r}")
    if name == "none":
        return Never(epochs)
    if name == "median":
        return Median(epochs)
    return Asha(epochs, pauses=name == "asha")
