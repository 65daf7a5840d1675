"""What a worker is told before it begins, and what a checkpoint gives back to it."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nnlo.algo.base import Vector, WorkerHalf
from nnlo.checkpoint import part
from nnlo.model.adapter import ModelAdapter
from nnlo.model.kl_schedule import KlSchedule
from nnlo.mpi.agenda import Position


@dataclass(frozen=True)
class WorkerPlan:
    """n_epochs: to the end of which it trains. sync_every: batches between exchanges.
    trains_locally: whether batches are local steps, at ``base_rate`` times what the master
    says, or gradients. pulls: whether it asks for the master's weights before each update.
    start: where in its data it begins, or None for a spare, which waits for another's data;
    version: of the weights it begins with. sends_state: whether checkpoints need its local
    state. seed: of the random layers of a ring's member, which begin anew with each epoch.
    kl: what the divergence of a variational model counts, with the samples of all data; None
    for other models."""

    n_epochs: int
    sync_every: int = 1
    trains_locally: bool = False
    base_rate: float = 1.0
    pulls: bool = False
    start: Position | None = (0, 0)
    version: int = 0
    sends_state: bool = False
    seed: int = 0
    kl: tuple[KlSchedule, int] | None = None


def load_worker_state(
    state: dict[str, NDArray[Any]], adapter: ModelAdapter, half: WorkerHalf, weights: Vector
) -> Position:
    """Put back what a worker sent for a checkpoint; return where it goes on in its data.

    weights: those from which it will ``run``; an S of its own is written to them.
    """
    adapter.load_local_state(part(state, "model/"))
    half.load_state(part(state, "algo/"))
    if "state" in state:
        weights[adapter.manifest.n_trainable :] = state["state"]
    epoch, batch = (int(value) for value in state["position"])
    return epoch, batch
