"""k-fold cross-validation: which samples are held out in which fold, and one merit of many.

Folds are meant for the training list. The validation list stays out of them: the search never
looks at it, so it can still judge the winner. Who has no such use for it hands over both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ConfigError, TrainingError

# First word of the seeds, apart from those of the orders in which an epoch reads (data.shards).
_FOLDS = 4

_CONFIDENCE = 0.975
"""Of the bound in ``is_hopeless``, one-sided."""


@dataclass(frozen=True)
class Folds:
    """Each sample is held out in exactly one fold, in which the others are for training.

    counts: samples of each file. fold_of: unsigned, shape (sum(counts),): the fold that holds
    out each sample, samples counted through the files in order. Equal arguments give equal
    folds on every rank, whatever the model and the trial.
    """

    n_folds: int
    counts: tuple[int, ...]
    fold_of: NDArray[Any]

    @classmethod
    def over_samples(
        cls,
        counts: Sequence[int],
        n_folds: int,
        *,
        seed: int = 0,
        classes: NDArray[np.int64] | None = None,
    ) -> "Folds":
        """Folds whose sizes differ by at most one; with ``classes`` in each class as well.

        classes: shape (sum(counts),), the class of each sample; None: not stratified.
        Raises ConfigError unless 2 <= n_folds <= samples.
        """
        n_samples = sum(counts)
        _check(n_folds, n_samples, "samples")
        if classes is not None and classes.shape != (n_samples,):
            raise ConfigError(
                f"classes must be one a sample, got {classes.shape} for {n_samples} samples; "
                "read them from the same files"
            )
        order = np.random.default_rng([_FOLDS, seed]).permutation(n_samples)
        if classes is not None:
            order = order[np.argsort(classes[order], kind="stable")]
        # One deal through all classes: a class takes up where the last one left off.
        return cls(n_folds, tuple(counts), _dealt(order, n_folds))

    @classmethod
    def over_files(cls, counts: Sequence[int], n_folds: int, *, seed: int = 0) -> "Folds":
        """Folds of whole files, whose numbers differ by at most one: for files that differ,
        as runs or patients do. Raises ConfigError unless 2 <= n_folds <= files with samples.
        """
        sizes = np.asarray(counts, np.int64)
        _check(n_folds, int(np.count_nonzero(sizes)), "files with samples")
        order = np.random.default_rng([_FOLDS, seed]).permutation(len(sizes))
        order = order[np.argsort(sizes[order] == 0, kind="stable")]
        return cls(n_folds, tuple(counts), np.repeat(_dealt(order, n_folds), sizes))

    def held_out(self, fold: int) -> NDArray[np.bool_]:
        """Which samples validate ``fold``, in [0, n_folds); the others train it."""
        if not 0 <= fold < self.n_folds:
            raise ConfigError(
                f"fold must be in [0, {self.n_folds}), got {fold}; number the folds from 0"
            )
        held_out: NDArray[np.bool_] = self.fold_of == fold
        return held_out


class Joined(NamedTuple):
    """The merit of a trial: ``mean`` of its folds. spread: their standard deviation, with n-1."""

    mean: float
    spread: float
    values: tuple[float, ...]


def joined(values: Sequence[float | None], n_folds: int) -> Joined:
    """Join the merits of all folds, in order; None is a fold that failed, 0.0 is a merit.

    Raises TrainingError unless all ``n_folds`` have a finite merit: then the trial has failed.
    """
    finite = tuple(float(one) for one in values if one is not None and math.isfinite(one))
    if len(values) != n_folds or len(finite) != n_folds:
        raise TrainingError(
            f"a trial must have a finite merit from each of its {n_folds} folds, got "
            f"{', '.join(map(str, values)) or 'none'}; see the reason in the log of the fold"
        )
    return Joined(float(np.mean(finite)), float(np.std(finite, ddof=1)), finite)


def is_hopeless(
    values: Sequence[float],
    n_folds: int,
    best: float | None,
    known: Sequence[Sequence[float]] = (),
) -> bool:
    """Whether the mean of ``n_folds`` will hardly come below ``best``, so the rest can be left.

    values: merits of this trial's folds so far. best: lowest mean of a whole trial, None before
    there is one. known: merits of folds by earlier trial; only their spread within a trial
    counts. With m of k values, whose mean is x, the mean of all k lies above
    x - t s sqrt((k - m) / (k m)) with a probability of 0.975 if the merits of a trial scatter
    normally around one value; s is the spread within trials, pooled over this one and the known
    ones, t the quantile of Student's distribution for its degrees of freedom. Without two
    folds of any one trial there is no spread, and the answer is False.

    Departure: folds of one trial share training samples, so they are less independent than
    that; the bound is a rule of thumb, not a test.
    """
    if best is None or not values:
        return False
    groups = [np.asarray(one, np.float64) for one in (values, *known) if len(one) > 1]
    freedom = sum(len(one) - 1 for one in groups)
    if freedom == 0:
        return False
    squares = sum(float(np.sum((one - one.mean()) ** 2)) for one in groups)
    m = len(values)
    deviation = math.sqrt(squares / freedom * max(0, n_folds - m) / (n_folds * m))
    from scipy.special import stdtrit  # takes as long as all else of a rank that only trains

    reach = float(stdtrit(freedom, _CONFIDENCE)) * deviation
    return float(np.mean(values)) - reach > best


def _check(n_folds: int, n_most: int, what: str) -> None:
    if not 2 <= n_folds <= n_most:
        raise ConfigError(
            f"folds must be at least 2 and at most the {n_most} {what}, got {n_folds}; "
            "correct --n-fold or give more data"
        )


def _dealt(order: NDArray[np.int64], n_folds: int) -> NDArray[Any]:
    """The fold of each item, dealt out in ``order``."""
    folds = np.empty(len(order), np.min_scalar_type(n_folds - 1))
    folds[order] = np.arange(len(order)) % n_folds
    return folds
