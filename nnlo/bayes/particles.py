"""Many weight vectors of one model on the ranks of a communicator."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.bayes.evaluate import Report, evaluate
from nnlo.bayes.fit import Fit
from nnlo.bayes.fit_settings import FitSettings
from nnlo.bayes.likelihood import Likelihood, likelihood_of
from nnlo.bayes.method import Matrix, Method, Source
from nnlo.bayes.posterior import Posterior, save
from nnlo.bayes.predict import Points, Prediction, predict
from nnlo.bayes.refresh import Refresh
from nnlo.bayes.seeds import Purpose, derive
from nnlo.bayes.team import Team
from nnlo.data import Data
from nnlo.errors import CheckpointError, ConfigError, ModelError
from nnlo.history import History
from nnlo.model import ModelBuilder, build_adapter
from nnlo.model.adapter import ModelAdapter
from nnlo.model.manifest import Manifest
from nnlo.model.rows import Rows, make_rows
from nnlo.mpi import link
from nnlo.mpi.setup import together

if TYPE_CHECKING:
    from mpi4py import MPI


class Particles:
    """``n`` particles of the model that ``builder`` makes, in even parts on the ranks of ``comm``.

    Every rank makes one with the same arguments and calls the same verbs. What comes out does
    not depend on the number of ranks, but for rounding.

    loss, metrics: as of ``MPIManager``. group_size: ranks that share the batches of each
    particle. seed: of first weights, orders of samples and random layers of all particles.

    After ``prepare``: ``pids``, the numbers of this rank's particles; ``weights`` and ``state``,
    their rows, (P, n_trainable) and (P, n_state), which may be written to before ``fit``.
    After ``fit``: ``posterior`` and, on rank 0, ``history``; ``interrupted`` names the signal
    that ended it, if one did; ``unsaved`` is the error of the last checkpoint, where the disk
    did not take it.
    """

    def __init__(
        self,
        builder: ModelBuilder,
        n: int,
        *,
        comm: "MPI.Intracomm | None" = None,
        loss: Any = None,
        metrics: Sequence[str] | None = None,
        group_size: int = 1,
        seed: int = 0,
    ) -> None:
        if seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}; try 0")
        self.builder = builder
        self.n = n
        self.seed = seed
        self.team = Team(comm, n, group_size)
        self._loss, self._metrics = loss, metrics
        self._adapter: ModelAdapter | None = None
        self._rows: Rows | None = None
        self.weights: Matrix = np.empty((0, 0), np.float32)
        self.state: Matrix = np.empty((0, 0), np.float32)
        self.posterior: Posterior | None = None
        self.history: History | None = None
        self.interrupted = ""
        self.unsaved: CheckpointError | None = None
        self._trained: tuple[Method, Source] | None = None
        self._data: Data | None = None

    @property
    def pids(self) -> Sequence[int]:
        return self.team.pids

    @property
    def adapter(self) -> ModelAdapter:
        """The model, for one weight vector at a time; its own weights mean nothing."""
        if self._adapter is None:
            raise ConfigError("prepare() must come before the model is used, got no model yet")
        return self._adapter

    @property
    def rows(self) -> Rows:
        """The model at all weight vectors of this rank."""
        if self._rows is None:
            self._rows = make_rows(self.adapter)
        return self._rows

    def prepare(self) -> None:
        """Build the model and draw the first weights; collective. Errors come on all ranks."""
        if self._adapter is None:
            comm, team = self.team.comm, self.team
            together(comm, self._build)
            together(comm, self._compare)
            team.open()
            if team.group is not None:  # a model may draw numbers that no seed decides
                link.broadcast(team.group, self.weights)
                link.broadcast(team.group, self.state)

    def fit(self, method: Method, data: Data, **settings: Any) -> Posterior:
        """Train by ``method`` on ``data``, whose files are set; collective.

        settings: the fields of FitSettings. Returns the posterior; ``history`` is there on
        rank 0. Raises the same NNLOError on all ranks.
        """
        self.prepare()
        if self._trained is not None:  # the posterior of the last fit keeps its matrices
            self.weights, self.state = self.weights.copy(), self.state.copy()
        fit = Fit(self, method, data, FitSettings.make(**settings))
        try:
            self.posterior = fit.run()
        finally:
            self.history, self.interrupted = fit.history, fit.interrupted
            self.unsaved = fit.unsaved
        self._trained = method, fit.source()
        self._data = data
        return self.posterior

    def predict(self, points: Points, **options: Any) -> Prediction | None:
        """What the particles say of ``points``, on rank 0; collective, after ``fit``.

        options: of ``nnlo.bayes.predict.predict``; noise: see ``likelihood_of``.
        """
        return predict(*self._asked(options), points, comm=self.team.comm, **options)

    def evaluate(self, points: Points, **options: Any) -> Report | None:
        """How good that is, on rank 0; collective, after ``fit``.

        options: of ``nnlo.bayes.evaluate.evaluate`` (ood, samples); noise as in ``predict``.
        """
        return evaluate(*self._asked(options), points, comm=self.team.comm, **options)

    def _asked(self, options: dict[str, Any]) -> tuple[Posterior, ModelAdapter, Likelihood]:
        if self.posterior is None:
            raise ConfigError(
                "fit() must come before a prediction, got particles without training"
            )
        adapter = self.adapter
        loss = self.builder.loss if self._loss is None else self._loss
        is_torch = adapter.suffix == ".pt"
        likelihood = likelihood_of(loss, is_torch=is_torch, noise=options.pop("noise", None))
        if self.posterior.needs_refresh and adapter.manifest.n_state and self._data is not None:
            options.setdefault("refresh", Refresh(adapter, self._data))
        return self.posterior, adapter, likelihood

    def save(self, folder: str | Path) -> None:
        """Write what ``fit`` has left to ``folder``, for ``nnlo.bayes.load``; collective."""
        if self._trained is None:
            raise ConfigError("fit() must come before save(), got particles without training")
        method, source = self._trained
        about = {"kind": method.name, "numbers": method.numbers()}
        save(self.team.comm, Path(folder), source, about)

    def close(self) -> None:
        """Release the communicators; collective."""
        self.team.close()

    def _build(self) -> None:
        for row, pid in enumerate(self.pids):
            adapter = build_adapter(
                self.builder,
                self._loss,
                seed=derive(self.seed, Purpose.INIT, pid),
                metrics=self._metrics,
            )
            manifest = adapter.manifest
            if row == 0:
                self._check(adapter)
                self.weights = np.empty((len(self.pids), manifest.n_trainable), np.float32)
                self.state = np.empty((len(self.pids), manifest.n_state), np.float32)
                self._adapter = adapter
            self._compare_with(manifest)
            vector = np.empty(manifest.size, np.float32)
            adapter.get_flat(vector)
            self.weights[row] = vector[: manifest.n_trainable]
            self.state[row] = vector[manifest.n_trainable :]

    def _compare(self) -> None:
        if self.team.comm is not None:
            self._compare_with(self.team.comm.bcast(self.adapter.manifest))

    def _compare_with(self, manifest: Manifest) -> None:
        own = self.adapter.manifest
        if own.hash != manifest.hash:
            raise ModelError(
                "all particles must be of one model, got others: "
                f"{own.describe_difference(manifest)}; let the builder make it alike each time, "
                "and check that its file and the libraries are the same on all nodes"
            )

    def _check(self, adapter: ModelAdapter) -> None:
        if not adapter.manifest.n_trainable:
            raise ModelError(
                "a model must have weights that can be trained, got none; set trainable (Keras) "
                "or requires_grad (torch) of some layer"
            )
        if adapter.is_variational:
            raise ModelError(
                "particles must be weight vectors of a plain network, got variational layers; "
                "train these by a mode of masters and workers or by allreduce"
            )
        if not adapter.has_gradient:
            raise ModelError(
                "particles must have a model that is trained by a loss, got one with a train_step "
                "of its own; name a loss and leave train_step out"
            )
