"""TrainingDriver with particles: ensembles, MultiSWAG, SVGD, MC dropout."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlo.bayes.method import Method
from nnlo.bayes.methods import make_method
from nnlo.bayes.particles import Particles
from nnlo.cli.backend import quiet_import
from nnlo.cli.config_file import pairs
from nnlo.cli.marks import code_of_end, mark_done, mark_started
from nnlo.cli.progress import Progress
from nnlo.cli.rundir import RunDirectory
from nnlo.cli.train_options import TrainOptions
from nnlo.cli.training import Lists, make_data
from nnlo.data import Data
from nnlo.errors import ConfigError
from nnlo.model import ModelBuilder
from nnlo.mpi.setup import together

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger(__name__)

POSTERIOR = "posterior"
"""The folder of the particles in that of their run."""


@dataclass(frozen=True)
class Job:
    """What the driver has found out. lists: training and validation files."""

    options: TrainOptions
    builder: ModelBuilder
    name: str
    folder: RunDirectory
    lists: Lists
    restore: Path | None


def train_particles(job: Job, comm: "MPI.Intracomm | None") -> int:
    """Train and write the posterior; every rank calls it. Returns the exit code."""
    options, folder = job.options, job.folder
    method = together(comm, lambda: method_of(options))
    particles = together(
        comm,
        lambda: Particles(
            job.builder,
            options.particles,
            comm=comm,
            loss=options.loss or job.builder.loss,
            metrics=options.metrics or None,
            group_size=options.ranks_per_particle,
            seed=options.seed,
        ),
    )
    with quiet_import():
        particles.prepare()
    data, validation = _make_sets(job, comm)
    checkpoint = folder.checkpoint(options.checkpoint)
    is_first = particles.team.rank == 0

    def begin() -> None:
        n_weights = particles.adapter.manifest.n_trainable
        log.info(
            "%s: %s of %s weights, %s samples, %d epochs, %s; %s",
            *(job.name, particles.team.placement.describe(), f"{n_weights:,}"),
            *(f"{data.n_samples:,}", options.epochs, method.name, folder.path),
        )
        folder.write_config(options, _about(particles, method))
        mark_started(checkpoint)

    together(comm, lambda: begin() if is_first else None)
    particles.fit(
        method,
        data,
        epochs=options.epochs,
        bootstrap=options.bootstrap,
        validation=validation,
        validate_every=options.validate_every,
        checkpoint=checkpoint,
        checkpoint_interval=options.checkpoint_interval,
        restore=job.restore,
        listeners=[Progress(options.epochs, options.verbose)],
    )
    try:
        particles.save(folder.path / POSTERIOR)
    finally:  # it may fit where particles do not
        together(comm, lambda: _write_history(particles, folder.path) if is_first else None)
    particles.close()
    if particles.unsaved is not None:
        raise particles.unsaved
    code = code_of_end(particles.interrupted, has_checkpoint=options.checkpoint is not None)
    if is_first:
        mark_done(code)
    return code


def method_of(options: TrainOptions) -> Method:
    """The method that the options name; raises ConfigError for numbers that it does not have."""
    numbers: dict[str, Any] = pairs("--mode-params", options.mode_params)
    given = {"optimizer": options.optimizer, "learning_rate": options.learning_rate}
    numbers |= {name: value for name, value in given.items() if value is not None}
    return make_method(options.mode, **numbers)


def _make_sets(job: Job, comm: "MPI.Intracomm | None") -> tuple[Data, Data | None]:
    """Training and validation data; their files are opened on rank 0 alone to be counted."""
    sets: list[Data | None] = []
    for files in job.lists:
        data = make_data(job.options, job.builder)
        data.set_files(files)
        counts = together(comm, data.count if files and _is_first(comm) else list)
        if comm is not None:
            counts = comm.bcast(counts)
        data.set_counts(counts)
        sets.append(data if files else None)
    training, validation = sets
    assert training is not None  # find_lists sees to it
    if validation is not None:
        validation.shuffle = False
    return training, validation


def _about(particles: Particles, method: Method) -> dict[str, Any]:
    placement = particles.team.placement
    return {"n_ranks": placement.n_ranks, "algorithm": repr(method)}


def _write_history(particles: Particles, folder: Path) -> None:
    history = particles.history
    assert history is not None
    try:
        history.save(folder / "history.json")
    except OSError as error:
        raise ConfigError(
            f"results must be written to {folder}, got {error}; free space"
        ) from error
    log.info("stopped by %s, %.1f s; wrote %s", history.stopped, history.train_time_s, folder)


def _is_first(comm: "MPI.Intracomm | None") -> bool:
    return comm is None or comm.rank == 0
