"""Statistics of each point from all draws of a posterior; pure functions of numpy arrays.

Columns by name, one row a point. Everything is float64, classes and labels int64.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.bayes import metrics
from nnlo.bayes.metrics import Floats

Columns = dict[str, NDArray[Any]]

QUANTILES = (0.05, 0.25, 0.75, 0.95)
COVERAGES = (50, 90, 95)
"""Shares in percent, of the intervals whose coverage is scored."""


def summarise_classes(log_p: Floats, quantiles: Sequence[float] = QUANTILES) -> Columns:
    """Columns of log-probabilities (draws, points, classes); entropies are in nats.

    (points, classes): probability (mean of the draws), median, min, max, std (of the draws,
    divided by their number), quantile_0.05, ... of each class's probability.
    (points,): prediction (the likeliest class), confidence (its probability), total = H[mean p],
    aleatoric = mean H[p], epistemic = total - aleatoric >= 0, the mutual information of label
    and weights (S. Depeweg et al., 2018, equation 8).
    """
    p = np.exp(log_p)
    mean = p.mean(axis=0)
    total = entropy(mean)
    aleatoric = np.minimum(entropy(p).mean(axis=0), total)  # above it by rounding only
    prediction = mean.argmax(axis=1)
    return {
        "prediction": prediction,
        "confidence": np.take_along_axis(mean, prediction[:, None], axis=1)[:, 0],
        "total": total,
        "aleatoric": aleatoric,
        "epistemic": total - aleatoric,
        "probability": mean,
        **_spread(p, quantiles),
    }


def score_classes(log_p: Floats, labels: NDArray[np.int64]) -> Columns:
    """Columns (points,): label, correct, nll (of the mean probability), brier; of a single draw
    on average: nll_of_one, correct_of_one."""
    mean = np.exp(log_p).mean(axis=0)
    own = np.take_along_axis(log_p, labels[None, :, None], axis=2)[:, :, 0]
    return {
        "label": labels,
        "correct": mean.argmax(axis=1) == labels,
        "nll": metrics.mixture_nll(own),
        "brier": metrics.brier(mean, labels),
        "nll_of_one": -own.mean(axis=0),
        "correct_of_one": (log_p.argmax(axis=2) == labels).mean(axis=0),
    }


def entropy(p: Floats) -> Floats:
    """Entropy in nats over the last axis."""
    return np.asarray(-(p * np.log(np.where(p > 0.0, p, 1.0))).sum(axis=-1))


def summarise_values(
    means: Floats, sds: Floats | None, quantiles: Sequence[float] = QUANTILES
) -> Columns:
    """Columns (points, targets) of means and standard deviations (draws, points, targets).

    mean, median, min, max, std: of the draws' means. quantile_0.05, ...: of the prediction,
    noise included. Variances, in squared units of the labels: aleatoric = mean of the noise,
    epistemic = variance of the means, total = their sum (S. Depeweg et al., 2018, equation 11).
    sds: None where no noise is known; then aleatoric is 0.
    """
    epistemic = means.var(axis=0)
    aleatoric = np.zeros_like(epistemic) if sds is None else np.square(sds).mean(axis=0)
    columns: Columns = {
        "mean": means.mean(axis=0),
        "total": aleatoric + epistemic,
        "aleatoric": aleatoric,
        "epistemic": epistemic,
        **_spread(means, ()),
    }
    for share in quantiles:
        columns[f"quantile_{share:g}"] = predictive_quantile(share, means, sds)
    return columns


def score_values(means: Floats, sds: Floats | None, labels: Floats) -> Columns:
    """label (points, targets), and means over the targets (points,).

    squared_error and absolute_error of the mean; crps; inside_90 and width_90 (50, 95): whether
    the label is in the central interval of that share, and its width. Where a noise is known,
    with its density: nll of the mixture, nll_matched of the normal of equal mean and variance,
    nll_of_one of a single draw on average.
    """
    mean = means.mean(axis=0)
    error = labels - mean
    columns: Columns = {
        "squared_error": np.square(error),
        "absolute_error": np.abs(error),
        "crps": _crps(labels, means, sds),
    }
    for percent in COVERAGES:
        tail = 0.5 - percent / 200.0
        low, high = (predictive_quantile(one, means, sds) for one in (tail, 1.0 - tail))
        columns[f"inside_{percent}"] = (low <= labels) & (labels <= high)
        columns[f"width_{percent}"] = high - low
    if sds is not None:
        log_p = metrics.log_normal(labels, means, sds)
        spread = np.sqrt(np.square(sds).mean(axis=0) + means.var(axis=0))
        columns["nll"] = metrics.mixture_nll(log_p)
        columns["nll_matched"] = -metrics.log_normal(labels, mean, spread)
        columns["nll_of_one"] = -log_p.mean(axis=0)
    return {"label": labels, **{name: one.mean(axis=1) for name, one in columns.items()}}


def predictive_quantile(share: float, means: Floats, sds: Floats | None) -> Floats:
    """Quantile of the prediction; of the draws' means alone where no noise is known."""
    if sds is None:
        return np.asarray(np.quantile(means, share, axis=0))
    return metrics.mixture_quantile(share, means, sds)


def _crps(labels: Floats, means: Floats, sds: Floats | None) -> Floats:
    if sds is None:
        return metrics.crps_of_samples(labels, means)
    return metrics.crps_of_mixture(labels, means, sds)


def _spread(values: Floats, quantiles: Sequence[float]) -> Columns:
    columns: Columns = {
        "median": np.median(values, axis=0),
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "std": values.std(axis=0),
    }
    if quantiles:
        found = np.quantile(values, quantiles, axis=0)
        columns |= {f"quantile_{q:g}": one for q, one in zip(quantiles, found, strict=True)}
    return columns
