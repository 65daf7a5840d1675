"""A sub-master: merges what its children send and passes it on to its parent.

It keeps no weights of its own. Children that came while the parent was answering wait, and
what they brought goes up as one update, so that the root hears from few instead of many.
"""

from collections.abc import Sequence

import numpy as np

from nnlo.algo import kernels
from nnlo.algo.base import Merge
from nnlo.history import History
from nnlo.model.manifest import Manifest
from nnlo.mpi.arrival import read_arrival
from nnlo.mpi.events import Action, Apply, Release, Reply, StopAsked, Suspected
from nnlo.mpi.failure import describe, write_failure
from nnlo.mpi.frame import (
    N_TIMES,
    Flag,
    Frame,
    Header,
    Kind,
    pack_arrays,
    unpack_arrays,
)
from nnlo.mpi.link import host
from nnlo.mpi.outbox import Link, Outbox
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.refusal import Refusal, count_refusal, pack_refusals, read_extra
from nnlo.mpi.tally import count_rank


class SubMaster:
    """Carries out what its protocol decides, between a link down and messages up.

    rank: its own. merge: the algorithm's. up: its frame for messages to the parent. names: of
    the metrics. ``history`` holds what each worker under it has done.
    """

    def __init__(
        self,
        rank: int,
        manifest: Manifest,
        merge: Merge,
        protocol: MasterProtocol,
        link: Link,
        up: Frame,
        names: Sequence[str],
    ) -> None:
        self.rank = rank
        self.history = History()
        self._manifest = manifest
        self._merge = merge
        self._protocol = protocol
        self._link = link
        self._up = up
        self._names = tuple(names)
        self._outbox = Outbox(manifest.size, link)
        self._inbox: dict[int, Frame] = {}
        self._updates: list[int] = []  # children whose update has not been sent up
        self._waiting: list[int] = []  # children that wait for the parent's answer
        self._missing: set[int] | None = None  # children whose state a checkpoint waits for
        self._states: dict[int, dict[str, np.ndarray]] = {}  # by child
        # Where in its data each child is; at (0, 0) or further where it has not said so.
        self._places = dict.fromkeys(protocol.active, (0, 0))
        self._refusals: list[Refusal] = []  # that the parent has not heard of
        self._failure: Frame | None = None  # the message that ends the run
        self._ended = False

    @property
    def finished(self) -> bool:
        """True once the parent has answered the last message."""
        return self._ended

    def receive(self, child: int, frame: Frame) -> None:
        """A message of ``child`` is in ``frame``, which is left alone until the answer."""
        header = frame.header
        arrived = read_arrival(child, header, self._manifest.hash32)
        if header.kind is Kind.ERROR:
            self._fail_with(frame)
            self._carry_out(self._protocol.on(arrived))
            return
        self._inbox[child] = frame
        if header.n_steps:
            self._places[child] = (header.epoch, header.batch)
        if arrived.leaves:
            del self._places[child]
        refusals, state = read_extra(frame)
        self._refusals += refusals
        for one in refusals:
            count_refusal(self.history, one)
        if header.flags & Flag.HAS_STATE:
            self._states[child] = unpack_arrays(state)
            if self._missing is not None:
                self._missing.discard(child)
        self._carry_out(self._protocol.on(arrived))

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Apply(children):
                    self._updates += children
                    for child in children:
                        frame = self._inbox[child]
                        count_rank(self.history, frame.header, frame.tail, self._names)
                case Reply(child):
                    self._waiting.append(child)
                case Release(child):
                    self._link.release(child)

    def suspect(self, child: int) -> None:
        """``child`` is silent: rounds close without it until it speaks again."""
        self._carry_out(self._protocol.on(Suspected(child)))

    def failure(self, error: Exception, frame: Frame) -> Frame | None:
        """Its code has raised: end what is below; the message that is due, maybe ``frame``."""
        write_failure(frame, self.rank, self._manifest.hash32, host(), describe(error))
        self._fail_with(frame)
        return self.up()

    def _fail_with(self, frame: Frame) -> None:
        if self._failure is None:
            self._failure = frame
        self._carry_out(self._protocol.on(StopAsked(at_once=True)))

    def up(self) -> Frame | None:
        """The message that is due to the parent now, or None."""
        leaves = not self._protocol.active
        if self._failure is not None:
            self._answer_all(Header(Kind.WEIGHTS, Flag.STOP))
            return self._failure if leaves else None
        if not self._waiting and not leaves:
            return None
        header = Header(Kind.PULL, Flag(0), self.rank, layout=self._manifest.hash32)
        if self._updates or self._refusals or leaves:
            header = self._merged(Kind.BYE if leaves else Kind.UPDATE)
        self._up.header = header
        self._updates.clear()
        return self._up

    def _merged(self, kind: Kind) -> Header:
        """Put what the children have sent into the frame; return its header."""
        frames = [self._inbox[child] for child in self._updates]
        headers = [frame.header for frame in frames]
        flags = Flag(0)
        if frames:
            flags |= Flag.HAS_UPDATE
            self._merge_vectors(frames, [header.n_samples for header in headers])
            self._up.tail[:] = 0.0
            self._up.tail[N_TIMES:] = sum(frame.tail[N_TIMES:] for frame in frames)
        waiting = [self._inbox[child].header for child in self._waiting]
        if all(header.flags & Flag.NO_WEIGHTS for header in waiting):
            flags |= Flag.NO_WEIGHTS
        if any(header.kind is Kind.PULL or header.flags & Flag.PULLS for header in waiting):
            flags |= Flag.PULLS
        extra = pack_refusals(self._refusals)
        if self._refusals:
            flags |= Flag.REFUSED
        self._refusals.clear()
        if self._state_is_due(kind):
            flags |= Flag.HAS_STATE
            extra += pack_arrays(self._take_states())
        return Header(
            kind,
            flags,
            self.rank,
            min((header.version for header in headers), default=0),
            sum(header.n_samples for header in headers),
            sum(header.n_steps for header in headers),
            *min(self._places.values(), default=(0, 0)),  # the last of them, for a new beginning
            layout=self._manifest.hash32,
            n_merged=sum(header.n_merged for header in headers),
            n_extra=self._up.set_extra(extra),
        )

    def _state_is_due(self, kind: Kind) -> bool:
        if kind is Kind.BYE:
            return bool(self._states)
        return self._missing is not None and not self._missing & self._protocol.active

    def _take_states(self) -> dict[str, np.ndarray]:
        """The states of all children; those of who has left are needed again."""
        together = {name: a for state in self._states.values() for name, a in state.items()}
        for child in self._protocol.active:
            self._states.pop(child, None)
        self._missing = None
        return together

    def _merge_vectors(self, frames: Sequence[Frame], n_samples: Sequence[int]) -> None:
        n, total = self._manifest.n_trainable, self._up.vector
        vectors = [frame.vector[:n] for frame in frames]
        merged, scale = kernels.merged(self._merge, vectors, n_samples)
        np.multiply(merged, np.float32(scale), out=total[:n])
        if self._manifest.n_state:
            states = np.stack([frame.vector[n:] for frame in frames])
            total[n:] = np.average(states, axis=0, weights=n_samples)

    def landing(self) -> Frame:
        """Where the parent's next answer may be received; no send reads it."""
        return self._outbox.writable()

    def answer(self, down: Frame) -> None:
        """Pass the parent's answer on to all who wait for it."""
        header = down.header
        if header.kind is Kind.FINAL:
            self._ended = True
            return
        if header.flags & Flag.STOP:
            self._carry_out(self._protocol.on(StopAsked()))
        if header.flags & Flag.SAVE:
            self._missing = set(self._protocol.active)
        if header.kind is Kind.WEIGHTS:
            self._take_weights(down)
        self._answer_all(header)

    def _take_weights(self, down: Frame) -> None:
        target = self._outbox.writable()
        if down is not target:
            target.vector[:] = down.vector
        self._outbox.current = target

    def _answer_all(self, header: Header) -> None:
        waiting, self._waiting = self._waiting, []
        for child in waiting:
            heard = self._inbox[child].header
            flags = header.flags & Flag.STOP
            if child in (self._missing or ()) and heard.kind is not Kind.PULL:
                flags |= Flag.SAVE
            kind = Kind.ACK if heard.flags & Flag.NO_WEIGHTS else Kind.WEIGHTS
            self._outbox.send(child, header._replace(kind=kind, flags=flags, n_extra=0))
