"""The training job that options describe, put together from the parts of the library."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlo.algo import Algo
from nnlo.algo.base import Algorithm
from nnlo.callbacks import make_callbacks
from nnlo.cli.config_file import pairs
from nnlo.cli.train_options import TrainOptions
from nnlo.data import Data, H5Data, read_list
from nnlo.errors import ConfigError
from nnlo.model import ModelBuilder
from nnlo.mpi.manager import MPIManager
from nnlo.mpi.plan import Listener

if TYPE_CHECKING:
    from mpi4py import MPI

Lists = tuple[Sequence[str], Sequence[str]]
"""Training and validation files."""


def find_lists(options: TrainOptions, builder: ModelBuilder) -> tuple[list[str], list[str]]:
    """Training and validation files; found, or downloaded, on rank 0 alone."""
    if options.train_data is not None:
        train: list[str] | None = read_list(options.train_data)
    else:
        train = builder.train_files()
    if not train:
        raise ConfigError(
            f"a model must have data to train on, got none for {options.model}; "
            "give --train-data LIST, a text file with one HDF5 file a line"
        )
    if options.val_data is not None:
        return train, read_list(options.val_data)
    # A model's own validation set does not go with other training data.
    return train, (builder.val_files() or []) if options.train_data is None else []


def make_manager(
    options: TrainOptions,
    comm: "MPI.Intracomm | None",
    builder: ModelBuilder,
    data: Data,
    lists: Lists,
    *,
    listeners: Sequence[Listener] = (),
    checkpoint: Path | None = None,
    restore: Path | None = None,
) -> MPIManager:
    """checkpoint: base path of those that are written. restore: what to go on from."""
    return MPIManager(
        comm,
        data,
        make_algo(options),
        builder,
        loss=options.loss or builder.loss,
        root_algo=_make_root_algo(options),
        train_list=lists[0],
        val_list=lists[1],
        callbacks=make_callbacks(options.callbacks) if comm is None or comm.rank == 0 else (),
        listeners=listeners,
        num_epochs=options.epochs,
        synchronous=options.synchronous,
        quorum=options.quorum,
        max_staleness=options.max_staleness,
        num_masters=options.n_masters,
        num_processes=options.n_processes,
        num_shards=options.n_shards,
        seed=options.seed,
        metrics=options.metrics or None,
        validate_every=options.validate_every,
        monitor=options.best_metric,
        recalibrate=options.recalibrate,
        early_stopping=options.early_stopping,
        target_metric=options.target_metric,
        checkpoint=checkpoint,
        checkpoint_interval=options.checkpoint_interval,
        restore=restore,
        timeline=options.timeline,
        spares=options.spares,
        suspect_after=options.suspect_after,
        on_worker_error=options.on_worker_error,
        max_refused=options.max_refused,
        kl_schedule=options.kl_schedule,
    )


def make_data(options: TrainOptions, builder: ModelBuilder) -> H5Data:
    return H5Data(
        options.batch,
        options.features_name or builder.features,
        options.labels_name or builder.labels,
        seed=options.seed,
        cache_dir=options.cache_data,
        copy_command=options.copy_command,
        prefetch=options.preload_data,
    )


def make_algo(options: TrainOptions) -> Algorithm:
    numbers: dict[str, Any] = pairs("--optimizer-params", options.optimizer_params)
    numbers |= pairs("--mode-params", options.mode_params)
    names = [
        *("sync_every", "worker_optimizer", "worker_learning_rate", "learning_rate"),
        *("staleness", "clip_norm", "clip_value"),
        *("elastic_force", "elastic_lr", "elastic_momentum"),
        *("gem_lr", "gem_momentum", "gem_kappa"),
    ]
    given = {name: getattr(options, name) for name in names}
    numbers |= {name: value for name, value in given.items() if value is not None}
    return Algo(options.optimizer, mode=options.mode, **numbers)


def _make_root_algo(options: TrainOptions) -> Algorithm | None:
    if options.root_mode is None:
        return None
    numbers: dict[str, Any] = pairs("--root-params", options.root_params)
    # What a sub-master's updates have reached is for the root what local steps are.
    return Algo(mode=options.root_mode, **{"worker_optimizer": "sgd", **numbers})
