"""A worker: trains on its shard and yields a message when it is time to exchange.

It is a generator: it yields its UP frame and is sent the DOWN frame. Who carries them (MPI,
a loop in one process, a simulated order) is not its business.
"""

import time
from collections.abc import Generator
from contextlib import closing
from itertools import islice

import numpy as np

from nnlo.algo import kernels
from nnlo.algo.base import State, Vector, WorkerHalf
from nnlo.data import Data
from nnlo.model.adapter import Batch, ModelAdapter, Sums
from nnlo.model.kl_schedule import KlWeight
from nnlo.mpi.agenda import Agenda, Share, Stint, after, own_share, unpack
from nnlo.mpi.failure import describe, write_failure
from nnlo.mpi.frame import (
    BUSY_S,
    N_TIMES,
    WAIT_S,
    Flag,
    Frame,
    Header,
    Kind,
    pack_arrays,
)
from nnlo.mpi.refusal import Refusal, pack_refusals
from nnlo.mpi.workerplan import WorkerPlan
from nnlo.spans import Spans


class Worker:
    """The worker of one rank.

    What its steps since the last exchange have come to is refused where it is not finite: the
    message says so instead of bringing it, and the worker goes on from the master's weights.

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
        self._position = plan.start or (0, 0)
        self._share = 0  # of its agenda, in which that position is
        self._version = plan.version
        self._n_steps = 0
        self._sums: Sums = up.tail[N_TIMES:]
        self._place = (0, 0)  # epoch and batch of the last step, from 1
        self._refusals: list[Refusal] = []  # that have not been told
        self._recovers = False  # whether refusals are all that the last message brought
        self._is_joint = False  # whether what is in the frame is that of a ring
        self._saved: bytes = b""
        self._rate: float | None = None
        self._kl = None if plan.kl is None else KlWeight(adapter, *plan.kl)

    def run(self, weights: Vector) -> Generator[Frame, Frame, None]:
        """Train from the master's ``weights``, shape (manifest.size,), until it says FINAL.

        Raises whatever the user's data or model raises.
        """
        self._begin(weights)
        self._agenda = Agenda(self._own_shares())
        while True:
            stops = False
            while not stops and (stint := self._agenda.next()) is not None:
                stops = yield from self._do(stint)
            if not stops:
                yield from self._wind_up()
            down = yield self._message(Kind.BYE)
            if down.header.kind is Kind.FINAL:
                return
            self._be_hired(down)

    def _own_shares(self) -> list[Share]:
        if self._plan.start is None:
            return []
        return own_share(self._data.shard_index, self._plan.start, self._plan.n_epochs)

    def _do(self, stint: Stint) -> Generator[Frame, Frame, bool]:
        """Train on one stint; True where the run stops."""
        self._data.set_shard(stint.shard, self._data.n_shards)
        n_batches = None if stint.stop is None else stint.stop - stint.start
        end = self._data.n_batches(stint.shard) if stint.stop is None else stint.stop
        whole = None if self._kl is None else self._data.n_batches(stint.shard)
        with closing(self._data.epoch(stint.epoch, stint.start)) as batches:
            for index, batch in enumerate(islice(batches, n_batches), stint.start):
                if self._kl is not None:
                    self._kl.begin(stint.epoch, index, whole)
                self._train(batch, stint.epoch, index)
                self._share, self._position = stint.share, after(stint.epoch, index, end)
                if self._is_due() and (yield from self._exchange()):
                    return True
        self._position = (stint.epoch + 1, 0)
        return False

    def follow(self, rate: float) -> None:
        """Train on at ``rate`` times the learning rate of the start."""
        if rate == self._rate:  # setting it may cost a backend more than a step
            return
        self._rate = self._half.rate = rate
        if self._plan.trains_locally:
            self._adapter.learning_rate = self._plan.base_rate * rate

    def failure(self, error: BaseException, host: str) -> Frame:
        """The message that tells the master what this rank's code raised."""
        write_failure(self._up, self.rank, self._layout, host, describe(error))
        return self._up

    def _begin(self, weights: Vector) -> None:
        self._go_on_from(weights)
        self._reset()

    def _is_due(self) -> bool:
        return self._n_steps >= self._plan.sync_every or not np.isfinite(self._sums[1])

    def _exchange(self) -> Generator[Frame, Frame, bool]:
        """Send what has been done, go on from the answer; True where it was the last time."""
        self._collect()
        stops = self._plan.pulls and self._n_steps > 0 and (yield from self._pull())
        if stops and not self._saved:
            return True
        return self._receive((yield self._message(Kind.UPDATE)))

    def _wind_up(self) -> Generator[Frame, Frame, None]:
        """What comes before BYE where all has been done."""
        self._collect()
        if self._plan.pulls and self._n_steps:
            yield from self._pull()
        # That which is saved is of an epoch's end; BYE carries that of now.
        if (self._n_steps or self._refusals) and self._saved:
            self._receive((yield self._message(Kind.UPDATE)))

    def _be_hired(self, down: Frame) -> None:
        """Go on, with another one's data, as if from the start."""
        self._receive(down)
        self._up.vector[self._n_trainable :] = down.vector[self._n_trainable :]

    def _pull(self) -> Generator[Frame, Frame, bool]:
        """Hand the master's present weights to the algorithm; return whether the run stops."""
        asked = time.perf_counter()
        self._up.header = Header(
            Kind.PULL, sender=self.rank, version=self._version, layout=self._layout
        )
        down = yield self._up
        self._version = down.header.version
        self._half.pull(down.vector[: self._n_trainable])
        waited = time.perf_counter() - asked
        self._up.tail[WAIT_S] += waited
        self._resumed += waited  # not a time of work
        return bool(down.header.flags & Flag.STOP)

    def _train(self, batch: Batch, epoch: int, index: int) -> None:
        if self._plan.trains_locally:
            sums = self._adapter.train_step(batch)
        elif self._n_steps == 0:
            sums = self._adapter.gradient(batch, self._up.vector)
        else:
            sums = self._add_gradient(batch)
        self._add(sums, epoch, index)

    def _add(self, sums: Sums, epoch: int, index: int) -> None:
        """Count one more batch; after a loss that is not finite the sums are not either."""
        self._sums += sums
        self._n_steps += 1
        self._place = (epoch + 1, index + 1)

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

    def _collect(self) -> None:
        """Put what has been done since the last exchange into the frame, or refuse it."""
        if not self._n_steps:
            return
        if self._plan.trains_locally:
            self._adapter.get_flat(self._up.vector)
        if not (np.isfinite(self._sums[1]) and kernels.is_finite(self._up.vector)):
            self._refuse()
            if self._plan.trains_locally:
                self._adapter.reset_optimizer()

    def _refuse(self) -> None:
        """Drop what is in the frame, and note it."""
        n_samples, norm = int(self._sums[0]), kernels.norm(self._up.vector)
        refusal = Refusal(self.rank, *self._place, n_samples, self._n_steps, norm, self._is_joint)
        self._refusals.append(refusal)
        self._sums[:] = 0.0
        self._n_steps = 0

    def _message(self, kind: Kind) -> Frame:
        """Complete what ``_collect`` has put into the frame."""
        has_update = self._n_steps > 0
        self._recovers = bool(self._refusals) and not has_update
        if has_update:
            self._half.push(self._up.vector[: self._n_trainable])
        state = self._saved
        if kind is Kind.BYE and self._plan.sends_state and not state:
            state = self._pack_state()
        self._saved = b""
        flags = Flag.HAS_UPDATE if has_update else Flag(0)
        if state:
            flags |= Flag.HAS_STATE
        if self._refusals:
            flags |= Flag.REFUSED
        if self._plan.pulls and not self._recovers:
            flags |= Flag.NO_WEIGHTS
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
            stint=self._share,
            n_extra=self._up.set_extra(pack_refusals(self._refusals) + state),
        )
        self._refusals.clear()
        self._sent = time.perf_counter()
        return self._up

    def _receive(self, down: Frame) -> bool:
        """Take the answer; return whether the run stops."""
        header = down.header
        if header.flags & Flag.GIFT:
            self._agenda.add(unpack(down.attached))
        if header.kind is Kind.ACK:
            self._go_on_from(None)
        else:
            self._version = header.version
            self._go_on_from(down.vector)
        self._recovers = False
        self.follow(header.rate)
        if header.flags & Flag.SAVE:
            self._saved = self._pack_state()
        self._reset()
        self._up.tail[WAIT_S] = self._resumed - self._sent
        self._spans.add("exchange", self._sent, self._resumed)
        return bool(header.flags & Flag.STOP)

    def _go_on_from(self, weights: Vector | None) -> None:
        """weights: the master's ``[T | S]``; None to go on from one's own, which keep their S."""
        n = self._n_trainable
        trainable = None if weights is None else weights[:n]
        start = self._half.absorb(trainable)
        if weights is None:
            weights = self._up.vector  # its S is the model's, its T has been sent
            weights[:n] = start
        else:
            self._up.vector[n:] = weights[n:]
            if start is not trainable:
                weights = np.concatenate([start, weights[n:]])
        self._adapter.set_flat(weights)
        if self._kl is not None:
            self._kl.state_came(weights)

    def _reset(self) -> None:
        self._up.tail[:] = 0.0
        self._n_steps = 0
        self._resumed = time.perf_counter()

    def _pack_state(self) -> bytes:
        state: State = {"position": np.array(self._position)}
        # Its S is its own, the master's a mean over all workers; that of a refusal is ruined.
        if self._plan.pulls and not self._recovers:
            state["state"] = self._up.vector[self._n_trainable :]
        state |= {f"model/{k}": v for k, v in self._adapter.local_state().items()}
        state |= {f"algo/{k}": v for k, v in self._half.state().items()}
        return pack_arrays({f"{self.rank}/{k}": v for k, v in state.items()})
