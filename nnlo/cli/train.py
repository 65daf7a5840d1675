"""TrainingDriver: train a model on the ranks that mpirun, srun or nnlorun started."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnlo import log as logs
from nnlo.bayes.methods import METHODS
from nnlo.cli.backend import check_backend, quiet_import
from nnlo.cli.config_file import pairs
from nnlo.cli.driver import drive, tell
from nnlo.cli.marks import code_of_end, mark_done, mark_started
from nnlo.cli.posterior_trace import draw_posterior, record_posterior
from nnlo.cli.progress import Progress
from nnlo.cli.resume import resume_from
from nnlo.cli.rundir import RunDirectory
from nnlo.cli.train_options import TrainOptions
from nnlo.cli.training import find_lists, make_data, make_manager
from nnlo.errors import NNLOError
from nnlo.model import load_builder
from nnlo.mpi import link
from nnlo.mpi.manager import MPIManager
from nnlo.mpi.plan import Listener
from nnlo.mpi.setup import together
from nnlo.report.tensorboard import TensorBoard

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger("nnlo.cli.train")  # also where it runs as __main__, by python -m

PROG = "TrainingDriver"
DESCRIPTION = "Train a Keras or PyTorch model with a master and workers over MPI."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command on this rank; returns its exit code, see ``driver.drive``: 0, or upon a
    signal that ended it in order 75 with --checkpoint, 128 + n without."""
    return drive(PROG, TrainOptions, DESCRIPTION, _run, argv)


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
    lists = together(comm, lambda: find_lists(options, builder) if rank == 0 else ([], []))
    if comm is not None:
        lists = comm.bcast(lists)
    restore = together(comm, lambda: _restore(options, folder) if rank == 0 else None)
    if comm is not None:
        restore = comm.bcast(restore)
    if options.mode in METHODS:
        from nnlo.cli.particles import Job, train_particles

        return train_particles(Job(options, builder, name, folder, lists, restore), comm)
    manager = together(
        comm,
        lambda: make_manager(
            options,
            comm,
            builder,
            make_data(options, builder),
            lists,
            listeners=_listeners(options, folder),
            checkpoint=folder.checkpoint(options.checkpoint),
            restore=restore,
        ),
    )
    with quiet_import():
        manager.prepare()
    manager.on_root(lambda: record_posterior(manager, folder.path, options.posterior_every))
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
            draw_posterior(manager, folder.path)
            log.info(
                "stopped by %s, %.1f s; wrote %s", history.stopped, history.train_time_s, best
            )
            if manager.unsaved is not None:
                raise manager.unsaved
    except NNLOError as error:
        code = tell(PROG, error, manager.is_first)
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


def _listeners(options: TrainOptions, folder: RunDirectory) -> list[Listener]:
    listeners: list[Listener] = [Progress(options.epochs, options.verbose)]
    if options.tensorboard:
        listeners.append(TensorBoard(folder.path / "tensorboard"))
    return listeners


if __name__ == "__main__":
    sys.exit(main())
