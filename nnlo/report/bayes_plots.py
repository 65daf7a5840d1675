"""Figures of a prediction, from its columns alone; matplotlib is loaded on use.

Names of the files that ``write_all`` makes, one figure each, ``.png`` or ``.svg``::

    reliability   accuracy by confidence in bins, and how many points each bin has
    confusion     labels against predicted classes, of at most MOST_CLASSES
    uncertainty   histograms of the uncertainties: of right and wrong points, of data and others
    bands         values with their quantiles, against the only input or in order of the mean

What a prediction has no columns for is left out: reliability and confusion are of classes with
labels, bands of values.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnlo.report.search_axes import empty, figure_of, require
from nnlo.report.search_plots import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Columns = Mapping[str, NDArray[Any]]
"""Of a prediction, a row a point; see docs/files.md."""

MOST_CLASSES = 30
MOST_TARGETS = 4
MOST_POINTS = 2000  # labels in ``bands``
UNCERTAINTIES = ("total", "aleatoric", "epistemic")
_N_BINS = 40


def write_all(
    columns: Columns,
    folder: Path,
    *,
    outside: Columns | None = None,
    reliability: Mapping[str, Any] | None = None,
    kind: Literal["png", "svg"] = "png",
) -> list[Path]:
    """Write all figures that there are columns for, each atomically; what was written.

    outside: of points that are not like the data. reliability: edges, counts, confidence and
    accuracy of bins. Raises ConfigError where matplotlib is missing, OSError where the disk
    does not take them.
    """
    require()
    drawn = {"uncertainty": uncertainty(columns, outside)}
    if reliability is not None:
        drawn["reliability"] = reliability_diagram(reliability)
    if "prediction" in columns and "label" in columns:
        drawn["confusion"] = confusion(columns)
    if "mean" in columns:
        drawn["bands"] = bands(columns, outside)
    files = []
    for name, figure in drawn.items():
        files.append(folder / f"{name}.{kind}")
        write(figure, files[-1])
    return files


def reliability_diagram(table: Mapping[str, Any]) -> "Figure":
    """Bars of accuracy; the dashed line is perfect calibration."""
    edges, counts, confidence, accuracy = (
        np.asarray(table[name], np.float64)
        for name in ("edges", "counts", "confidence", "accuracy")
    )
    total = counts.sum()
    if not total:
        return empty("no point to judge")
    figure = figure_of(4.8, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    widths, has = np.diff(edges), counts > 0
    bars: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.6}
    upper.bar(edges[:-1][has], accuracy[has], widths[has], label="accuracy", **bars)
    upper.plot(confidence[has], accuracy[has], "o", color="black", markersize=3)
    upper.plot([0, 1], [0, 1], "--", color="tab:gray", label="perfect")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.legend(fontsize="small")
    error = float((np.abs(accuracy - confidence)[has] * counts[has]).sum() / total)
    upper.set_title(f"expected calibration error {error:.2%}", fontsize="small")
    lower.bar(edges[:-1], counts / total, widths, color="tab:gray", **bars)
    lower.set(xlabel="confidence", ylabel="share of points")
    return figure


def confusion(columns: Columns) -> "Figure":
    """Shares of each label's points by predicted class."""
    labels, predicted = columns["label"].astype(int), columns["prediction"].astype(int)
    n_classes = columns["probability"].shape[1]
    if n_classes > MOST_CLASSES or not len(labels):
        return empty(f"a confusion matrix is of at most {MOST_CLASSES} classes, got {n_classes}")
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (labels, predicted), 1.0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    figure = figure_of(1.8 + 0.36 * n_classes, 1.4 + 0.36 * n_classes)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label="share of the label's points")
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.5 else "black"
        text = f"{counts[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize="x-small", color=color)
    axes.set(xlabel="predicted class", ylabel="label")
    axes.set(xticks=range(n_classes), yticks=range(n_classes))
    return figure


def uncertainty(columns: Columns, outside: Columns | None = None) -> "Figure":
    """Histograms over the points, each as shares of its group."""
    groups: list[list[tuple[str, Columns, Any]]] = []
    if "correct" in columns:
        right = columns["correct"].astype(bool)
        groups.append([("right", columns, right), ("wrong", columns, ~right)])
    if outside is not None:
        every = slice(None)
        groups.append([("like the data", columns, every), ("from elsewhere", outside, every)])
    groups = groups or [[("all points", columns, slice(None))]]
    figure = figure_of(9.6, 2.9 * len(groups))
    grid = figure.subplots(len(groups), len(UNCERTAINTIES), squeeze=False)
    for row, group in zip(grid, groups, strict=True):
        for axes, name in zip(row, UNCERTAINTIES, strict=True):
            _histogram(axes, [(label, _per_point(one[name])[part]) for label, one, part in group])
            axes.set_xlabel(name)
        row[0].set_ylabel("share of points")
        row[-1].legend(fontsize="small")
    unit = "entropy in nats" if "confidence" in columns else "variance"
    figure.suptitle(f"uncertainty: {unit}", fontsize="small")
    return figure


def _histogram(axes: "Axes", groups: list[tuple[str, NDArray[Any]]]) -> None:
    together = np.concatenate([values for _, values in groups])
    high = float(np.quantile(together, 0.995)) if together.size else 0.0
    low = float(together.min()) if together.size else 0.0
    edges = np.linspace(low, high if high > low else low + 1e-9 + abs(low), _N_BINS + 1)
    for label, values in groups:
        shown = np.clip(values, edges[0], edges[-1])  # the last bin holds what is beyond
        weights = np.full(shown.size, 1.0 / max(1, shown.size))
        axes.hist(
            shown, edges.tolist(), weights=weights, alpha=0.6, label=f"{label} ({shown.size})"
        )


def bands(columns: Columns, outside: Columns | None = None) -> "Figure":
    """Mean, what the weights leave open (2 standard deviations), quantiles with the noise."""
    n_targets = columns["mean"].shape[1]
    shown = min(n_targets, MOST_TARGETS)
    figure = figure_of(8.0, 3.4 * shown)
    for target, axes in enumerate(figure.subplots(shown, 1, squeeze=False)[:, 0]):
        _band(axes, columns, outside, target)
        axes.set_ylabel("value" if n_targets == 1 else f"target {target}")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize="small")
    return figure


def _band(axes: "Axes", columns: Columns, outside: Columns | None, target: int) -> None:
    parts = [columns] + ([outside] if outside is not None and "input" in columns else [])
    mean, std, total = (
        np.concatenate([one[name][:, target] for one in parts])
        for name in ("mean", "std", "total")
    )
    if "input" in columns:
        at = np.concatenate([one["input"] for one in parts])
        order = np.argsort(at, kind="stable")
        at = at[order]
        axes.set_xlabel("input")
    else:
        order = np.argsort(mean, kind="stable")
        at = np.arange(len(order))
        axes.set_xlabel("point, in order of the mean")
    mean, std, spread = mean[order], std[order], 1.645 * np.sqrt(total[order])
    low, high = mean - spread, mean + spread
    if all("quantile_0.05" in one and "quantile_0.95" in one for one in parts):
        low, high = (
            np.concatenate([one[f"quantile_{share}"][:, target] for one in parts])[order]
            for share in ("0.05", "0.95")
        )
    faint: dict[str, Any] = {"linewidth": 0, "color": "tab:blue"}
    axes.fill_between(at, low, high, alpha=0.2, label="90 % of the prediction", **faint)
    weights = "2 sd of the draws"
    axes.fill_between(at, mean - 2 * std, mean + 2 * std, alpha=0.35, label=weights, **faint)
    axes.plot(at, mean, color="tab:blue", label="mean")
    places = np.empty(len(order), np.intp)
    places[order] = np.arange(len(order))
    start = 0
    for one, name, color in zip(
        parts, ("labels", "labels from elsewhere"), ("black", "tab:red"), strict=False
    ):
        mine = places[start : start + len(one["mean"])]
        start += len(mine)
        if "label" in one:
            some = slice(None, None, 1 + len(mine) // MOST_POINTS)
            values = one["label"][:, target][some]
            axes.plot(at[mine][some], values, ".", color=color, markersize=3, label=name)


def _per_point(column: NDArray[Any]) -> NDArray[Any]:
    return column if column.ndim == 1 else np.asarray(column.mean(axis=1))
