"""Sharded masters: each owns a slice of the vector, workers exchange with all of them at once.

The first is the root: epochs, validation and the end are its business alone. The last one has
the state S. A worker hears of the learning rate and of the end from the root, and the other
masters hear of the rate from the workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nnlo.algo.base import State
from nnlo.errors import ConfigError, TrainingError
from nnlo.model.manifest import Manifest
from nnlo.mpi import link, ulfm
from nnlo.mpi.ends import ChildEnd, ParentEnd
from nnlo.mpi.frame import HEADER_BYTES, Flag, Frame, Header, Kind, pack_arrays, unpack_arrays
from nnlo.mpi.master import Master
from nnlo.mpi.standstill import name_ranks
from nnlo.mpi.watch import Watch

if TYPE_CHECKING:
    from mpi4py import MPI

_ALIGN = 16  # float32 elements: 64 bytes


@dataclass(frozen=True)
class Slice:
    """Elements ``start:stop`` of the vector, as a master sees its manifest."""

    start: int
    stop: int
    n_trainable: int
    hash32: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def n_state(self) -> int:
        return self.size - self.n_trainable


def cut(manifest: Manifest, n_slices: int) -> tuple[Slice, ...]:
    """Slices of T that differ little in length, S behind the last."""
    n = manifest.n_trainable
    if n < n_slices * _ALIGN:
        raise ConfigError(
            f"every sharded master must have {_ALIGN} weights, got {n_slices} masters for {n} "
            "weights; ask for fewer --n-shards"
        )
    ends = [n * i // n_slices // _ALIGN * _ALIGN for i in range(n_slices)] + [n]
    return tuple(
        Slice(a, manifest.size if b == n else b, b - a, manifest.hash32) for a, b in pairwise(ends)
    )


def cut_state(state: State, piece: Slice, n_trainable: int) -> State:
    """The part of a master half's arrays that belongs to a slice."""
    where = slice(piece.start, piece.start + piece.n_trainable)
    return {k: v[where] if v.shape == (n_trainable,) else v for k, v in state.items()}


def join_states(states: Sequence[State], slices: Sequence[Slice]) -> State:
    """What ``cut_state`` has parted; what is no vector is the root's."""
    joined = dict(states[0])
    for name, value in states[0].items():
        if value.shape == (slices[0].n_trainable,):
            joined[name] = np.concatenate([state[name] for state in states])
    return joined


class SlicesEnd:
    """A worker's end towards several masters, rank i with slice i: all at once, each way.

    size: of the whole vector. rate: the first factor on learning rates. watch: is told of the
    waiting.
    """

    def __init__(
        self,
        comm: "MPI.Intracomm",
        slices: Sequence[Slice],
        size: int,
        rate: float,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch or Watch()
        self._comm = comm
        self._slices = slices
        # The headers of all masters, 64 bytes each, and behind them the whole vector.
        self.down = Frame(size, n_tail=(len(slices) - 1) * HEADER_BYTES // 8)
        self._heads = [Frame(0) for _ in slices]
        self._scratch = Frame(0)
        self._versions = [0] * len(slices)
        self._rate = rate

    def exchange(self, up: Frame) -> Frame:
        """Send ``up`` and return the answer, in a buffer that the next exchange overwrites."""
        with ulfm.losses():
            self._move(up)
        for rank in range(len(self._slices)):
            self._scratch.buffer[:] = self._head(rank)
            header = self._scratch.header
            if header.kind is Kind.WEIGHTS:
                self._versions[rank] = header.version
        self._rate = self.down.header.rate
        return self.down

    def _move(self, up: Frame) -> None:
        """Everything, both ways."""
        requests = []
        for rank, piece in enumerate(self._slices):
            parts = [self._head(rank), self._vector_bytes(self.down, piece)]
            requests.append(link.receive_parts(self._comm, parts, rank))
        for rank, piece in enumerate(self._slices):
            requests.append(link.send_parts(self._comm, self._parts(up, rank, piece), rank))
        with self._watch.waiting(name_ranks(range(len(self._slices)))):
            for request in requests:
                link.wait(request, self._watch.poll)

    def _head(self, rank: int) -> NDArray[np.uint8]:
        return self.down.buffer[rank * HEADER_BYTES : (rank + 1) * HEADER_BYTES]

    def _parts(self, up: Frame, rank: int, piece: Slice) -> list[NDArray[np.uint8]]:
        """What goes to one master: all but the slices of the others."""
        header = up.header._replace(version=self._versions[rank], rate=self._rate)
        if rank > 0:
            # States and errors are the root's business: for the others this child just leaves.
            fails = header.kind is Kind.ERROR
            header = header._replace(
                kind=Kind.BYE if fails else header.kind,
                flags=Flag(0) if fails else header.flags & ~Flag.HAS_STATE,
                n_extra=0,
            )
        self._heads[rank].header = header
        parts = [self._heads[rank].buffer]
        if header.kind is Kind.PULL:
            return parts
        parts += [up.buffer[HEADER_BYTES : up.start], self._vector_bytes(up, piece)]
        return parts + ([up.extra] if header.n_extra else [])

    @staticmethod
    def _vector_bytes(frame: Frame, piece: Slice) -> NDArray[np.uint8]:
        return frame.vector[piece.start : piece.stop].view(np.uint8)


class SliceReader:
    """The root's way to the slices of the others: it pulls them as a worker would.

    exact: whether masters move in step, so that all slices can be had at one version.
    """

    def __init__(self, comm: "MPI.Intracomm", slices: Sequence[Slice], *, exact: bool) -> None:
        self._comm = comm
        self._slices = slices
        self._exact = exact
        self._ends = {
            rank: ChildEnd(comm, rank, Frame(piece.size))
            for rank, piece in enumerate(slices)
            if rank > 0
        }
        self._up = Frame(0)

    def read(self, out: NDArray[np.float32], version: int) -> None:
        """Write the others' slices to ``out``, shape (manifest.size,)."""
        for rank, end in self._ends.items():
            piece = self._slices[rank]
            backoff = link.Backoff()
            while True:
                down = self._ask(end, Header(Kind.PULL, layout=piece.hash32))
                if not self._exact or down.header.version >= version:
                    break
                backoff.sleep()  # the updates of this round are on their way to it
            out[piece.start : piece.stop] = down.vector

    def read_states(self) -> list[State]:
        """What the others' master halves hold."""
        header = Header(Kind.PULL, Flag.SAVE, layout=self._slices[0].hash32)
        states = []
        for rank, end in self._ends.items():
            self._ask(end, header)
            states.append(unpack_arrays(link.receive_bytes(self._comm, rank)))
        return states

    def release(self) -> None:
        """The others may end."""
        for end in self._ends.values():
            self._ask(end, Header(Kind.BYE, layout=self._slices[0].hash32))

    def _ask(self, end: ChildEnd, header: Header) -> Frame:
        self._up.header = header
        return end.exchange(self._up)


class WholeMaster(Master):
    """The root's master: its own slice, and to others the whole vector.

    ``know`` comes before the first exchange.
    """

    def know(
        self, reader: SliceReader, slices: Sequence[Slice], whole: Manifest, first: np.ndarray
    ) -> "WholeMaster":
        """Say where the other slices are, and the ``first`` weights of all; returns itself."""
        self._reader = reader
        self._slices = slices
        self._whole = whole
        # Before a message has come the others may not serve yet, so that asking would hang.
        self._start: np.ndarray | None = first.copy()
        self._settled: tuple[np.ndarray, State] | None = None
        return self

    def receive(self, child: int, frame: Frame) -> None:
        """A message of ``child`` is in ``frame``, which is left alone until the answer."""
        self._start = None
        super().receive(child, frame)

    @property
    def weights(self) -> np.ndarray:
        """A copy of the whole vector, shape (manifest.size,)."""
        if self._settled is not None:
            return self._settled[0]
        if self._start is not None:
            return self._start.copy()
        out = np.empty(self._whole.size, np.float32)
        out[: self._slices[0].stop] = self._outbox.weights
        self._reader.read(out, self.version)
        return out

    def state(self) -> State:
        """What all master halves hold."""
        if self._settled is not None:
            return self._settled[1]
        return join_states([self.half.state(), *self._reader.read_states()], self._slices)

    def replace_weights(self, weights: np.ndarray) -> None:
        """Not with sharded masters."""
        raise TrainingError(
            "weights cannot be set where masters are sharded, got a callback that does; leave "
            "it out (restore_best_weights=False) or train without --n-shards"
        )

    def settle(self) -> None:
        """All workers have left: read the other slices for the last time and let them end."""
        self._settled = self.weights, self.state()
        self._reader.release()


def serve_slice(comm: "MPI.Intracomm", master: Master, end: ParentEnd, base_rate: float) -> None:
    """The loop of a master that is not the root."""
    backoff = link.Backoff()
    while not master.finished:
        arrivals = end.arrivals()
        if end.lost:
            raise ulfm.PeersLost(f"rank {min(end.lost)} has died")
        for child, frame in arrivals:
            header = frame.header
            if child != 0:  # workers know the rate from the root
                master.half.learning_rate = base_rate * header.rate
            master.receive(child, frame)
            if child == 0 and header.flags & Flag.SAVE:
                link.send_bytes(comm, pack_arrays(master.half.state()), 0)
        if master.error is not None:
            # Not an NNLOError: nobody else knows of it, so that the job must end at once.
            raise RuntimeError("a sharded master failed") from master.error
        if arrivals:
            backoff.reset()
        else:
            backoff.sleep()
