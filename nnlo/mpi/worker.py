"""A worker: trains on its shard and yields a message when it is time to exchange.

It is a generator: it yields its UP frame and is sent the DOWN frame. Who carries them (MPI,
a loop in one process, a simulated order) is not its business.
"""

import time
import traceback
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.algo.base import State, Vector, WorkerHalf
from nnlo.data import Data
from nnlo.errors import NNLOError, TrainingError
from nnlo.model.adapter import Batch, ModelAdapter, Sums
from nnlo.mpi.frame import (
    BUSY_S,
    ERROR_BYTES,
    N_TIMES,
    WAIT_S,
    Flag,
    Frame,
    Header,
    Kind,
    pack_arrays,
)
from nnlo.spans import Spans

Position = tuple[int, int]
"""(epoch, batches of it that are done)."""


@dataclass(frozen=True)
class WorkerPlan:
    """n_epochs: to the end of which it trains. sync_every: batches between exchanges.
    trains_locally: whether batches are local steps, at ``base_rate`` times what the master
    says, or gradients. start: where in its data it begins; version: of the weights it begins
    with. sends_state: whether checkpoints need its local state."""

    n_epochs: int
    sync_every: int = 1
    trains_locally: bool = False
    base_rate: float = 1.0
    start: Position = (0, 0)
    version: int = 0
    sends_state: bool = False


class Worker:
    """The worker of one rank.

    up: its frame, with a tail of ``N_TIMES`` + the adapter's sums. spans: where it notes what
    it did when.
    """

    def __init__(
        self,
        rank: int,
        adapter: ModelAdapter,
        data: Data,
        half: WorkerHalf,
        up: Frame,
        plan: WorkerPlan,
        spans: Spans | None = None,
    ) -> None:
        self.rank = rank
        self._adapter = adapter
        self._data = data
        self._half = half
        self._up = up
        self._plan = plan
        self._spans = spans or Spans()
        self._layout = adapter.manifest.hash32
        self._n_trainable = adapter.manifest.n_trainable
        self._scratch: Vector | None = None
        self._position = plan.start
        self._version = plan.version
        self._n_steps = 0
        self._sums: Sums = up.tail[N_TIMES:]
        self._saved: bytes = b""

    def run(self, weights: Vector) -> Generator[Frame, Frame, None]:
        """Train from the master's ``weights``, shape (manifest.size,).

        Raises TrainingError when a loss is not finite, and whatever the user's data or model
        raises.
        """
        self._go_on_from(weights)
        self._reset()
        first, done = self._position
        for epoch in range(first, self._plan.n_epochs):
            skip = done if epoch == first else 0
            with closing(self._data.epoch(epoch, skip)) as batches:
                for index, batch in enumerate(batches, skip):
                    self._train(batch, epoch, index)
                    self._position = (epoch, index + 1)
                    if self._n_steps < self._plan.sync_every:
                        continue
                    down = yield self._message(Kind.UPDATE)
                    if self._receive(down):
                        yield self._message(Kind.BYE)
                        return
            self._position = (epoch + 1, 0)
        yield self._message(Kind.BYE)

    def failure(self, error: BaseException, host: str) -> Frame:
        """The message that tells the master what this rank's code raised."""
        own = isinstance(error, NNLOError)  # meant for users: the message says it all
        trace = str(error) if own else "".join(traceback.format_exception(error))
        head = f"{host}\n".encode()
        self._up.tail[:] = 0.0
        # The end of a traceback says more than its beginning.
        n_extra = self._up.set_extra(head + trace.encode()[-(ERROR_BYTES - len(head)) :])
        self._up.header = Header(
            Kind.ERROR, sender=self.rank, layout=self._layout, n_extra=n_extra
        )
        return self._up

    def _train(self, batch: Batch, epoch: int, index: int) -> None:
        if self._plan.trains_locally:
            sums = self._adapter.train_step(batch)
        elif self._n_steps == 0:
            sums = self._adapter.gradient(batch, self._up.vector)
        else:
            sums = self._add_gradient(batch)
        if not np.isfinite(sums[1]):
            raise TrainingError(
                f"the loss must be finite, got {sums[1] / max(sums[0], 1.0)} in epoch "
                f"{epoch + 1}, batch {index + 1}; lower the learning rate, clip gradients "
                "(--clip-norm) or look for bad values in the data"
            )
        self._sums += sums
        self._n_steps += 1

    def _add_gradient(self, batch: Batch) -> Sums:
        """Make the vector the mean gradient of all samples since the last exchange."""
        if self._scratch is None:
            self._scratch = np.empty_like(self._up.vector)
        sums = self._adapter.gradient(batch, self._scratch)
        total, new, n = self._up.vector, self._scratch, self._n_trainable
        share = np.float32(sums[0] / max(self._sums[0] + sums[0], 1.0))
        total[:n] += share * (new[:n] - total[:n])
        total[n:] = new[n:]
        return sums

    def _message(self, kind: Kind) -> Frame:
        """Fill the frame with what has been done since the last exchange."""
        has_update = self._n_steps > 0
        if has_update:
            if self._plan.trains_locally:
                self._adapter.get_flat(self._up.vector)
            self._half.push(self._up.vector[: self._n_trainable])
        state = self._saved
        if kind is Kind.BYE and self._plan.sends_state and not state:
            state = self._pack_state()
        self._saved = b""
        flags = Flag.HAS_UPDATE if has_update else Flag(0)
        if state:
            flags |= Flag.HAS_STATE
        now = time.perf_counter()
        self._up.tail[BUSY_S] = now - self._resumed
        self._spans.add("train", self._resumed, now)
        self._up.header = Header(
            kind,
            flags,
            self.rank,
            self._version,
            int(self._sums[0]),
            self._n_steps,
            *self._position,
            layout=self._layout,
            n_extra=self._up.set_extra(state),
        )
        self._sent = time.perf_counter()
        return self._up

    def _receive(self, down: Frame) -> bool:
        """Take the answer; return whether the run stops."""
        header = down.header
        self._version = header.version
        self._go_on_from(down.vector)
        if self._plan.trains_locally:
            self._adapter.learning_rate = self._plan.base_rate * header.rate
        if header.flags & Flag.SAVE:
            self._saved = self._pack_state()
        self._reset()
        self._up.tail[WAIT_S] = self._resumed - self._sent
        self._spans.add("exchange", self._sent, self._resumed)
        return bool(header.flags & Flag.STOP)

    def _go_on_from(self, weights: Vector) -> None:
        trainable = weights[: self._n_trainable]
        start = self._half.absorb(trainable)
        if start is not trainable:
            weights = np.concatenate([start, weights[self._n_trainable :]])
        self._adapter.set_flat(weights)

    def _reset(self) -> None:
        self._up.tail[:] = 0.0
        self._n_steps = 0
        self._resumed = time.perf_counter()

    def _pack_state(self) -> bytes:
        return pack_arrays(
            {
                "position": np.array(self._position),
                **{f"model/{k}": v for k, v in self._adapter.local_state().items()},
                **{f"algo/{k}": v for k, v in self._half.state().items()},
            }
        )


def load_worker_state(
    state: dict[str, NDArray[Any]], adapter: ModelAdapter, half: WorkerHalf
) -> Position:
    """Put back what a worker sent for a checkpoint; return where it goes on in its data."""
    adapter.load_local_state(_part(state, "model/"))
    half.load_state(_part(state, "algo/"))
    epoch, batch = (int(value) for value in state["position"])
    return epoch, batch


def _part(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
