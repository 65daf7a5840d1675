"""PruneDriver: what pruning a variational model costs, and the pruned model."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlo import log as logs
from nnlo.bayes.gaussians import find_gaussians
from nnlo.bayes.prune import masked, widened
from nnlo.bayes.pruning_curve import Row, pruning_curve, ratios_by_layer
from nnlo.cli.backend import check_backend, quiet_import
from nnlo.cli.driver import drive
from nnlo.cli.marks import mark_done
from nnlo.cli.past_run import PastRun
from nnlo.cli.prune_options import PruneOptions
from nnlo.cli.pruned_run import write_pruned
from nnlo.data import Data, read_list
from nnlo.errors import ConfigError, DataError, ModelError
from nnlo.files import write_text
from nnlo.model import make_adapter
from nnlo.model.adapter import ModelAdapter, Vector
from nnlo.mpi.setup import together

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger("nnlo.cli.prune")  # also where it runs as __main__, by python -m

PROG = "PruneDriver"
DESCRIPTION = (
    "Prune a variational model by the signal to noise of its weights. Writes what each share "
    "of pruned weights costs, and the pruned model."
)
SHOWN = ("accuracy", "rmse", "nll", "ece")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command on this rank; returns its exit code, see ``driver.drive``."""
    return drive(PROG, PruneOptions, DESCRIPTION, _run, argv)


@dataclass(frozen=True)
class Job:
    """What is to be pruned; every rank has one. adapter: of the model with masks."""

    options: PruneOptions
    run: PastRun
    adapter: ModelAdapter
    vector: Vector
    comm: "MPI.Intracomm | None"

    @property
    def is_first(self) -> bool:
        return self.comm is None or self.comm.rank == 0


def _run(options: PruneOptions, comm: "MPI.Intracomm | None") -> int:
    check_backend()
    logs.set_up("prune" if comm is None else f"rank {comm.rank}", "info")
    run = together(comm, lambda: PastRun.open(options.run))
    with quiet_import():
        job = together(comm, lambda: _prepare(options, run, comm))
    if job.is_first:
        n_weights = sum(one.loc.size for one in find_gaussians(job.adapter.manifest))
        log.info("%s: %d Gaussian weights", run.path, n_weights)
    rows = _measure(job)
    with quiet_import():
        together(comm, lambda: _write(job, rows) if job.is_first else None)
    if job.is_first:
        mark_done(0)
    return 0


def _prepare(options: PruneOptions, run: PastRun, comm: "MPI.Intracomm | None") -> Job:
    if run.has_particles:
        raise ConfigError(
            f"RUN must be of a model with variational layers, got one of {run.options.mode}; "
            "train one without particles, for example bnn_fc_flip"
        )
    whole = run.build()
    if not find_gaussians(whole.manifest):
        raise ModelError(
            f"RUN must be of a model with variational layers, got {run.builder.name} without; "
            "train for example bnn_fc_flip"
        )
    loss = run.options.loss or run.builder.loss
    adapter = make_adapter(masked(whole.model), loss, run.options.metrics or None)
    weights = run.weights(whole, options.weights)
    return Job(options, run, adapter, widened(whole.manifest, weights, adapter.manifest), comm)


def _measure(job: Job) -> list[Row] | None:
    options, comm = job.options, job.comm
    likelihood = together(comm, lambda: job.run.likelihood(job.adapter, options.noise))
    return pruning_curve(
        job.adapter,
        job.vector,
        likelihood,
        _data(job),
        options.shares,
        per_layer=options.per_layer,
        samples=options.samples,
        seed=options.seed,
        comm=comm,
    )


def _data(job: Job) -> Data:
    files = _first(job, lambda: _files(job.run, job.options.data))
    data, has_labels = together(job.comm, lambda: job.run.data(files, job.options.batch))
    if not has_labels:
        raise DataError(
            f"data must have labels to measure what pruning costs, got {files[0]} without; "
            "see --labels-name of the run"
        )
    data.set_counts(_first(job, data.count))
    return data


def _files(run: PastRun, file: str | None) -> list[str]:
    files = run.lists()[1] if file is None else read_list(file)
    if not files:
        raise ConfigError(
            "there must be data to measure on, got a run without validation; give --data LIST"
        )
    return files


def _first(job: Job, step: Callable[[], Any]) -> Any:
    """What ``step`` returns on rank 0, on all ranks."""
    found = together(job.comm, lambda: step() if job.is_first else None)
    return found if job.comm is None else job.comm.bcast(found)


def _write(job: Job, rows: list[Row] | None) -> None:
    """On rank 0; raises ConfigError where the disk does not take it."""
    assert rows is not None
    options = job.options
    folder = Path(options.output or job.run.path / "pruning")
    about = {
        "run": str(job.run.path),
        "data": options.data or "the run's validation",
        "per_layer": options.per_layer,
        "samples": options.samples,
        "curve": rows,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "curve.json", json.dumps(about, indent=1))
        if options.plots:
            from nnlo.report.bayes_pruning import write_all

            write_all(rows, ratios_by_layer(job.adapter, job.vector), folder / "plots")
        if options.keep is not None:
            write_pruned(
                job.run,
                job.adapter,
                job.vector,
                folder,
                fraction=options.keep,
                per_layer=options.per_layer,
            )
    except OSError as error:
        raise ConfigError(
            f"--output must be a folder that can be written, got {folder} ({error}); free space "
            "or name another one"
        ) from error
    _show(rows)
    log.info("wrote %s", folder)


def _show(rows: list[Row]) -> None:
    names = [name for name in SHOWN if name in rows[0]["metrics"]]
    print("  pruned       left" + "".join(f"{name:>11}" for name in names))
    for row in rows:
        found = [row["metrics"][name] for name in names]
        cells = "".join(f"{'-' if one is None else f'{one:.4g}':>11}" for one in found)
        print(f"{100 * row['pruned']:7.2f}%{row['n_left']:>11,}{cells}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
