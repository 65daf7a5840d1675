"""TrainingDriver: train a model on the ranks that mpirun, srun or nnlorun started."""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlo import log as logs
from nnlo.algo import Algo
from nnlo.algo.base import Algorithm
from nnlo.callbacks import make_callbacks
from nnlo.cli.backend import check_backend, quiet_import
from nnlo.cli.config_file import pairs
from nnlo.cli.marks import AGAIN, code_of_end, mark_done, mark_started, mark_up
from nnlo.cli.options import parse, speak_first
from nnlo.cli.progress import Progress
from nnlo.cli.resume import resume_from
from nnlo.cli.rundir import RunDirectory
from nnlo.cli.threads import settle_rank
from nnlo.cli.train_options import TrainOptions
from nnlo.data import H5Data, read_list
from nnlo.errors import ConfigError, NNLOError, RanksLost
from nnlo.model import ModelBuilder, load_builder
from nnlo.mpi import link, ulfm
from nnlo.mpi.manager import MPIManager
from nnlo.mpi.plan import Listener
from nnlo.mpi.setup import together
from nnlo.report.tensorboard import TensorBoard

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger("nnlo.cli.train")  # also where it runs as __main__, by python -m

DESCRIPTION = "Train a Keras or PyTorch model with a master and workers over MPI."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command on this rank.

    Returns the exit code: 0, 1 after an error message, 130 after Ctrl-C, 75 after another
    signal (128 + n without --checkpoint); a command line that cannot be understood ends the
    program with 2.
    """
    settle_rank()
    try:
        options = parse("TrainingDriver", TrainOptions, DESCRIPTION, argv)
        comm = link.world()
    except NNLOError as error:
        mark_done(1)
        speak_first(f"TrainingDriver: error: {error}")
        return 1
    finally:
        mark_up()
    try:
        with ulfm.losses(comm):
            return link.leave(_run(options, comm))
    except NNLOError as error:
        left = ulfm.survivors(comm)
        code = _tell(error, left is None or left.rank == 0)
        ulfm.survivors(left)  # all have heard it before the launcher sees an exit code
        return link.leave(code)
    except ulfm.PeersLost:
        _tell(RanksLost("no rank must die before the training begins, got that; start again"))
        link.abort(AGAIN)
        return AGAIN
    except KeyboardInterrupt:
        if comm is not None:
            link.abort(130)
        return 130
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        if comm is not None:
            link.abort(1)
        return 1


def _tell(error: NNLOError, speaks: bool = True) -> int:
    """Say what has failed, on one rank; return the exit code for it."""
    code = AGAIN if isinstance(error, RanksLost) else 1
    if speaks:
        if code != AGAIN:  # what ends without a mark, nnlorun may start again
            mark_done(code)
        print(f"TrainingDriver: error: {error}", file=sys.stderr, flush=True)
    return code


def _run(options: TrainOptions, comm: "MPI.Intracomm | None") -> int:
    rank = 0 if comm is None else comm.rank
    check_backend()
    level = "debug" if options.verbose else options.log_level
    logs.set_up(_role(comm), level)
    builder = together(
        comm, lambda: load_builder(options.model, **pairs("--param", options.param))
    )
    with quiet_import():
        name = together(comm, lambda: builder.name)  # runs the model's file, imports its backend
    folder = together(comm, lambda: _make_folder(options, name, rank))
    together(comm, lambda: logs.set_up(_role(comm), level, folder.log if rank == 0 else None))
    lists = together(comm, lambda: _lists(options, builder) if rank == 0 else ([], []))
    if comm is not None:
        lists = comm.bcast(lists)
    restore = together(comm, lambda: _restore(options, folder) if rank == 0 else None)
    if comm is not None:
        restore = comm.bcast(restore)
    manager = together(comm, lambda: _make_manager(options, comm, builder, folder, lists, restore))
    with quiet_import():
        manager.prepare()
    if rank == 0:
        log.info("%s: %s; %s", name, manager.summary(), folder.path)
        for remark in manager.remarks():
            log.warning("%s", remark)
    about = {"n_ranks": 1 if comm is None else comm.size, "algorithm": repr(manager.algo)}
    manager.on_root(lambda: folder.write_config(options, about))
    if rank == 0:
        mark_started(folder.checkpoint(options.checkpoint))
    code = _train(manager, folder, options)
    manager.close()  # all wait for what rank 0 has to say
    return code


def _train(manager: MPIManager, folder: RunDirectory, options: TrainOptions) -> int:
    try:
        history = manager.train()
        if history is not None:
            with quiet_import():  # Keras on torch imports TensorFlow to write a model
                best = folder.write_results(manager)
            log.info(
                "stopped by %s, %.1f s; wrote %s", history.stopped, history.train_time_s, best
            )
            if manager.unsaved is not None:
                raise manager.unsaved
    except NNLOError as error:
        code = _tell(error, manager.is_first)
        if not manager.abandoned:
            return code
    code = code_of_end(manager.interrupted, has_checkpoint=options.checkpoint is not None)
    if manager.abandoned:
        code = code or 1
        mark_done(code)
        link.abort(code)
    if manager.is_first:
        mark_done(code)
    return code


def _role(comm: "MPI.Intracomm | None") -> str:
    return "train" if comm is None else f"rank {comm.rank}"


def _make_folder(options: TrainOptions, name: str, rank: int) -> RunDirectory:
    folder = RunDirectory(options.output, name, options.trial_name)
    if rank == 0:
        folder.create()
    return folder


def _restore(options: TrainOptions, folder: RunDirectory) -> Path | None:
    base, given = (folder.checkpoint(name) for name in (options.checkpoint, options.restore))
    return resume_from(base, given, options.epochs, os.environ)


def _lists(options: TrainOptions, builder: ModelBuilder) -> tuple[list[str], list[str]]:
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


def _make_manager(
    options: TrainOptions,
    comm: "MPI.Intracomm | None",
    builder: ModelBuilder,
    folder: RunDirectory,
    lists: tuple[list[str], list[str]],
    restore: Path | None,
) -> MPIManager:
    return MPIManager(
        comm,
        _make_data(options, builder),
        _make_algo(options),
        builder,
        loss=options.loss or builder.loss,
        root_algo=_make_root_algo(options),
        train_list=lists[0],
        val_list=lists[1],
        callbacks=make_callbacks(options.callbacks) if comm is None or comm.rank == 0 else (),
        listeners=_listeners(options, folder),
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
        checkpoint=folder.checkpoint(options.checkpoint),
        checkpoint_interval=options.checkpoint_interval,
        restore=restore,
        timeline=options.timeline,
        spares=options.spares,
        suspect_after=options.suspect_after,
        on_worker_error=options.on_worker_error,
        max_refused=options.max_refused,
    )


def _listeners(options: TrainOptions, folder: RunDirectory) -> list[Listener]:
    listeners: list[Listener] = [Progress(options.epochs, options.verbose)]
    if options.tensorboard:
        listeners.append(TensorBoard(folder.path / "tensorboard"))
    return listeners


def _make_data(options: TrainOptions, builder: ModelBuilder) -> H5Data:
    return H5Data(
        options.batch,
        options.features_name or builder.features,
        options.labels_name or builder.labels,
        seed=options.seed,
        cache_dir=options.cache_data,
        copy_command=options.copy_command,
        prefetch=options.preload_data,
    )


def _make_algo(options: TrainOptions) -> Algorithm:
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


if __name__ == "__main__":
    sys.exit(main())
