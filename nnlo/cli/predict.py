"""PredictDriver: what a run predicts, how sure it is, and how good that is."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlo import log as logs
from nnlo.bayes.evaluate import Report, judge
from nnlo.bayes.likelihood import Likelihood
from nnlo.bayes.posterior import Posterior
from nnlo.bayes.predict import Points, Prediction, predict
from nnlo.bayes.table import write_csv, write_npz
from nnlo.cli.backend import check_backend, quiet_import
from nnlo.cli.driver import drive
from nnlo.cli.marks import mark_done
from nnlo.cli.past_run import PastRun
from nnlo.cli.predict_options import PredictOptions
from nnlo.data import read_list
from nnlo.errors import ConfigError
from nnlo.files import write_text
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi.setup import together

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger("nnlo.cli.predict")  # also where it runs as __main__, by python -m

PROG = "PredictDriver"
DESCRIPTION = (
    "Predict by the posterior of a run: particles, variational layers or plain weights. Writes "
    "each point's prediction with its uncertainty, and metrics."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command on this rank; returns its exit code, see ``driver.drive``."""
    return drive(PROG, PredictOptions, DESCRIPTION, _run, argv)


@dataclass(frozen=True)
class Job:
    """What all predictions have in common; every rank has one."""

    options: PredictOptions
    run: PastRun
    adapter: ModelAdapter
    likelihood: Likelihood
    posterior: Posterior
    comm: "MPI.Intracomm | None"


def _run(options: PredictOptions, comm: "MPI.Intracomm | None") -> int:
    check_backend()
    logs.set_up("predict" if comm is None else f"rank {comm.rank}", "info")
    job = _prepare(options, comm)
    if comm is None or comm.rank == 0:
        kind = f"{job.run.options.mode}" if job.run.has_particles else job.posterior.kind
        n_draws = job.posterior.n_draws(options.samples)
        log.info("%s: posterior %s, %d draws", job.run.path, kind, n_draws)
    prediction = _predict(job, options.data)
    ood = None if options.ood is None else _predict(job, options.ood)
    together(comm, lambda: _write(job, prediction, ood))
    if comm is None or comm.rank == 0:
        mark_done(0)
    return 0


def _prepare(options: PredictOptions, comm: "MPI.Intracomm | None") -> Job:
    run = together(comm, lambda: PastRun.open(options.run))
    with quiet_import():
        adapter = together(comm, run.build)
    likelihood = together(comm, lambda: run.likelihood(adapter, options.noise))

    def draw_from() -> Posterior:
        found = run.posterior(adapter, comm, which=options.weights, seed=options.seed)
        found.n_draws(options.samples)  # says now what is wrong with the wish
        return found

    return Job(options, run, adapter, likelihood, together(comm, draw_from), comm)


def _predict(job: Job, file: str | None) -> Prediction | None:
    """Of the files in the list ``file``, or of the run's validation; on rank 0."""
    comm, run = job.comm, job.run
    files = _first(job, lambda: _files(run, file))
    data, has_labels = together(comm, lambda: run.data(files, job.options.batch))
    data.set_counts(_first(job, data.count))
    points: Points = data if has_labels else (data, None)
    refresh = None
    if job.posterior.needs_refresh and job.adapter.manifest.n_state:
        train = _first(job, lambda: run.lists()[0])
        refresh = run.refresh(job.adapter, train)
    return predict(
        job.posterior,
        job.adapter,
        job.likelihood,
        points,
        samples=job.options.samples,
        comm=comm,
        refresh=refresh,
        keep_draws=job.options.keep_draws,
    )


def _first(job: Job, step: Callable[[], Any]) -> Any:
    """What ``step`` returns on rank 0, on all ranks."""
    comm = job.comm
    found = together(comm, lambda: step() if comm is None or comm.rank == 0 else None)
    return found if comm is None else comm.bcast(found)


def _files(run: PastRun, file: str | None) -> list[str]:
    if file is not None:
        return read_list(file)
    files = run.lists()[1]
    if not files:
        raise ConfigError(
            "there must be data to predict, got a run without validation; give --data LIST"
        )
    return files


def _write(job: Job, prediction: Prediction | None, ood: Prediction | None) -> None:
    """On rank 0; raises ConfigError where the disk does not take it."""
    if prediction is None:
        return
    folder = Path(job.options.output or job.run.path / "predictions")
    report = judge(prediction, ood)
    about = {
        "run": str(job.run.path),
        "posterior": job.run.options.mode if job.run.has_particles else job.posterior.kind,
        "kind": prediction.kind,
        "data": job.options.data or "the run's validation",
        "ood_data": job.options.ood,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, one in (("predictions", prediction), ("ood", ood)):
            if one is not None:
                write_npz(one, folder / f"{name}.npz")
                write_csv(one, folder / f"{name}.csv")
        write_text(folder / "metrics.json", json.dumps(about | report.as_dict(), indent=1))
        if job.options.plots:
            from nnlo.report.bayes_plots import write_all

            write_all(
                prediction.columns,
                folder / "plots",
                outside=None if ood is None else ood.columns,
                reliability=report.as_dict().get("reliability"),
            )
    except OSError as error:
        raise ConfigError(
            f"--output must be a folder that can be written, got {folder} ({error}); free space "
            "or name another one"
        ) from error
    _show(report)
    log.info("wrote %s", folder)


def _show(report: Report) -> None:
    rows = [(name, f"{value:.4g}") for name, value in report.metrics.items()]
    for score, found in (report.ood or {}).items():
        rows += [(f"ood {score} {name}", f"{value:.4g}") for name, value in found.items()]
    width = max(len(name) for name, _ in rows)
    print(f"{report.n_points} points, {report.n_draws} draws")
    print("\n".join(f"{name:{width}}  {value}" for name, value in rows), flush=True)


if __name__ == "__main__":
    sys.exit(main())
