"""How good probabilities and predicted distributions are; pure functions of numpy arrays, float64.

Draws of a posterior stand along the first axis; scores of points keep the other axes.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr, ndtri

Floats = NDArray[np.float64]

N_BINS = 15
_LOG_ROOT = 0.5 * math.log(2.0 * math.pi)


def log_normal(y: Floats, mean: Floats, sd: Floats) -> Floats:
    """Logarithm of the normal density at ``y``."""
    return np.asarray(-0.5 * np.square((y - mean) / sd) - np.log(sd) - _LOG_ROOT)


def mixture_nll(log_p: Floats) -> Floats:
    """-log of the mean over the draws of the likelihoods whose logarithms are (draws, ...)."""
    return np.asarray(math.log(len(log_p)) - logsumexp(log_p, axis=0))


def brier(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    """Squared distance (points,) of (points, classes) to the one-hot label: 0 to 2.

    Summed over the classes, as G. W. Brier (1950) has it; others halve or divide it.
    """
    squares = np.square(probabilities).sum(axis=1)
    right = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return np.asarray(squares - 2.0 * right + 1.0)


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in bins: arrays (bins,); a bin without points has nan means.

    Bin b holds the points whose confidence is in (edges[b], edges[b + 1]].
    """

    edges: Floats
    counts: NDArray[np.int64]
    confidence: Floats
    accuracy: Floats

    @property
    def ece(self) -> float:
        """Expected calibration error: mean |accuracy - confidence| of the points' bins.

        C. Guo et al., On calibration of modern neural networks (2017), equation 3.
        """
        gaps = np.abs(self.accuracy - self.confidence)
        total = self.counts.sum()
        return float(np.nansum(gaps * self.counts) / total) if total else math.nan


def reliability(
    confidence: Floats,
    correct: NDArray[Any],
    n_bins: int = N_BINS,
    *,
    equal_mass: bool = False,
) -> Reliability:
    """Bins of equal width between 0 and 1, or of equal numbers of points.

    confidence: (points,) of the predicted class. correct: (points,) whether it is the label.
    """
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    if equal_mass and confidence.size:
        edges[1:-1] = np.quantile(confidence, edges[1:-1])
    places = np.searchsorted(edges[1:-1], confidence, side="left")
    counts = np.bincount(places, minlength=n_bins)
    sums = [np.bincount(places, values, n_bins) for values in (confidence, correct)]
    with np.errstate(invalid="ignore"):
        means = [one / counts for one in sums]
    return Reliability(edges, counts, *means)


def crps_of_mixture(y: Floats, means: Floats, sds: Floats) -> Floats:
    """Continuous ranked probability score of equally likely normals (draws, ...) at ``y`` (...).

    E. P. Grimit et al. (2006), equation 5; in units of ``y``, smaller is better.
    """
    n_draws = len(means)
    near = _mean_distance(y - means, sds).mean(axis=0)
    apart = np.zeros_like(near)
    for one in range(n_draws):
        apart += _mean_distance(np.zeros_like(near), math.sqrt(2.0) * sds[one])
        others = slice(one + 1, None)
        spread = np.hypot(sds[one], sds[others])
        apart += 2.0 * _mean_distance(means[one] - means[others], spread).sum(axis=0)
    return np.asarray(near - 0.5 * apart / n_draws**2)


def _mean_distance(mean: Floats, sd: Floats) -> Floats:
    """E|X| of X ~ N(mean, sd^2)."""
    ratio = mean / sd
    density = np.exp(-0.5 * np.square(ratio)) / math.sqrt(2.0 * math.pi)
    return np.asarray(2.0 * sd * density + mean * (2.0 * ndtr(ratio) - 1.0))


def crps_of_samples(y: Floats, samples: Floats) -> Floats:
    """The same of equally likely values (draws, ...): the empirical distribution's."""
    n_draws = len(samples)
    ranks = np.arange(1, n_draws + 1).reshape(-1, *[1] * (samples.ndim - 1))
    # sum over pairs of |a - b| = 2 sum of (2 i - n - 1) times the i-th smallest
    apart = ((2 * ranks - n_draws - 1) * np.sort(samples, axis=0)).sum(axis=0) / n_draws**2
    return np.asarray(np.abs(samples - y).mean(axis=0) - apart)


def mixture_quantile(share: float, means: Floats, sds: Floats) -> Floats:
    """Quantile 0 < share < 1 of equally likely normals (draws, ...), to 1e-12 of probability.

    Newton's steps within a bracket that is halved where they leave it.
    """
    ends = means + ndtri(share) * sds  # the mixture's is between those of its parts
    low, high = ends.min(axis=0), ends.max(axis=0)
    at = 0.5 * (low + high)
    for _ in range(100):
        ratio = (at - means) / sds
        excess = ndtr(ratio).mean(axis=0) - share
        if np.all((np.abs(excess) < 1e-12) | (high <= low)):
            break
        low, high = np.where(excess < 0.0, at, low), np.where(excess > 0.0, at, high)
        density = (np.exp(-0.5 * np.square(ratio)) / sds).mean(axis=0) / math.sqrt(2.0 * math.pi)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = at - excess / density
        at = np.where((low < step) & (step < high), step, 0.5 * (low + high))
    return np.asarray(at)


def auroc(negatives: Floats, positives: Floats) -> float:
    """Probability that a positive's score is above a negative's, ties counted half.

    nan where one of them is empty.
    """
    n, p = len(negatives), len(positives)
    if n == 0 or p == 0:
        return math.nan
    # Of equal scores each has their mean rank.
    scores = np.concatenate([negatives, positives])
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - 0.5 * (counts - 1))[places]
    return float((ranks[n:].sum() - p * (p + 1) / 2.0) / (n * p))


def aupr(negatives: Floats, positives: Floats) -> float:
    """Average precision: precision at each threshold, weighted by the recall it adds."""
    hits, found = _curve(negatives, positives)
    if not len(positives) or not len(negatives):
        return math.nan
    gained = np.diff(hits, prepend=0.0) / len(positives)
    return float((gained * hits / found).sum())


def fpr_at(negatives: Floats, positives: Floats, recall: float = 0.95) -> float:
    """Share of negatives above the highest threshold that finds ``recall`` of the positives."""
    if not len(positives) or not len(negatives):
        return math.nan
    hits, found = _curve(negatives, positives)
    place = int(np.argmax(hits >= recall * len(positives) * (1.0 - 1e-12)))
    return float((found[place] - hits[place]) / len(negatives))


def _curve(negatives: Floats, positives: Floats) -> tuple[Floats, Floats]:
    """True positives and all points at or above each distinct score, the highest first."""
    scores = np.concatenate([negatives, positives])
    is_hit = np.repeat([0.0, 1.0], [len(negatives), len(positives)])
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0.0, True)  # of each distinct score
    return np.cumsum(is_hit[order])[last], (np.arange(len(scores)) + 1.0)[last]
