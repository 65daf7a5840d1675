"""How the posterior of variational layers moved in a run; matplotlib is loaded on use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ConfigError
from nnlo.report.search_axes import empty, figure_of, shown
from nnlo.report.search_plots import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TENSORS = 12
LABELS = {"loc": "mean of a weight", "sigma": "its standard deviation", "snr": "|mean| / sd"}


def write_trace(
    file: Path, folder: Path | None = None, kind: Literal["png", "svg"] = "png"
) -> Path:
    """Draw ``posterior_trace.json`` beside it, or in ``folder``; return the figure's file.

    Raises ConfigError where matplotlib is missing or the file is no trace.
    """
    try:
        trace = json.loads(file.read_text())
        figure = posterior_trace(trace)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"a trace must be the posterior_trace.json of a run, got {file} ({error!r}); "
            "give the one that TrainingDriver has written"
        ) from error
    target = (folder or file.parent) / f"{file.stem}.{kind}"
    write(figure, target)
    return target


def posterior_trace(trace: Mapping[str, Any]) -> "Figure":
    """A row for each tensor: medians and bands of its means, scales and their ratio, by epochs.

    trace: the content of ``posterior_trace.json``, see ``bayes.recorder``.
    """
    records, tensors = trace["records"], trace["tensors"][:MOST_TENSORS]
    if not records:
        return empty("no record of the posterior")
    levels = list(trace["levels"])
    figure = figure_of(9.6, 0.6 + 2.0 * len(tensors))
    places = figure.subplots(len(tensors), len(LABELS), squeeze=False, sharex=True)
    epochs = np.array([one["epochs"] for one in records], np.float64)
    for row, name in zip(places, tensors, strict=True):
        for axes, (kind, label) in zip(row, LABELS.items(), strict=True):
            values = _values([one[kind][name] for one in records], 2 + len(levels))
            _band(axes, epochs, dict(zip(levels, values[:, 2:].T, strict=True)))
            if axes in places[0]:
                axes.set_title(label, fontsize="small")
            if kind == "snr":
                axes.set_yscale("symlog", linthresh=0.1)
        row[0].set_ylabel(shown(name), fontsize="small")
    for axes in places[-1]:
        axes.set_xlabel("epochs")
    places[0, 0].legend(fontsize="x-small")
    return figure


def _band(axes: "Axes", epochs: NDArray[np.float64], quantiles: Mapping[float, Any]) -> None:
    marker = "." if len(epochs) == 1 else None
    axes.plot(epochs, quantiles[0.5], color="tab:blue", marker=marker, label="median")
    for low, high, alpha in ((0.25, 0.75, 0.35), (0.05, 0.95, 0.15)):
        axes.fill_between(
            epochs,
            quantiles[low],
            quantiles[high],
            color="tab:blue",
            alpha=alpha,
            linewidth=0,
            label=f"{low:.0%} to {high:.0%}",
        )


def _values(rows: list[Any], width: int) -> NDArray[np.float64]:
    missing = [np.nan] * width
    return np.array([missing if one is None else one for one in rows], np.float64)
