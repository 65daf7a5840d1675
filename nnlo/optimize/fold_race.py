"""Folds of a trial one after another: the rest is left once the trial is hopeless."""

from dataclasses import dataclass

from nnlo.optimize.folds import is_hopeless
from nnlo.optimize.pruning import Curves, Judgement


@dataclass(frozen=True)
class FoldRace:
    """A rule like those of ``pruning`` that counts folds instead of epochs: the merit of a trial
    after m folds is their mean. It is stopped when ``folds.is_hopeless`` says so."""

    epochs: int
    """Folds of a trial."""

    def limit(self, trial: int, epoch: int) -> int:
        return self.epochs

    def judge(self, trial: int, epoch: int, curves: Curves) -> Judgement:
        if epoch >= self.epochs:
            return "continue"
        known = [_values(curves.of(other)) for other in curves.trials if other != trial]
        best = curves.best_at(self.epochs)
        values = _values(curves.of(trial))[:epoch]
        return "stop" if is_hopeless(values, self.epochs, best, known) else "continue"

    def promoted(self, curves: Curves, is_last: bool) -> int | None:
        return None


def _values(means: dict[int, float]) -> list[float]:
    """The merits of the folds, of which ``means`` are the means by the number of folds."""
    totals = [means[m] * m for m in sorted(means)]
    return [total - before for total, before in zip(totals, [0.0, *totals], strict=False)]
