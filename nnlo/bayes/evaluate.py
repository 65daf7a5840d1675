"""How good a prediction is, in numbers: the metrics of all points."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.bayes import metrics
from nnlo.bayes.likelihood import Likelihood
from nnlo.bayes.metrics import Floats, Reliability
from nnlo.bayes.posterior import Posterior
from nnlo.bayes.predict import Points, Prediction, Refresh, predict
from nnlo.bayes.summary import COVERAGES
from nnlo.errors import ConfigError
from nnlo.model.adapter import ModelAdapter

if TYPE_CHECKING:
    from mpi4py import MPI

UNCERTAINTIES = ("total", "aleatoric", "epistemic")


@dataclass(frozen=True)
class Report:
    """Metrics by name; those that would need labels are absent without them.

    metrics: means over the points. Classes: accuracy, nll, brier, ece, ece_equal_mass,
    nll_of_one and accuracy_of_one (a single draw, on average). Values: rmse, mae, crps, and
    coverage_90 and width_90 (50, 95) of the central intervals, with a known noise nll,
    nll_matched, nll_of_one. Both: total, aleatoric, epistemic.
    ood: by score (total, epistemic, confidence): auroc, aupr and fpr95 by which it tells
    points from elsewhere, as the positives, from those of the data; None without such points.
    reliability: of classes with labels, in bins of equal width.
    """

    n_points: int
    n_draws: int
    metrics: Mapping[str, float]
    ood: Mapping[str, Mapping[str, float]] | None = None
    reliability: Reliability | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file; what is not a number is None there."""
        content: dict[str, Any] = {
            "n_points": self.n_points,
            "n_draws": self.n_draws,
            "metrics": _numbers(self.metrics),
        }
        if self.ood is not None:
            content["ood"] = {name: _numbers(one) for name, one in self.ood.items()}
        if self.reliability is not None:
            table = self.reliability
            content["reliability"] = {
                "edges": table.edges.tolist(),
                "counts": table.counts.tolist(),
                "confidence": [_number(one) for one in table.confidence],
                "accuracy": [_number(one) for one in table.accuracy],
            }
        return content


def evaluate(
    posterior: Posterior,
    adapter: ModelAdapter,
    likelihood: Likelihood,
    points: Points,
    *,
    ood: Points | None = None,
    samples: int | None = None,
    comm: "MPI.Intracomm | None" = None,
    refresh: Refresh | None = None,
) -> Report | None:
    """Predict ``points``, and ``ood`` from elsewhere, and judge that; see ``predict``."""
    found = [
        None
        if one is None
        else predict(
            posterior,
            adapter,
            likelihood,
            one,
            samples=samples,
            comm=comm,
            quantiles=(),
            refresh=refresh,
        )
        for one in (points, ood)
    ]
    return None if found[0] is None else judge(found[0], found[1])


def judge(prediction: Prediction, ood: Prediction | None = None) -> Report:
    """The metrics of a prediction. ood: of points that the model should be unsure of."""
    scores = {name: float(prediction[name].mean()) for name in UNCERTAINTIES}
    table = None
    if prediction.has_labels and prediction.kind == "classes":
        table = metrics.reliability(prediction["confidence"], prediction["correct"])
        scores |= _scores_of_classes(prediction, table)
    elif prediction.has_labels:
        scores |= _scores_of_values(prediction)
    away = None if ood is None else _told_apart(prediction, ood)
    return Report(len(prediction), prediction.n_draws, scores, away, table)


def _scores_of_classes(prediction: Prediction, table: Reliability) -> dict[str, float]:
    confidence, correct = prediction["confidence"], prediction["correct"]
    mass = metrics.reliability(confidence, correct, equal_mass=True)
    return {
        "accuracy": _mean(correct),
        "nll": _mean(prediction["nll"]),
        "brier": _mean(prediction["brier"]),
        "ece": table.ece,
        "ece_equal_mass": mass.ece,
        "accuracy_of_one": _mean(prediction["correct_of_one"]),
        "nll_of_one": _mean(prediction["nll_of_one"]),
    }


def _scores_of_values(prediction: Prediction) -> dict[str, float]:
    scores = {
        "rmse": math.sqrt(_mean(prediction["squared_error"])),
        "mae": _mean(prediction["absolute_error"]),
        "crps": _mean(prediction["crps"]),
    }
    for percent in COVERAGES:
        scores[f"coverage_{percent}"] = _mean(prediction[f"inside_{percent}"])
        scores[f"width_{percent}"] = _mean(prediction[f"width_{percent}"])
    known = [name for name in ("nll", "nll_matched", "nll_of_one") if name in prediction.columns]
    return scores | {name: _mean(prediction[name]) for name in known}


def _told_apart(inside: Prediction, outside: Prediction) -> dict[str, dict[str, float]]:
    if inside.kind != outside.kind:
        raise ConfigError(
            f"both predictions must be of one model, got {inside.kind} and {outside.kind}"
        )
    found = {}
    for name in ("total", "epistemic", *(["confidence"] if inside.kind == "classes" else [])):
        sign = -1.0 if name == "confidence" else 1.0  # the sure ones are those of the data
        negatives, positives = (sign * _per_point(one[name]) for one in (inside, outside))
        found[name] = {
            "auroc": metrics.auroc(negatives, positives),
            "aupr": metrics.aupr(negatives, positives),
            "fpr95": metrics.fpr_at(negatives, positives),
        }
    return found


def _per_point(column: Floats) -> Floats:
    return column if column.ndim == 1 else np.asarray(column.mean(axis=1))


def _mean(column: Floats) -> float:
    return float(column.mean())


def _numbers(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(one) for name, one in scores.items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
