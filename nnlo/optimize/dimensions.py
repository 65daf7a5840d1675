"""One hyper-parameter each: its values, and where they stand on the unit interval.

``to_unit`` and ``from_unit`` speak of one value, ``spread`` and ``snap`` of a column of many.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ConfigError

Value = int | float | str | bool | None
"""What a hyper-parameter may be: JSON knows it, and numpy's scalars are not among it."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Real:
    """Numbers from ``low`` to ``high``, both included; evenly in their logarithm if ``log``."""

    name: str
    low: float
    high: float
    log: bool = False

    width = 1  # columns on the unit interval
    size = math.inf  # how many different values

    def __post_init__(self) -> None:
        _check_ends(self, math.isfinite(self.low) and math.isfinite(self.high))

    def holds(self, value: Any) -> bool:
        return is_number(value) and self.low <= value <= self.high

    def to_unit(self, value: Any) -> list[float]:
        low, high = self._ends()
        return [min(1.0, max(0.0, (self._scaled(value) - low) / (high - low)))]

    def from_unit(self, unit: Array) -> float:
        low, high = self._ends()
        found = low + float(unit[0]) * (high - low)
        return min(self.high, max(self.low, math.exp(found) if self.log else found))

    def spread(self, uniform: Array) -> Array:
        return uniform[:, None]

    def snap(self, units: Array) -> Array:
        return np.clip(units, 0.0, 1.0)

    def neighbours(self, value: Any) -> list[Value]:
        """None: a number moves along its column."""
        return []

    def to_json(self) -> dict[str, Any]:
        about = {"name": self.name, "kind": "real", "low": self.low, "high": self.high}
        return {**about, "log": self.log}

    def _ends(self) -> tuple[float, float]:
        return self._scaled(self.low), self._scaled(self.high)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else float(value)


@dataclass(frozen=True)
class Integer:
    """Whole numbers from ``low`` to ``high``, both included.

    Each has a bin of the unit interval, as wide as any other or, if ``log``, as wide as
    ``log((value + 1/2) / (value - 1/2))``, and stands in the middle of it.
    """

    name: str
    low: int
    high: int
    log: bool = False

    width = 1

    def __post_init__(self) -> None:
        _check_ends(self, type(self.low) is int and type(self.high) is int)

    @property
    def size(self) -> float:
        return float(self.high - self.low + 1)

    def holds(self, value: Value) -> bool:
        return type(value) is int and self.low <= value <= self.high

    def to_unit(self, value: Any) -> list[float]:
        return [float(x) for x in self._centers(np.array([value], float))]

    def from_unit(self, unit: Array) -> int:
        return int(self._values(np.asarray(unit, float))[0])

    def spread(self, uniform: Array) -> Array:
        return self.snap(uniform[:, None])

    def snap(self, units: Array) -> Array:
        return self._centers(self._values(units))

    def neighbours(self, value: Any) -> list[Value]:
        """The values next to ``value``."""
        return [near for near in (value - 1, value + 1) if self.holds(near)]

    def to_json(self) -> dict[str, Any]:
        about = {"name": self.name, "kind": "integer", "low": self.low, "high": self.high}
        return {**about, "log": self.log}

    def _edge(self, value: Any) -> Any:
        return np.log(value) if self.log else value

    def _values(self, units: Array) -> Array:
        low, high = self._edge(self.low - 0.5), self._edge(self.high + 0.5)
        found = low + units * (high - low)
        values = np.rint(np.exp(found) if self.log else found)
        return np.asarray(np.clip(values, self.low, self.high))

    def _centers(self, values: Array) -> Array:
        low, high = self._edge(self.low - 0.5), self._edge(self.high + 0.5)
        middle = (self._edge(values - 0.5) + self._edge(values + 0.5)) / 2
        return np.asarray((middle - low) / (high - low))


@dataclass(frozen=True)
class Categorical:
    """One of ``categories``, without an order; one column for each (one-hot).

    weights: how often ``Space.sample`` draws each, of sum 1; None for equally often.
    """

    name: str
    categories: tuple[Value, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.categories)
        for value in self.categories:
            if not isinstance(value, int | float | str | None) or value != value:
                raise ConfigError(
                    f"categories of {self.name} must be numbers, texts, booleans or None, got "
                    f"{value!r}; name them by a text and look that up in get_model"
                )
        if not n or len(set(self.categories)) < n:
            raise ConfigError(
                f"categories of {self.name} must differ, got {list(self.categories)}; "
                "give each once"
            )
        weights = self.weights
        if weights is not None and (
            len(weights) != n or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6
        ):
            raise ConfigError(
                f"the prior of {self.name} must be {n} numbers >= 0 of sum 1, got "
                f"{list(weights)}; correct it or leave it out"
            )

    @property
    def width(self) -> int:
        return len(self.categories)

    @property
    def size(self) -> float:
        return float(len(self.categories))

    def holds(self, value: Value) -> bool:
        return any(value == one and type(value) is type(one) for one in self.categories)

    def to_unit(self, value: Any) -> list[float]:
        return [float(i == self.categories.index(value)) for i in range(self.width)]

    def from_unit(self, unit: Array) -> Value:
        return self.categories[int(np.argmax(unit))]

    def spread(self, uniform: Array) -> Array:
        ends = np.cumsum(self.weights or np.full(self.width, 1 / self.width))[:-1]
        found = np.searchsorted(ends, uniform, side="right")
        return np.asarray(np.eye(self.width)[found])

    def snap(self, units: Array) -> Array:
        return np.asarray(np.eye(self.width)[np.argmax(units, axis=1)])

    def neighbours(self, value: Any) -> list[Value]:
        """All the others."""
        return [one for one in self.categories if one != value]

    def to_json(self) -> dict[str, Any]:
        about = {"name": self.name, "kind": "categorical", "categories": list(self.categories)}
        return about if self.weights is None else {**about, "weights": list(self.weights)}


Dimension = Real | Integer | Categorical


def plain(value: Any) -> Any:
    """``value`` without numpy: scalars as Python's own, all else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def is_number(value: Any) -> bool:
    """Whether ``value`` is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_ends(dimension: Real | Integer, is_right: bool) -> None:
    low, high, name = dimension.low, dimension.high, dimension.name
    if not is_right or not low < high:
        raise ConfigError(
            f"the range of {name} must go from a number up to a larger one, got {low} to {high}; "
            "exchange them, or leave the parameter out of the search to fix it"
        )
    if dimension.log and low <= 0:
        raise ConfigError(
            f"a logarithmic range must begin above 0, got {low} to {high} for {name}; "
            "raise its low end or leave out log"
        )
