"""When to end a run: early stopping and target metrics, as functions of the history."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from nnlo.errors import ConfigError

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
)
_REWARDS = ("acc", "auc", "precision", "recall", "f1", "r2", "top_k")
_ALIASES = MappingProxyType({"acc": "accuracy"})


def metric_name(name: str, known: Sequence[str]) -> str:
    """The history's name of a metric, by its present or an old name.

    ``val_acc`` is understood, and of a model with several networks ``net:metric``,
    ``net:val_metric`` and ``val_net/metric``. Raises ConfigError, listing ``known``, for a
    metric that the run does not have.
    """
    given = name.strip().replace(":", "/")
    network, slash, metric = given.rpartition("/")
    is_val = given.startswith("val_") or metric.startswith("val_")
    prefix = "val_" if is_val else ""
    network, metric = network.removeprefix("val_"), metric.removeprefix("val_")
    for bare in (metric, _ALIASES.get(metric, metric)):
        full = f"{prefix}{network}{slash}{bare}"
        if full in known:
            return full
    remedy = ""
    if is_val and not any(other.startswith("val_") for other in known):
        remedy = "; there is no validation data, give --val-data"
    raise ConfigError(f"metric must be one of {', '.join(known)}, got {name!r}{remedy}")


def larger_is_better(metric: str) -> bool:
    """True for accuracies and the like, False for losses and errors."""
    bare = metric.rpartition("/")[2]  # without the network's name
    return any(word in bare for word in _REWARDS)


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a metric has got no better.

    smoothed (``~``): stop once the mean over the last ``patience`` epochs is worse than the
    mean over the ``patience`` epochs before them. Else: stop once ``patience`` epochs have
    brought nothing better, by at least ``min_delta``, than the best before them.
    sign: +1 where larger is worse (a loss), -1 where smaller is worse.
    """

    metric: str
    sign: float
    patience: int
    smoothed: bool = False
    min_delta: float = 0.0

    @classmethod
    def parse(cls, text: str, known: Sequence[str]) -> "EarlyStopping":
        """``"metric,[~]<|>,patience[,min_delta]"``; ``<`` for a loss, ``>`` for an accuracy."""
        fields = [entry.strip() for entry in text.split(",")]
        form = f'early stopping must read "metric,[~]<,patience[,min_delta]", got {text!r}'
        if len(fields) not in (3, 4) or fields[1] not in ("<", ">", "~<", "~>"):
            raise ConfigError(f'{form}; for example "val_loss,~<,4"')
        try:
            patience, min_delta = int(fields[2]), float(fields[3]) if len(fields) == 4 else 0.0
        except ValueError:
            raise ConfigError(f"{form}; patience is a whole number of epochs") from None
        if patience < 1 or not min_delta >= 0.0:
            raise ConfigError(f"{form}; patience is at least 1 epoch, min_delta at least 0")
        smoothed = fields[1].startswith("~")
        if smoothed and len(fields) == 4:
            raise ConfigError(f"{form}; min_delta does not go with ~")
        sign = 1.0 if fields[1].endswith("<") else -1.0
        return cls(metric_name(fields[0], known), sign, patience, smoothed, min_delta)

    def reached(self, values: Sequence[float]) -> bool:
        """Whether the run should stop, given the metric's value of every epoch so far."""
        p = self.patience
        costs = [math.inf if math.isnan(v) else self.sign * v for v in values]
        if self.smoothed:
            return len(costs) >= 2 * p and math.fsum(costs[-p:]) > math.fsum(costs[-2 * p : -p])
        return len(costs) > p and min(costs[-p:]) >= min(costs[:-p]) - self.min_delta

    def __str__(self) -> str:
        return f"early stopping: {self.metric} got no better for {self.patience} epochs"


@dataclass(frozen=True)
class Target:
    """Stop when a metric has reached a value."""

    metric: str
    operator: str
    value: float

    @classmethod
    def parse(cls, text: str, known: Sequence[str]) -> "Target":
        """``"metric,<|>|<=|>=,value"``."""
        fields = [entry.strip() for entry in text.split(",")]
        form = f'target must read "metric,>,value", got {text!r}; for example "val_acc,>,0.97"'
        if len(fields) != 3 or fields[1] not in _OPERATORS:
            raise ConfigError(form)
        try:
            value = float(fields[2])
        except ValueError:
            raise ConfigError(form) from None
        if not math.isfinite(value):
            raise ConfigError(form)
        return cls(metric_name(fields[0], known), fields[1], value)

    def reached(self, values: Sequence[float]) -> bool:
        return bool(values) and _OPERATORS[self.operator](values[-1], self.value)

    def __str__(self) -> str:
        return f"target reached: {self.metric} {self.operator} {self.value:g}"
