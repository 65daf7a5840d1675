"""The trace of a posterior in the folder of a training run: recorded, and drawn at the end."""

import logging
from importlib.util import find_spec
from pathlib import Path

from nnlo.bayes.gaussians import find_gaussians
from nnlo.bayes.recorder import FILE, PosteriorRecorder
from nnlo.errors import ConfigError
from nnlo.mpi.manager import MPIManager

log = logging.getLogger(__name__)


def record_posterior(manager: MPIManager, folder: Path, every: int | None) -> None:
    """Record the posterior of a variational model; on rank 0, after ``prepare``.

    every: updates between records, None for one an epoch. ConfigError where one is given for
    another model.
    """
    if find_gaussians(manager.adapter.manifest):
        manager.listen(PosteriorRecorder(manager.adapter.manifest, folder, every))
    elif every is not None:
        raise ConfigError(
            f"--posterior-every must go with a model that has variational layers, got {every} "
            "for one without; leave it out, it has no effect"
        )


def draw_posterior(manager: MPIManager, folder: Path) -> None:
    """Draw what has been recorded; on rank 0. Without matplotlib only say so."""
    if not find_gaussians(manager.adapter.manifest):
        return
    if find_spec("matplotlib") is None:
        log.info("no figure of %s: matplotlib is not installed (pip install 'nnlo[plots]')", FILE)
        return
    from nnlo.report.bayes_trace import write_trace

    try:
        log.info("drew %s", write_trace(folder / FILE))
    except (ConfigError, OSError) as error:
        log.warning("no figure of %s: %s", FILE, error)
