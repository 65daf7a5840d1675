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
        return _is_number(value) and self.low <= value <= self.high

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
        return self.high - self.low + 1

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
        return len(self.categories)

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


def from_json(about: dict[str, Any]) -> Dimension:
    """The dimension whose ``to_json`` gave ``about``; ConfigError for anything else."""
    fields = dict(about)
    kind = fields.pop("kind", None)
    try:
        if kind == "categorical":
            weights = fields.pop("weights", None)
            fields["categories"] = tuple(fields["categories"])
            return Categorical(**fields, weights=None if weights is None else tuple(weights))
        kinds: dict[Any, type[Real | Integer]] = {"real": Real, "integer": Integer}
        return kinds[kind](**fields)
    except (KeyError, TypeError) as error:
        raise ConfigError(
            "a dimension must be written as Dimension.to_json writes it, got "
            f"{about}; the file is damaged or of another version"
        ) from error


def from_text(text: str) -> Dimension:
    """``name=low:high``, ``name=low:high:log`` or ``name=a,b,c``, as ``--tune`` takes it.

    A range is one of integers where both ends are written as such (0:1, against 0.0:1.0).
    Categories are read as integers, numbers, true, false or none where they look so.
    """
    name, equals, values = text.partition("=")
    name = name.strip()
    parts = [part.strip() for part in values.split(":")]
    if equals and name.isidentifier() and values.strip():
        if "," in values or len(parts) == 1:
            categories = (_literal(part) for part in values.split(","))
            return Categorical(name, tuple(categories))
        ends = [_literal(part) for part in parts[:2]]
        if parts[2:] in ([], ["log"]) and all(_is_number(end) for end in ends):
            low, high = ends
            if isinstance(low, int) and isinstance(high, int):
                return Integer(name, low, high, bool(parts[2:]))
            return Real(name, float(low or 0), float(high or 0), bool(parts[2:]))
    raise ConfigError(
        "what to tune must read name=low:high, name=low:high:log or name=a,b,c, got "
        f"{text!r}; for example learning_rate=1e-4:1e-1:log"
    )


def from_skopt(given: Any, name: str | None) -> Dimension:
    """The dimension that skopt has as ``given``, or in its short form: (low, high), [a, b].

    name: for a dimension without one. Raises ConfigError where there is none, or where skopt
    does not know such a dimension.
    """
    from skopt.space import Categorical as SkoptCategorical
    from skopt.space import Integer as SkoptInteger
    from skopt.space import check_dimension

    try:
        found = check_dimension(given)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"a parameter's range must be a skopt dimension, got {given!r} ({error}); "
            "for example Real(1e-4, 1e-1, prior='log-uniform', name='learning_rate')"
        ) from error
    name = found.name or name
    if not name:
        raise ConfigError(f"a parameter's range must have a name, got {given!r}; add name=...")
    if isinstance(found, SkoptCategorical):
        categories = tuple(plain(value) for value in found.categories)
        prior = found.prior
        weights = None if prior is None else tuple(float(one) for one in prior)
        return Categorical(name, categories, weights)
    is_log = found.prior == "log-uniform"
    if isinstance(found, SkoptInteger):
        return Integer(name, int(found.low), int(found.high), is_log)
    return Real(name, float(found.low), float(found.high), is_log)


def to_skopt(dimension: Dimension) -> Any:
    """The same as a dimension of skopt, with its name."""
    from skopt import space

    name = dimension.name
    if isinstance(dimension, Categorical):
        return space.Categorical(list(dimension.categories), prior=dimension.weights, name=name)
    kind = space.Real if isinstance(dimension, Real) else space.Integer
    prior = "log-uniform" if dimension.log else "uniform"
    return kind(dimension.low, dimension.high, prior=prior, name=name)


def plain(value: Any) -> Any:
    """``value`` without numpy: scalars as Python's own, all else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _literal(text: str) -> Value:
    text = text.strip()
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_ends(dimension: Real | Integer, is_number: bool) -> None:
    low, high, name = dimension.low, dimension.high, dimension.name
    if not is_number or not low < high:
        raise ConfigError(
            f"the range of {name} must go from a number up to a larger one, got {low} to {high}; "
            "exchange them, or leave the parameter out of the search to fix it"
        )
    if dimension.log and low <= 0:
        raise ConfigError(
            f"a logarithmic range must begin above 0, got {low} to {high} for {name}; "
            "raise its low end or leave out log"
        )
