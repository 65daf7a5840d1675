"""What is kept of each epoch of particles, and what they are worth on other data."""

import copy
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nnlo.data import Data
from nnlo.history import History, Record

if TYPE_CHECKING:
    from nnlo.bayes.particles import Particles

log = logging.getLogger(__name__)

Sums = NDArray[np.float64]
"""(particles, 1 + n_metrics): samples, and the sum of each metric over them."""


def note_epoch(
    history: History,
    names: Sequence[str],
    sums: tuple[Sums, Sums | None],
    time_s: float,
    numbers: Mapping[str, float],
) -> Record:
    """Add an epoch of all particles to ``history``; return its record, means over particles.

    names: of the metrics. sums: of training and, where it was made, of validation. numbers: what
    is known of the epoch besides.
    """
    trained, tested = sums
    epoch = len(history.epochs) + 1
    means = {name: trained[:, 1 + i] / trained[:, 0] for i, name in enumerate(names)}
    if tested is not None:
        means |= {f"val_{n}": tested[:, 1 + i] / tested[:, 0] for i, n in enumerate(names)}
    for pid in range(len(trained)):
        row = {"epoch": epoch, **{name: float(of[pid]) for name, of in means.items()}}
        history.particles.setdefault(str(pid), []).append(row)
    n_samples = int(trained[:, 0].sum())
    record: Record = {
        "epoch": epoch,
        **{name: float(of.mean()) for name, of in means.items()},
        "samples": n_samples,
        "time_s": time_s,
        "samples_per_s": n_samples / max(time_s, 1e-9),
        **numbers,
    }
    history.epochs.append(record)
    history.train_time_s += time_s
    return record


def measured(particles: "Particles", data: Data) -> Sums:
    """Sums of this rank's particles over its group's part of ``data``, in inference mode."""
    team, adapter = particles.team, particles.adapter
    data = copy.copy(data)
    data.set_shard(team.member, team.placement.group_size)
    sums = np.zeros((len(particles.pids), 1 + len(adapter.metric_names)))
    for row in range(len(particles.pids)):
        adapter.set_flat(np.concatenate([particles.weights[row], particles.state[row]]))
        with closing(data.epoch(0)) as batches:
            for batch in batches:
                sums[row] += adapter.test_step(batch)
    return sums


def warn_of_equals(particles: "Particles") -> None:
    """Tell the user on rank 0 of first weights that come more than once; collective."""
    marks = [np.frombuffer(sha256(row).digest(), np.uint8) for row in particles.weights]
    n_distinct = len(np.unique(particles.team.collect(np.array(marks)), axis=0))
    if n_distinct < particles.n and particles.team.rank == 0:
        log.warning(
            "%d particles begin with %d different weight vectors: equal ones explore the same; "
            "let the model draw its first weights, without a seed of its own",
            particles.n,
            n_distinct,
        )
