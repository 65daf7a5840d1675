"""How OptimizationDriver trains a trial: with its own options, on the parameters it is given."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nnlo.cli.backend import quiet_import
from nnlo.cli.memory import MemoryLimit
from nnlo.cli.optimize_options import OptimizeOptions
from nnlo.cli.resume import newest_whole
from nnlo.cli.rundir import RunDirectory
from nnlo.cli.train_options import TrainOptions
from nnlo.cli.training import Lists, make_algo, make_data, make_manager
from nnlo.data import Data
from nnlo.data.folds import FoldData
from nnlo.errors import ConfigError
from nnlo.files import write_text
from nnlo.history import History
from nnlo.log import kept_in
from nnlo.model import ModelBuilder, release
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi.manager import MPIManager
from nnlo.mpi.plan import Listener
from nnlo.mpi.stopping import larger_is_better
from nnlo.optimize.attempt import Attempt, Part
from nnlo.optimize.folds import Folds
from nnlo.optimize.merit import Merit, own_merit
from nnlo.optimize.space import Params
from nnlo.optimize.teller import Voice
from nnlo.optimize.wire import PartEnd

log = logging.getLogger(__name__)

PAUSE = "pause"
"""Name of checkpoints that only let a paused trial go on."""


@dataclass(frozen=True)
class Measure:
    """The merits of a training. own: the model's ``figure_of_merit``, in place of ``merit``."""

    merit: Merit | None
    own: Any = None
    names: tuple[str, ...] = ()  # of what it returns

    @property
    def best_metric(self) -> str:
        """The metric by which the best weights are kept: that of the merit, where it is one."""
        term = self.merit.terms[0] if self.merit is not None else None
        if term is None or not term.metric.startswith("val_"):
            return TrainOptions.best_metric
        is_reward = larger_is_better(term.metric)
        return term.metric if is_reward == (term.sign < 0) else TrainOptions.best_metric

    def __call__(self, history: History, adapter: ModelAdapter) -> tuple[float, ...]:
        if self.merit is None:
            merits = own_merit(self.own, history)
            if len(merits) != len(self.names):
                raise ConfigError(
                    f"figure_of_merit must return as many numbers as it has names, "
                    f"{', '.join(self.names)}, got {len(merits)}; set figure_of_merit.names"
                )
            return merits
        size = {"n_weights": adapter.manifest.n_trainable}
        epochs = [record | size for record in history.epochs]
        return self.merit.renamed(epochs).of(epochs)


@dataclass(frozen=True)
class TrialTask:
    """A ``Task`` of a search. root: its folder. tuned: parameters that are options of the
    training; the others are arguments of get_model, whose other ones ``builder`` has. folds:
    None without cross-validation."""

    options: OptimizeOptions
    builder: ModelBuilder
    root: Path
    tuned: Collection[str]
    lists: Lists
    folds: Folds | None
    measure: Measure

    def make_manager(self, part: Part, listeners: Sequence[Listener]) -> MPIManager:
        options = self._options(part)
        builder = self.builder.having(**self._arguments(part.params))
        data, lists = self._data(part, options, builder)
        if self.options.trial_memory is not None:
            data.watch = MemoryLimit(self.options.trial_memory)
        base = self._base(part)
        restore = None
        if base is not None and part.is_first:
            found = newest_whole(base, 0.0, options.epochs)
            restore = None if found is None else found[0]
        return make_manager(
            options,
            part.comm,
            builder,
            data,
            lists,
            listeners=listeners,
            checkpoint=base,
            restore=restore,
        )

    def _options(self, part: Part) -> TrainOptions:
        chosen = training_options(self.options, part.params, self.tuned)
        if chosen.best_metric == TrainOptions.best_metric:
            chosen = replace(chosen, best_metric=self.measure.best_metric)
        if part.refit_epochs:  # there is nothing to validate on
            chosen = replace(
                chosen,
                epochs=part.refit_epochs,
                early_stopping=None,
                target_metric=None,
                best_metric=TrainOptions.best_metric,
                callbacks=_without_validation(chosen.callbacks),
            )
        return chosen

    def _arguments(self, params: Params) -> dict[str, Any]:
        return {name: value for name, value in params.items() if name not in self.tuned}

    def _data(
        self, part: Part, options: TrainOptions, builder: ModelBuilder
    ) -> tuple[Data, Lists]:
        data = make_data(options, builder)
        train, val = self.lists
        if part.refit_epochs:
            return data, ([*train, *val], ())
        if self.folds is None or part.fold is None:
            return data, self.lists
        held_out = self.folds.held_out(part.fold)
        cut = FoldData(data, train, self.folds.counts, held_out)
        return cut, (FoldData.train_list, FoldData.val_list)

    def _base(self, part: Part) -> Path | None:
        """Of the checkpoints of a part."""
        pauses = PAUSE if self.options.pruning == "asha" else None
        name = self.options.checkpoint or pauses
        return part.folder / "checkpoints" / name if name and not part.refit_epochs else None

    def is_saved(self, epoch: int) -> bool:
        if self.options.pruning == "asha":
            return True  # by whoever is paused there
        return (
            self.options.checkpoint is not None and epoch % self.options.checkpoint_interval == 0
        )

    def save(self, part: Part, manager: MPIManager, *, is_done: bool) -> Mapping[str, str]:
        folder = RunDirectory.at(part.folder)
        about = {"trial": part.trial, "params": part.params}
        write_text(folder.path / "params.json", json.dumps(about, indent=1))
        if not is_done:
            assert manager.history is not None
            manager.history.save(folder.path / "history.json")
            return {}
        with quiet_import():  # Keras on torch imports TensorFlow to write a model
            best = folder.write_results(manager)
        name = "model" if part.fold is None else f"model_{part.fold + 1}"
        return {name: str(best.relative_to(self.root))}

    def forget(self) -> None:
        release()


@dataclass(frozen=True)
class Logged:
    """An ``Attempt`` whose log lines are kept in the folder of the part. role: of this rank."""

    attempt: Attempt
    role: str

    def __call__(self, part: Part, voice: Voice) -> PartEnd | None:
        if not part.is_first:
            return self.attempt(part, voice)
        with suppress(OSError):  # the attempt fails by it
            part.folder.mkdir(parents=True, exist_ok=True)
        with kept_in(part.folder / "log.txt", self.role):
            end = self.attempt(part, voice)
            if end is not None and end.state == "failed":
                log.info("failed (%s): %s", end.kind, end.reason)
            return end


def _without_validation(callbacks: Sequence[str]) -> tuple[str, ...]:
    """Those that do not watch a metric."""
    watching = ("early_stopping", "reduce_lr_on_plateau")  # by themselves val_loss
    return tuple(
        one
        for one in callbacks
        if "monitor=val_" not in one and ("monitor=" in one or one.split(":")[0] not in watching)
    )


def training_options(
    options: OptimizeOptions, params: Mapping[str, Any], tuned: Collection[str]
) -> TrainOptions:
    """The options of the training of a trial; raises ConfigError for some that do not fit."""
    own = {entry.name: getattr(options, entry.name) for entry in fields(TrainOptions)}
    if options.checkpoint is None and options.pruning == "asha":
        own |= {"checkpoint": PAUSE, "checkpoint_interval": options.epochs}
    names = option_names(options, params, tuned)
    return TrainOptions(**own | {names[name]: params[name] for name in tuned})


def option_names(
    options: OptimizeOptions, params: Mapping[str, Any], tuned: Collection[str]
) -> dict[str, str]:
    """Which option each of the ``tuned`` parameters is.

    A learning rate that is searched is that of the steps that train: of the local steps of the
    workers, where the mode has such and takes none for its master.
    """
    names = {name: name for name in tuned}
    if "learning_rate" in tuned and options.worker_learning_rate is None:
        own = {entry.name: getattr(options, entry.name) for entry in fields(TrainOptions)}
        own |= {name: params[name] for name in tuned}
        try:
            make_algo(TrainOptions(**own))
        except ConfigError:
            if make_algo(TrainOptions(**own | {"learning_rate": None})).trains_locally:
                names["learning_rate"] = "worker_learning_rate"
    return names
