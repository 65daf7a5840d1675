"""The number that a search minimises, out of the history of a training."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnlo.errors import ConfigError
from nnlo.mpi.stopping import metric_name

Epochs = Sequence[Mapping[str, Any]]
"""One object of metrics an epoch, in order, as ``History.epochs``."""

POLICIES = ("best", "last")

_TERM = re.compile(r"(?P<one>1-)?(?P<metric>[^\s:,]+?)(:(?P<way>min|max))?")


@dataclass(frozen=True)
class Term:
    """One merit: a metric, its negative where more is better, or one minus it."""

    metric: str
    sign: float = 1.0
    offset: float = 0.0

    @classmethod
    def from_text(cls, text: str) -> "Term":
        """``val_loss``, ``1-val_acc``, ``val_auc:max``; raises ConfigError for another form."""
        match = _TERM.fullmatch(text.strip())
        if match is None or (match["one"] and match["way"] == "max"):
            raise ConfigError(
                "a merit must read METRIC, METRIC:min, METRIC:max or 1-METRIC, got "
                f"{text!r}; for example --merit val_loss or --merit 1-val_acc"
            )
        if match["one"]:
            return cls(match["metric"], -1.0, 1.0)
        return cls(match["metric"], -1.0 if match["way"] == "max" else 1.0)

    def of(self, epoch: Mapping[str, Any]) -> float:
        """The merit of one epoch, nan where it has no number for it."""
        value = epoch.get(self.metric)
        return math.nan if value is None else self.offset + self.sign * float(value)


@dataclass(frozen=True)
class Merit:
    """terms: one, or several for a Pareto front. policy: whether the epoch counts in which the
    first term was best, or the last one. Epochs without validation are passed over."""

    terms: tuple[Term, ...]
    policy: str = "best"

    def __post_init__(self) -> None:
        names = [(one.metric, one.sign) for one in self.terms]
        if not names or len(set(names)) < len(names):
            raise ConfigError("merits must differ, got one twice or none; name each once")
        if self.policy not in POLICIES:
            raise ConfigError(
                f"the epoch that counts must be one of {', '.join(POLICIES)}, got {self.policy!r}"
            )

    @classmethod
    def from_text(cls, text: str, policy: str = "best") -> "Merit":
        """Terms between commas, as ``--merit`` takes them."""
        return cls(tuple(Term.from_text(part) for part in text.split(",")), policy)

    def of(self, epochs: Epochs) -> tuple[float, ...]:
        """All merits at the epoch that counts; nan for those that are not numbers there.

        Raises ConfigError for a metric that no epoch has.
        """
        for term in self.terms:
            self._check(term.metric, epochs)
        having = [epoch for epoch in epochs if all(one.metric in epoch for one in self.terms)]
        if not having:
            return (math.nan,) * len(self.terms)
        chosen = having[-1]
        if self.policy == "best":
            chosen = min(having, key=lambda epoch: _nan_last(self.terms[0].of(epoch)))
        return tuple(term.of(chosen) for term in self.terms)

    def renamed(self, epochs: Epochs) -> "Merit":
        """With the names that ``epochs`` have for the metrics: ``val_acc`` is ``val_accuracy``.

        Raises ConfigError for a metric that they do not have.
        """
        every = dict.fromkeys(name for epoch in epochs for name in epoch)
        known = [name for name in every if _is_metric(name)]
        terms = [
            one if one.metric in every else replace(one, metric=metric_name(one.metric, known))
            for one in self.terms
        ]
        return replace(self, terms=tuple(terms))

    def _check(self, metric: str, epochs: Epochs) -> None:
        every = dict.fromkeys(name for epoch in epochs for name in epoch)
        known = [name for name in every if _is_metric(name)]
        if epochs and metric not in every:
            raise ConfigError(
                f"a merit must be made of metrics of the training, {', '.join(known) or 'none'}, "
                f"got {metric!r}; name one of them by --merit"
                + (", or give validation data" if metric.startswith("val_") else "")
            )


def default_merit(metrics: Iterable[str]) -> str:
    """``1-val_acc`` where the training has an accuracy, else ``val_loss``, else ``loss``."""
    names = list(metrics)
    for name in ("val_acc", "val_accuracy"):
        if name in names:
            return f"1-{name}"
    return "val_loss" if "val_loss" in names else "loss"


def own_merit(function: Callable[[Any], Any], history: Any) -> tuple[float, ...]:
    """What the user's ``figure_of_merit`` says of ``history``, a number or several.

    Raises ConfigError for anything else; what the function raises goes through.
    """
    answer = function(history)
    several = answer if isinstance(answer, Sequence) else (answer,)
    try:
        if isinstance(answer, str):
            raise TypeError("a text")  # noqa: TRY301
        merits = tuple(float(one) for one in several)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "figure_of_merit must return a number or several, smaller being better, got "
            f"{answer!r}; correct the model file"
        ) from error
    if not merits:
        raise ConfigError("figure_of_merit must return a number, got none; correct the model file")
    return merits


def _is_metric(name: str) -> bool:
    """Whether a field of an epoch is a result, not a measure of the work."""
    work = ("epoch", "samples", "time_s", "samples_per_s", "version", "staleness")
    return name not in (*work, "learning_rate")


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
