"""How the posterior of variational layers moved in a run: a few numbers of each tensor.

``posterior_trace.json``, schema 1::

    schema      1
    levels      of the quantiles, between 0 and 1
    tensors     names, in the order of the model; equal ones are numbered, "#2"
    records     one object each: version, epochs (of samples, since the start of the run),
                n_weights (that are not pruned, by tensor), loc, sigma, snr

    loc, sigma, snr    by tensor: [mean, standard deviation, *quantiles] over its weights,
                       null where all are pruned; snr is |loc| / sigma
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnlo.algo.base import Vector
from nnlo.bayes.gaussians import Gaussian, find_gaussians
from nnlo.errors import ModelError
from nnlo.files import write_text
from nnlo.history import Record
from nnlo.model.manifest import Manifest
from nnlo.mpi.master import Master

if TYPE_CHECKING:
    from nnlo.mpi.root import Root

log = logging.getLogger(__name__)

FILE = "posterior_trace.json"
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
KINDS = ("loc", "sigma", "snr")
MOST_SORTED = 20_000
"""Weights of a tensor from which its quantiles are taken, evenly spaced ones of a larger one."""


class PosteriorRecorder:
    """A listener that writes ``posterior_trace.json``; on rank 0.

    every: updates between records; None for one an epoch. A run that goes on from a checkpoint
    adds to the file. ModelError for a model without variational layers.
    """

    def __init__(self, manifest: Manifest, folder: Path, every: int | None = None) -> None:
        self._gaussians = find_gaussians(manifest)
        if not self._gaussians:
            raise ModelError(
                "a posterior can be recorded of a model with variational layers, got one without; "
                "leave --posterior-every out"
            )
        self._path = folder / FILE
        self._every = every
        self._names = _numbered([one.name for one in self._gaussians])
        self._records: list[dict[str, Any]] = []
        self._root: Root | None = None
        self._master: Master | None = None

    def begin(self, root: "Root", master: Master) -> None:
        if master.version:
            self._records = [one for one in self._earlier() if one["version"] <= master.version]
        self.goes_on(root, master)
        if not self._records:
            self._add(master.weights, master.version)

    def goes_on(self, root: "Root", master: Master) -> None:
        self._root, self._master = root, master
        self._records = [one for one in self._records if one["version"] <= master.version]

    def epoch_began(self, epoch: int) -> None:
        pass

    def updated(self, version: int, n_samples: int, logs: Record) -> None:
        if self._every is not None and version % self._every == 0:
            assert self._master is not None
            self._add(self._master.weights, version)

    def epoch_ended(self, epoch: int, record: Record) -> None:
        assert self._root is not None
        assert self._master is not None
        if self._every is None:
            snapshot = self._root.snapshot
            weights = self._master.weights if snapshot is None else snapshot
            self._add(weights, record["version"], epochs=record["epoch"])
        self._write()

    def end(self) -> None:
        self._write()

    def _add(self, weights: Vector, version: int, epochs: float | None = None) -> None:
        assert self._root is not None
        record: dict[str, Any] = {
            "version": version,
            "epochs": self._root.progress if epochs is None else epochs,
            "n_weights": {},
            **{kind: {} for kind in KINDS},
        }
        for name, one in zip(self._names, self._gaussians, strict=True):
            parts = _kept(one, weights)
            record["n_weights"][name] = parts[0].size
            for kind, values in zip(KINDS, parts, strict=True):
                record[kind][name] = _summary(values)
        self._records.append(record)

    def _write(self) -> None:
        content = {
            "schema": 1,
            "levels": LEVELS,
            "tensors": self._names,
            "records": self._records,
        }
        try:
            write_text(self._path, json.dumps(content))
        except OSError as error:  # a full disk must not end the training
            log.warning("%s could not be written: %s", self._path, error)

    def _earlier(self) -> list[dict[str, Any]]:
        """What an earlier part of this run has written; [] where it is of another model."""
        try:
            content = json.loads(self._path.read_text())
            fits = content["tensors"] == self._names and content["schema"] == 1
            return list(content["records"]) if fits else []
        except (OSError, ValueError, KeyError, TypeError):
            return []


def _kept(gaussian: Gaussian, vector: Vector) -> list[NDArray[np.float64]]:
    """Means, scales and their ratio of the weights that are not pruned, 1-D."""
    mask = gaussian.masks(vector)
    chosen = slice(None) if mask is None else mask.ravel() != 0.0
    parts = (gaussian.means(vector), gaussian.scales(vector), gaussian.snr(vector))
    return [part.ravel()[chosen].astype(np.float64) for part in parts]


def _summary(values: NDArray[np.float64]) -> list[float | None] | None:
    if not values.size:
        return None
    step = -(-values.size // MOST_SORTED)
    quantiles = np.quantile(values[::step], LEVELS)
    numbers = [values.mean(), values.std(), *quantiles]
    return [float(f"{one:.6g}") if np.isfinite(one) else None for one in numbers]


def _numbered(names: Sequence[str]) -> list[str]:
    return [
        name if (before := names[:index].count(name)) == 0 else f"{name}#{before + 1}"
        for index, name in enumerate(names)
    ]
