"""A sub-master with an algorithm of its own: a master below, a worker of the root's above.

Its children's updates move its own weights at once. Every ``sync_every`` updates it exchanges
with its parent as a worker would, its weights in place of those that local steps reach.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnlo.algo.base import MasterHalf, State, WorkerHalf
from nnlo.checkpoint import part
from nnlo.errors import WorkerFailed
from nnlo.history import History
from nnlo.mpi.failure import describe, write_failure
from nnlo.mpi.frame import N_TIMES, Flag, Frame, Header, Kind, pack_arrays, unpack_arrays
from nnlo.mpi.link import host
from nnlo.mpi.master import Master
from nnlo.mpi.refusal import Refusal, count_refusal, pack_refusals
from nnlo.mpi.tally import count_rank


@dataclass(frozen=True)
class BranchPlan:
    """rank: its own. metric_names: of the tail. n_trainable: of the weights. sync_every: of its
    updates between two exchanges with the parent; pulls: the root algorithm's. sends_state:
    whether checkpoints need its state."""

    rank: int
    metric_names: tuple[str, ...]
    n_trainable: int
    sync_every: int
    pulls: bool = False
    sends_state: bool = False


class Branch:
    """Observes its own ``master`` and speaks to the parent through ``up`` and ``answer``.

    half: of the algorithm above. up: its frame for messages to the parent.
    """

    def __init__(self, plan: BranchPlan, half: WorkerHalf, up: Frame) -> None:
        self.finished = False
        self.history = History()
        self._plan = plan
        self._half = half
        self._up = up
        self._version = 0
        self._samples = self._steps = self._updates = 0
        self._places: dict[int, tuple[int, int]] = {}  # where in its data each child is
        self._pulled = False
        self._states: dict[int, dict[str, np.ndarray]] = {}  # by child
        self._refusals: list[Refusal] = []  # that the parent has not heard of
        self._missing: set[int] | None = None  # children whose state a checkpoint waits for
        self._base_rate = 1.0
        self._own_rate = 1.0

    def begin(self, master: Master, weights: np.ndarray, version: int) -> None:
        """Start from the root's ``weights`` of ``version``."""
        self._master = master
        self._version = version
        self._own_rate = master.half.learning_rate
        self._go_on_from(weights)

    # What its master reports ------------------------------------------------------------------

    def counted(self, child: int, header: Header, tail: np.ndarray, staleness: int) -> None:
        """An update of ``child`` has been applied."""
        self._samples += header.n_samples
        self._steps += header.n_steps
        self._places[child] = (header.epoch, header.batch)
        self._up.tail[N_TIMES:] += tail[N_TIMES:]
        count_rank(self.history, header, tail, self._plan.metric_names)

    def refused(self, master: Master, refusals: Sequence[Refusal]) -> None:
        """What workers under it have not sent."""
        self._refusals += refusals
        for one in refusals:
            count_refusal(self.history, one)

    def stepped(self, master: Master) -> None:
        """The version of its own weights has grown by one."""
        self._updates += 1

    def state_came(self, child: int, state: bytes, leaves: bool) -> None:
        """The local state of a worker under it."""
        self._states[child] = unpack_arrays(state)
        if self._missing is not None:
            self._missing.discard(child)

    # Between its children and its parent ------------------------------------------------------

    def receive(self, child: int, frame: Frame) -> None:
        """A message of ``child`` is in ``frame``, which is left alone until the answer."""
        self._master.receive(child, frame)

    def up(self) -> Frame | None:
        """The message that is due to the parent now, or None."""
        leaves, error = self._master.finished, self._master.error
        if error is not None:
            return self._failure(error) if leaves else None
        if not leaves and not self._refusals and self._updates < self._plan.sync_every:
            return None
        has_update = self._updates > 0
        if has_update and self._plan.pulls and not self._pulled:
            self._up.header = self._header(Kind.PULL)
            return self._up
        if has_update:
            self._up.vector[:] = self._master.weights
            self._half.push(self._up.vector[: self._plan.n_trainable])
        self._up.header = self._message_header(Kind.BYE if leaves else Kind.UPDATE, has_update)
        return self._up

    def suspect(self, child: int) -> None:
        """``child`` is silent: rounds close without it until it speaks again."""
        self._master.suspect(child)

    def failure(self, error: Exception, frame: Frame) -> Frame | None:
        """Its code has raised: end what is below; the message that is due, if any."""
        self._master.fail(error)
        return self.up()

    def _failure(self, error: Exception) -> Frame:
        layout = self._master.layout
        if isinstance(error, WorkerFailed):
            write_failure(self._up, error.rank, layout, error.host, error.trace)
        else:
            write_failure(self._up, self._plan.rank, layout, host(), describe(error))
        return self._up

    def _message_header(self, kind: Kind, has_update: bool) -> Header:
        flags = Flag.HAS_UPDATE if has_update else Flag(0)
        if self._plan.pulls:
            flags |= Flag.NO_WEIGHTS
        extra = pack_refusals(self._refusals)
        if self._refusals:
            flags |= Flag.REFUSED
        self._refusals.clear()
        if self._state_is_due(kind):
            flags |= Flag.HAS_STATE
            extra += pack_arrays(self._take_states())
        active = self._master.active
        # The last of them, for a new beginning.
        epoch, batch = min((self._places.get(c, (0, 0)) for c in active), default=(0, 0))
        return self._header(kind)._replace(
            flags=flags,
            n_samples=self._samples,
            n_steps=self._steps,
            epoch=epoch,
            batch=batch,
            n_extra=self._up.set_extra(extra),
        )

    def _header(self, kind: Kind) -> Header:
        layout = self._master.layout
        return Header(kind, sender=self._plan.rank, version=self._version, layout=layout)

    def _state_is_due(self, kind: Kind) -> bool:
        if kind is Kind.BYE:
            return self._plan.sends_state
        return self._missing is not None and not self._missing & self._master.active

    def _take_states(self) -> dict[str, np.ndarray]:
        """Its own and those of all children; those of who has left are needed again."""
        together = self._own_state()
        for state in self._states.values():
            together |= state
        for child in self._master.active:
            self._states.pop(child, None)
        self._missing = None
        return together

    def _own_state(self) -> dict[str, np.ndarray]:
        mine = {f"master/{k}": v for k, v in self._master.half.state().items()}
        mine |= {f"algo/{k}": v for k, v in self._half.state().items()}
        return {f"{self._plan.rank}/{k}": np.asarray(v) for k, v in mine.items()}

    def answer(self, down: Frame) -> None:
        """Take the parent's answer."""
        header = down.header
        if header.kind is Kind.FINAL:
            self.finished = True
            return
        if header.flags & Flag.STOP:
            self._master.stop()
        if self._up.header.kind is Kind.PULL:
            self._pulled = True
            self._version = header.version
            self._half.pull(down.vector[: self._plan.n_trainable])
            return
        self._pulled = False
        if header.kind is Kind.WEIGHTS:
            self._version = header.version
        self._half.rate = header.rate
        self._master.half.learning_rate = self._own_rate * header.rate
        self._go_on_from(None if header.kind is Kind.ACK else down.vector)
        if header.flags & Flag.SAVE:
            self._missing = set(self._master.active)
            self._master.ask_states(set(self._missing))
        self._samples = self._steps = self._updates = 0
        self._up.tail[:] = 0.0

    def _go_on_from(self, weights: np.ndarray | None) -> None:
        """weights: the root's ``[T | S]``; None to go on from one's own."""
        n = self._plan.n_trainable
        start = self._half.absorb(None if weights is None else weights[:n])
        whole = (self._up.vector if weights is None else weights).copy()
        whole[:n] = start
        self._master.replace_weights(whole)

    def landing(self) -> Frame | None:
        """The parent's answer may be received anywhere."""
        return None


def load_branch_state(state: State, below: MasterHalf, above: WorkerHalf) -> None:
    """Put back what a branch sent for a checkpoint into its two halves."""
    below.load_state(part(state, "master/"))
    above.load_state(part(state, "algo/"))
