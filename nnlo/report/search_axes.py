"""Axes for parameters and merits; matplotlib is loaded on use."""

import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.errors import ConfigError
from nnlo.optimize.dimensions import Array, Categorical, Dimension
from nnlo.optimize.importance import MOST_MERITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LETTERS = 20  # of categories that stand side by side below axes
_DECADES = 1e3  # the range from which matplotlib's own ticks of a logarithmic axis have room


def require() -> None:
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "figures need matplotlib, got none; install it by pip install matplotlib"
        )


def figure_of(width: float, height: float) -> "Figure":
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def empty(reason: str) -> "Figure":
    figure = figure_of(6.4, 2.0)
    figure.text(0.5, 0.5, shown(reason, 200), ha="center", va="center", wrap=True)
    return figure


def drawable(merits: Any) -> Array:
    return np.clip(np.asarray(merits, np.float64), -MOST_MERITS, MOST_MERITS)


def scale_for(merits: Array) -> str:
    """Logarithmic where merits are of very different size."""
    low, high = float(np.min(merits)), float(np.max(merits))
    return "log" if low > 0 and high / low > 50 else "linear"


def shown(value: Any, most: int = 24) -> str:
    """One line, cut, and no formula of matplotlib's."""
    text = " ".join(str(value).split())
    text = text if len(text) <= most else text[: most - 1] + "…"
    return text.replace("$", r"\$")


def place_of(dimension: Dimension, value: Any) -> float:
    """Where a value stands on its axis: itself, or the number of its category."""
    if isinstance(dimension, Categorical):
        return float(dimension.categories.index(value))
    return float(value)


def height_of(dimension: Dimension, value: Any) -> float:
    """Where a value stands between 0 and 1."""
    if isinstance(dimension, Categorical):
        return place_of(dimension, value) / max(1, dimension.width - 1)
    return dimension.to_unit(value)[0]


def marks(dimension: Dimension) -> list[tuple[float, str]]:
    """Heights and texts of some values."""
    if isinstance(dimension, Categorical):
        return [(height_of(dimension, one), shown(one, 12)) for one in dimension.categories]
    ends = [dimension.from_unit(np.array([unit])) for unit in (0.0, 0.5, 1.0)]
    return [(height_of(dimension, one), f"{one:.3g}") for one in dict.fromkeys(ends)]


def upright(axes: "Axes", column: int, marks: list[tuple[float, str]]) -> None:
    axes.axvline(column, color="black", linewidth=0.8)
    for height, text in marks:
        box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}
        axes.text(column + 0.04, height, text, fontsize="x-small", va="center", bbox=box)


def dress(axes: "Axes", dimension: Dimension) -> None:
    """Name and scale of a parameter below its values."""
    axes.set_xlabel(shown(dimension.name))
    if isinstance(dimension, Categorical):
        labels = [shown(one, 12) for one in dimension.categories]
        tilt = 25 if sum(map(len, labels)) > _LETTERS else 0
        axes.set_xticks(range(dimension.width), labels, rotation=tilt)
        axes.set_xlim(-0.5, dimension.width - 0.5)
    elif dimension.log:
        axes.set_xscale("log")
        if dimension.high / dimension.low < _DECADES:  # else labels stand on each other
            units = (0.0, 1 / 3, 2 / 3, 1.0)
            values = dict.fromkeys(dimension.from_unit(np.array([unit])) for unit in units)
            axes.set_xticks([*values], [f"{one:.3g}" for one in values])
            axes.set_xticks([], minor=True)


def grid(
    dimensions: Sequence[Dimension], label: str
) -> "tuple[Figure, Iterator[tuple[Axes, Dimension]]]":
    """A figure with axes for each dimension, over one vertical scale called ``label``."""
    n_rows = math.ceil(len(dimensions) / 4)
    n_columns = math.ceil(len(dimensions) / n_rows)
    figure = figure_of(3.2 * n_columns, 2.8 * n_rows)
    places = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
    for place in places[len(dimensions) :]:
        place.remove()
    for place in places[: len(dimensions) : n_columns]:
        place.set_ylabel(label)
    return figure, zip(places[: len(dimensions)], dimensions, strict=True)
