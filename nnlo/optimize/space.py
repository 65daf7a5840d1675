"""The hyper-parameters of a search, and their place in the unit cube."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnlo.errors import ConfigError
from nnlo.optimize.dimensions import Array, Categorical, Dimension, Real, Value, plain
from nnlo.optimize.forms import from_json, from_skopt, from_text, to_skopt

Params = dict[str, Value]
"""A value for each dimension by its name, in the order of the space."""

Repair = Callable[[Params], Params | None]

PATIENCE = 1_000
"""Draws that may be rejected in a row."""


@dataclass(frozen=True)
class Space:
    """Ordered dimensions by name. Raises ConfigError for none, or a name used twice.

    repair: the user's function for what depends on other parameters: it gets parameters that it
    may change, and returns them as they shall be, or None for what must not be tried. Whatever
    a search proposes has passed it.
    """

    dimensions: tuple[Dimension, ...]
    repair: Repair | None = None

    def __post_init__(self) -> None:
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"each parameter must be searched once, got {', '.join(twice)} twice; "
                "give its range in one place"
            )
        if not names:
            raise ConfigError(
                "a search must have at least one parameter, got none; give get_model a "
                "parameter_range, or --tune NAME=LOW:HIGH"
            )

    @classmethod
    def from_range(
        cls, ranges: Iterable[Any], names: Sequence[str] = (), repair: Repair | None = None
    ) -> "Space":
        """Dimensions of skopt, such as ``get_model.parameter_range``.

        names: of the arguments of get_model, for dimensions without a name, by their place.
        """
        pairs = zip(ranges, itertools.chain(names, itertools.repeat(None)), strict=False)
        return cls(tuple(from_skopt(*pair) for pair in pairs), repair)

    @classmethod
    def from_tune(cls, texts: Iterable[str], repair: Repair | None = None) -> "Space":
        """Lines such as ``learning_rate=1e-4:1e-1:log``, see ``forms.from_text``."""
        return cls(tuple(from_text(text) for text in texts), repair)

    @classmethod
    def from_json(cls, about: Iterable[dict[str, Any]], repair: Repair | None = None) -> "Space":
        """The space of which ``to_json`` gave ``about``."""
        return cls(tuple(from_json(one) for one in about), repair)

    def __or__(self, other: "Space") -> "Space":
        """Both, ``other`` behind; its repair acts after that of ``self``."""
        repairs = [one for one in (self.repair, other.repair) if one is not None]
        chain = repairs[0] if len(repairs) == 1 else _Chain(tuple(repairs)) if repairs else None
        return Space((*self.dimensions, *other.dimensions), chain)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.dimensions)

    @property
    def n_dims(self) -> int:
        return len(self.dimensions)

    @property
    def n_unit(self) -> int:
        """Columns of the unit cube: one for a number, one for each category."""
        return sum(one.width for one in self.dimensions)

    @property
    def size(self) -> float:
        """How many different parameters there are, before ``repair``; inf with a Real."""
        return math.prod(one.size for one in self.dimensions)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The columns of each dimension."""
        ends = list(itertools.accumulate((one.width for one in self.dimensions), initial=0))
        return tuple(slice(*pair) for pair in itertools.pairwise(ends))

    def sample(self, rng: np.random.Generator) -> Params:
        """Parameters drawn evenly from the unit cube, repaired.

        Raises ConfigError where ``repair`` rejects 1,000 draws in a row.
        """
        for _ in range(PATIENCE):
            found = self.at(rng.random(self.n_dims))
            if found is not None:
                return found
        raise ConfigError(
            f"repair must let some parameters pass, got None for {PATIENCE} draws in a row; "
            "reject less, or change what it gets instead of rejecting it"
        )

    def at(self, uniform: Array) -> Params | None:
        """Parameters of numbers in [0, 1), shape (n_dims,), one a dimension; None: rejected."""
        return self.repaired(self.from_unit(self.spread(uniform[None])[0]))

    def repaired(self, params: Params) -> Params | None:
        """What ``repair`` makes of ``params``, which stay as they are; None: rejected.

        Raises ConfigError where its answer is not in the space.
        """
        if self.repair is None:
            return params
        answer = self.repair(dict(params))
        if answer is None:
            return None
        found = {name: plain(value) for name, value in answer.items()}
        self.check(found)
        return {name: found[name] for name in self.names}

    def check(self, params: Mapping[str, Any]) -> None:
        """Raise ConfigError unless ``params`` are exactly the names, each with a value of its
        dimension."""
        if params.keys() != set(self.names):
            raise ConfigError(
                f"parameters must be exactly {', '.join(self.names)}, got "
                f"{', '.join(params) or 'none'}; give each its value"
            )
        for one in self.dimensions:
            if not one.holds(params[one.name]):
                raise ConfigError(
                    f"{one.name} must be in the range {_shown(one)}, got {params[one.name]!r}; "
                    "give a value from there"
                )

    def to_unit(self, params: Params) -> Array:
        """Shape (n_unit,), in [0, 1]: logarithms where ``log``, integers in the middle of their
        bins, categories one-hot. ``params`` must be in the space."""
        units = (one.to_unit(params[one.name]) for one in self.dimensions)
        return np.fromiter(itertools.chain.from_iterable(units), np.float64)

    def from_unit(self, unit: Array) -> Params:
        """The parameters nearest to ``unit``, shape (n_unit,), before ``repair``."""
        pairs = zip(self.dimensions, self.slices, strict=True)
        return {one.name: one.from_unit(unit[columns]) for one, columns in pairs}

    def spread(self, uniform: Array) -> Array:
        """Points of the unit cube, (n, n_unit), where parameters stand, of (n, n_dims) numbers
        in [0, 1): even ones become evenly drawn parameters."""
        columns = zip(self.dimensions, uniform.T, strict=True)
        return np.concatenate([one.spread(column) for one, column in columns], axis=1)

    def snap(self, units: Array) -> Array:
        """The points nearest to ``units``, (n, n_unit), where parameters stand."""
        pairs = zip(self.dimensions, self.slices, strict=True)
        return np.concatenate([one.snap(units[:, columns]) for one, columns in pairs], axis=1)

    def key(self, params: Params) -> str:
        """A text that is equal for equal parameters alone."""
        values = [params[one.name] for one in self.dimensions]
        kinds = zip(values, self.dimensions, strict=True)
        return json.dumps([float(v) if isinstance(d, Real) else v for v, d in kinds])  # type: ignore[arg-type]

    def every(self) -> Iterator[Params]:
        """All parameters of a finite space, each repaired, rejected ones left out, some perhaps
        several times. Raises ConfigError for a space with a Real."""
        if math.isinf(self.size):
            raise ConfigError("only a finite space can be listed, got a range of real numbers")
        for values in itertools.product(*(_values(one) for one in self.dimensions)):
            found = self.repaired(dict(zip(self.names, values, strict=True)))
            if found is not None:
                yield found

    def to_json(self) -> list[dict[str, Any]]:
        """What JSON can hold, for the log; equal for equal spaces. Says nothing of ``repair``."""
        return [one.to_json() for one in self.dimensions]

    def skopt_dimensions(self) -> list[Any]:
        """The same as dimensions of skopt, for its plots and optimizers."""
        return [to_skopt(one) for one in self.dimensions]


@dataclass(frozen=True)
class _Chain:
    """Repairs, one after the other."""

    repairs: tuple[Repair, ...]

    def __call__(self, params: Params) -> Params | None:
        found: Params | None = params
        for repair in self.repairs:
            if found is None:
                break
            found = repair(found)
        return found


def _values(dimension: Dimension) -> Iterable[Value]:
    if isinstance(dimension, Categorical):
        return dimension.categories
    return range(int(dimension.low), int(dimension.high) + 1)


def _shown(dimension: Dimension) -> str:
    if isinstance(dimension, Categorical):
        return ", ".join(map(repr, dimension.categories))
    kind = "numbers" if isinstance(dimension, Real) else "integers"
    return f"{dimension.low} to {dimension.high} ({kind})"
