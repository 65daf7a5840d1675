"""A run that has been: its model with its weights, its data, its posterior, from its folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.bayes.gaussians import find_gaussians
from nnlo.bayes.likelihood import Likelihood, likelihood_of
from nnlo.bayes.methods import METHODS, load
from nnlo.bayes.posterior import Posterior
from nnlo.bayes.refresh import Refresh
from nnlo.bayes.store import read_about
from nnlo.bayes.variational import Point, Variational
from nnlo.cli.config_file import pairs
from nnlo.cli.particles import POSTERIOR
from nnlo.cli.rundir import weight_names
from nnlo.cli.train_options import TrainOptions
from nnlo.cli.training import find_lists, make_data
from nnlo.data import Data
from nnlo.errors import CheckpointError, ConfigError, DataError
from nnlo.model import ModelBuilder, build_adapter, load_builder
from nnlo.model.adapter import ModelAdapter, Vector

if TYPE_CHECKING:
    from mpi4py import MPI

WEIGHTS = ("best", "last")
"""Which weights of a run: those of its best validation, or those it ended with."""


@dataclass(frozen=True)
class PastRun:
    """The folder ``path`` of ``TrainingDriver``, and what it was told."""

    path: Path
    options: TrainOptions

    @classmethod
    def open(cls, path: str | Path) -> "PastRun":
        """Read ``config.json``; raises ConfigError for what is no folder of a run."""
        path = Path(path)
        try:
            content = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(
                f"RUN must be the folder of a run, with its config.json, got {path}; "
                "see --output and --trial-name of that run"
            ) from error
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        try:
            given = content["options"]
            known = {one.name for one in fields(TrainOptions)} & given.keys()
            words: dict[str, Any] = {name: given[name] for name in known}
            words = {name: tuple(v) if isinstance(v, list) else v for name, v in words.items()}
            _check_types(words)
            options = TrainOptions(**words)
        except (TypeError, KeyError, AttributeError) as error:
            raise _damaged(path, error) from error
        return cls(path, options)

    @cached_property
    def builder(self) -> ModelBuilder:
        return load_builder(self.options.model, **pairs("--param", self.options.param))

    @property
    def has_particles(self) -> bool:
        """Whether the run has left particles, not one vector of weights."""
        return self.options.mode in METHODS

    def build(self) -> ModelAdapter:
        """The model, built anew; its weights are still the first ones."""
        options = self.options
        return build_adapter(
            self.builder,
            options.loss or self.builder.loss,
            seed=options.seed,
            metrics=options.metrics or None,
        )

    def likelihood(self, adapter: ModelAdapter, noise: float | None = None) -> Likelihood:
        """What the model's outputs say; raises ConfigError for a loss that does not tell."""
        loss = self.options.loss or self.builder.loss
        return likelihood_of(loss, is_torch=adapter.suffix == ".pt", noise=noise)

    def weights(self, adapter: ModelAdapter, which: str | None = None) -> Vector:
        """The vector ``[T | S]`` of weights.npz ("last") or best.weights.npz ("best").

        which: None for the best, or the last where the run had no validation. Raises
        CheckpointError where they are not those of the model.
        """
        files = {"best": self.path / "best.weights.npz", "last": self.path / "weights.npz"}
        if which is None:
            which = "best" if files["best"].exists() else "last"
        file, manifest = files[which], adapter.manifest
        vector = np.empty(manifest.size, np.float32)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                names = weight_names(manifest)
                parts = zip(names, manifest.entries, manifest.split(vector), strict=True)
                for name, entry, part in parts:
                    if name not in arrays or arrays[name].shape != entry.shape:
                        raise _other_model(file, f"no {name} {entry.shape}")
                    part[...] = arrays[name]
                if extra := sorted(set(arrays.files) - set(names)):
                    raise _other_model(file, extra[0])
        except FileNotFoundError as error:
            raise ConfigError(
                f"the run must have left its weights, got no {file}; let it come to its end, or "
                "take other --weights"
            ) from error
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise CheckpointError(f"weights must be readable, got {file} ({error})") from error
        return vector

    def posterior(
        self,
        adapter: ModelAdapter,
        comm: "MPI.Intracomm | None" = None,
        *,
        which: str | None = None,
        seed: int = 0,
    ) -> Posterior:
        """What the run has left, to draw from: particles, Gaussians of layers, or a point."""
        if self.has_particles:
            if which is not None:
                raise ConfigError(
                    f"--weights must be left out with particles, got {which} for a run of "
                    f"{self.options.mode}"
                )
            self._check_posterior()
            return load(self.path / POSTERIOR, adapter.manifest, comm)
        rank, n_ranks = (0, 1) if comm is None else (comm.rank, comm.size)
        vector = self.weights(adapter, which)
        if find_gaussians(adapter.manifest):
            return Variational(adapter.manifest, vector, seed, rank, n_ranks)
        return Point(adapter.manifest, vector, rank)

    def _check_posterior(self) -> None:
        """The folder may be that of an earlier run, where this one has not come to its end."""
        about, options = read_about(self.path / POSTERIOR), self.options
        found = about.get("kind"), about["n_particles"], about["seed"]
        if found != (options.mode, options.particles, options.seed):
            raise CheckpointError(
                f"the particles must be those of config.json, {options.mode} of "
                f"{options.particles} and seed {options.seed}, got {found[0]} of {found[1]} and "
                f"seed {found[2]} in {self.path / POSTERIOR}; let the run come to its end"
            )

    def lists(self) -> tuple[list[str], list[str]]:
        """Files of the run's training and validation; on rank 0, since they may be fetched."""
        return find_lists(self.options, self.builder)

    def data(self, files: list[str], batch: int | None = None) -> tuple[Data, bool]:
        """The files, in order, and whether they hold labels; else features stand for those."""
        options = replace(self.options, batch=batch or self.options.batch)
        made = make_data(options, self.builder)
        features, labels = made.names
        has_labels = _holds(files[0], labels)
        if not has_labels:
            made = make_data(replace(options, labels_name=features), self.builder)
        made.shuffle = False
        made.set_files(files)
        return made, has_labels

    def refresh(self, adapter: ModelAdapter, train_files: list[str]) -> Refresh:
        """What takes BatchNorm statistics anew, from the run's training data."""
        data = make_data(self.options, self.builder)
        data.set_files(train_files)
        return Refresh(adapter, data)


def _holds(file: str, name: str) -> bool:
    import h5py

    try:
        with h5py.File(file, "r") as opened:
            return name in opened
    except OSError as error:
        raise DataError(f"data file must be readable HDF5, got {file} ({error})") from error


_TYPES: Mapping[Any, tuple[type, ...]] = MappingProxyType({float: (int, float), list: (tuple,)})
"""Of values by the kinds of options, where they are others."""


def _check_types(words: Mapping[str, Any]) -> None:
    """Raise TypeError for values that the command line could not have given."""
    for entry in fields(TrainOptions):
        value, kind = words.get(entry.name, entry.default), entry.metadata["kind"]
        fits = type(value) in _TYPES.get(kind, (kind,)) or (
            value is None and entry.default is None
        )
        if not fits or (kind is list and not all(isinstance(one, str) for one in value)):
            raise TypeError(f"{entry.name} is {value!r}")


def _damaged(path: Path, error: Any) -> ConfigError:
    return ConfigError(
        f"config.json of a run must be as TrainingDriver wrote it, got {path / 'config.json'} "
        f"({type(error).__name__}: {error}); restore it from a copy"
    )


def _other_model(file: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"weights must be those of the model of the run, got {what} in {file}; take the "
        "model's file as it was when the run began"
    )
