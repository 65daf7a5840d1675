"""What pruning costs: the metrics of a variational model against the share that is pruned."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.bayes.evaluate import evaluate
from nnlo.bayes.gaussians import find_gaussians
from nnlo.bayes.likelihood import Likelihood
from nnlo.bayes.predict import Points
from nnlo.bayes.prune import apply_masks, masks, pruned_share
from nnlo.bayes.variational import Variational
from nnlo.model.adapter import ModelAdapter, Vector

if TYPE_CHECKING:
    from mpi4py import MPI

Row = dict[str, Any]


def pruning_curve(
    adapter: ModelAdapter,
    vector: Vector,
    likelihood: Likelihood,
    points: Points,
    fractions: Sequence[float],
    *,
    per_layer: bool = False,
    samples: int | None = None,
    seed: int = 0,
    comm: "MPI.Intracomm | None" = None,
) -> list[Row] | None:
    """Return the metrics at each fraction on rank 0, None elsewhere; collective over ``comm``.

    adapter: of a model with masks, see ``prune.masked``. vector: its weights ``[T | S]``, only
    read. The draws of all fractions have the same noise, so that the rows differ by the pruning
    alone. A row holds fraction (wanted), pruned (share that is), n_left (weights) and metrics by
    name, see ``evaluate.Report``; None for what is not a number.
    """
    gaussians = find_gaussians(adapter.manifest)
    total = sum(one.loc.size for one in gaussians)
    rank, n_ranks = (0, 1) if comm is None else (comm.rank, comm.size)
    rows: list[Row] = []
    for fraction in fractions:
        pruned = vector.copy()
        chosen = masks(gaussians, pruned, fraction=fraction, per_layer=per_layer)
        apply_masks(gaussians, pruned, chosen)
        posterior = Variational(adapter.manifest, pruned, seed, rank, n_ranks)
        report = evaluate(posterior, adapter, likelihood, points, samples=samples, comm=comm)
        if report is None:
            continue
        scores = {k: v if math.isfinite(v) else None for k, v in report.metrics.items()}
        share = pruned_share(gaussians, pruned)
        n_left = total - round(share * total)
        rows.append({"fraction": fraction, "pruned": share, "n_left": n_left, "metrics": scores})
    return rows if rank == 0 else None


def ratios_by_layer(adapter: ModelAdapter, vector: Vector) -> dict[str, Vector]:
    """Return |loc| / sigma of the weights that are not pruned, (n,) for each Bayesian tensor."""
    found: dict[str, Vector] = {}
    for one in find_gaussians(adapter.manifest):
        mask, ratios = one.masks(vector), one.snr(vector)
        name = one.name if one.name not in found else f"{one.name} {len(found) + 1}"
        found[name] = ratios.reshape(-1) if mask is None else ratios[np.asarray(mask) != 0.0]
    return found
