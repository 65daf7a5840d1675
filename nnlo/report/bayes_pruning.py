"""Figures of pruning: metrics against the pruned share, and the ratios that decide."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ConfigError
from nnlo.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "accuracy": "accuracy",
    "rmse": "root mean squared error",
    "nll": "negative log-likelihood (nats)",
    "ece": "expected calibration error",
}
"""Metrics that are drawn, where they are known, in this order."""
N_BINS = 60


def write_all(
    rows: Sequence[Mapping[str, Any]],
    ratios: Mapping[str, NDArray[np.float32]],
    folder: Path,
    kind: Literal["png", "svg"] = "png",
) -> list[Path]:
    """Write ``curve`` and ``snr``, each atomically; return what was written.

    rows: of ``bayes.pruning_curve``. ratios: |loc| / sigma of the weights by tensor. Raise
    ConfigError where matplotlib is missing, OSError where the disk does not take them.
    """
    written = []
    for name, figure in (("curve", curve(rows)), ("snr", histogram(ratios, rows))):
        path = folder / f"{name}.{kind}"
        write_atomic(path, partial(figure.savefig, format=kind))
        written.append(path)
    return written


def curve(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """One panel a metric, over the pruned share in percent."""
    names = [name for name in LABELS if any(name in row["metrics"] for row in rows)]
    figure = _figure(3.6 * len(names), 3.2)
    shares = [100.0 * row["pruned"] for row in rows]
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        values = [row["metrics"].get(name) for row in rows]
        heights = [np.nan if one is None else one for one in values]
        axes.plot(shares, heights, marker="o", markersize=4)
        axes.set_xlabel("pruned weights (%)")
        axes.set_ylabel(LABELS[name])
        axes.grid(alpha=0.3)
    return figure


def histogram(
    ratios: Mapping[str, NDArray[np.float32]], rows: Sequence[Mapping[str, Any]]
) -> "Figure":
    """How many weights have which |mean| / sd, in decibels, by tensor.

    Lines stand where each share of all weights is below them.
    """
    figure = _figure(6.4, 3.6)
    axes = figure.subplots()
    finite = {name: _decibels(one) for name, one in ratios.items()}
    everything = np.concatenate(list(finite.values())) if finite else np.zeros(0)
    if everything.size:
        bins = np.linspace(everything.min(), everything.max() + 1e-6, N_BINS + 1)
        axes.hist(list(finite.values()), bins=bins.tolist(), stacked=True, label=list(finite))
        for row in rows:
            if 0.0 < row["fraction"] < 1.0:
                at = float(np.quantile(everything, row["fraction"]))
                axes.axvline(at, color="black", linewidth=0.8)
                axes.text(
                    at,
                    1.0,
                    f"{100 * row['fraction']:g} %",
                    rotation=90,
                    va="top",
                    ha="right",
                    fontsize="x-small",
                    transform=axes.get_xaxis_transform(),
                )
        axes.legend(fontsize="small")
    axes.set_xlabel("signal to noise, 20 log10(|mean| / sd) (dB)")
    axes.set_ylabel("weights")
    return figure


def _decibels(ratios: NDArray[np.float32]) -> NDArray[np.float64]:
    positive = ratios[np.isfinite(ratios) & (ratios > 0.0)].astype(np.float64)
    return np.asarray(20.0 * np.log10(positive))


def _figure(width: float, height: float) -> "Figure":
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "figures of pruning need matplotlib, got none; install it by pip install matplotlib"
        )
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
