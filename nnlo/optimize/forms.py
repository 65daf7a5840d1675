"""Other ways to write a dimension: JSON, a line of text, scikit-optimize's."""

import math
from typing import Any

from nnlo.errors import ConfigError
from nnlo.optimize.dimensions import (
    Categorical,
    Dimension,
    Integer,
    Real,
    Value,
    is_number,
    plain,
)


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
        if parts[2:] in ([], ["log"]) and all(is_number(end) for end in ends):
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
