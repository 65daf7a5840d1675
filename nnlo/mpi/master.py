"""A master: carries out what the protocol decides, on the flat vector."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nnlo.algo.base import MasterHalf, State, Update
from nnlo.errors import TrainingError, WorkerFailed
from nnlo.mpi.arrival import read_arrival
from nnlo.mpi.crew import Crew
from nnlo.mpi.events import Action, Apply, Hired, Lost, Release, Reply, StopAsked, Suspected
from nnlo.mpi.failure import read_failure
from nnlo.mpi.frame import Flag, Frame, Header, Kind, Layout
from nnlo.mpi.observer import Observer
from nnlo.mpi.outbox import Link, Outbox
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.refusal import Refusal, read_extra
from nnlo.spans import Spans

log = logging.getLogger(__name__)


class Master:
    """The weights, who waits for them and what each exchange does to them.

    weights: initial vector ``[T | S]``, copied. version: of these weights. keeps_bases: whether
    ``half`` must know what each update is based on. spans: where it notes what it did when.
    """

    def __init__(
        self,
        manifest: Layout,
        half: MasterHalf,
        protocol: MasterProtocol,
        link: Link,
        observer: Observer,
        weights: np.ndarray,
        version: int = 0,
        *,
        keeps_bases: bool = False,
        spans: Spans | None = None,
    ) -> None:
        self._spans = spans or Spans()
        self.half = half
        self.version = version
        self.error: Exception | None = None
        # Where the run survives a worker: who does what. fails_alone: whose code raises leaves.
        self.crew: Crew | None = None
        self.fails_alone = False
        self._manifest = manifest
        self._protocol = protocol
        self._link = link
        self._observer = observer
        self._outbox = Outbox(manifest.size, link, keeps_bases)
        self._outbox.weights[:] = weights
        # What who has not been answered yet is based on, if it has had no answer at all.
        self._first = weights[: manifest.n_trainable].copy() if keeps_bases else None
        self._inbox: dict[int, Frame] = {}
        self._to_save: set[int] = set()  # children to ask for their local state
        self._base_rate = half.learning_rate
        self._mean_samples: dict[int, float] = {}

    @property
    def weights(self) -> np.ndarray:
        """The current vector, shape (manifest.size,); valid until the next step."""
        return self._outbox.weights

    @property
    def layout(self) -> int:
        """32 bits that tell models apart."""
        return self._manifest.hash32

    @property
    def finished(self) -> bool:
        return self._protocol.finished

    @property
    def stopping(self) -> bool:
        return self._protocol.stopping

    @property
    def base_learning_rate(self) -> float:
        """The algorithm's own, before callbacks changed it."""
        return self._base_rate

    @property
    def lost(self) -> tuple[int, ...]:
        """Children whose work others have taken over."""
        return tuple(self.crew.lost) if self.crew is not None else ()

    @property
    def active(self) -> frozenset[int]:
        """Children that have not left."""
        return frozenset(self._protocol.active)

    @property
    def rate(self) -> float:
        """Factor on learning rates that callbacks and schedules have made."""
        return self.half.learning_rate / self._base_rate if self._base_rate else 1.0

    def state(self) -> State:
        """What the algorithm's master half holds."""
        return self.half.state()

    def settle(self) -> None:
        """All workers have left: nothing will change any more."""

    def replace_weights(self, weights: np.ndarray) -> None:
        """Put ``weights``, shape (manifest.size,), in place of the current ones."""
        target = self._outbox.writable()
        target.vector[:] = weights
        self._outbox.current = target
        self.version += 1

    def ask_states(self, children: set[int]) -> None:
        """Ask these for their local state, each with its next answer."""
        self._to_save |= children

    def stop(self) -> None:
        """End the run: every child hears it with its next answer, after a round under way."""
        self._carry_out(self._protocol.on(StopAsked()))

    def fail(self, error: Exception) -> None:
        """End the run because of ``error``; updates that still come are not applied."""
        self.error = self.error or error
        self._carry_out(self._protocol.on(StopAsked(at_once=True)))

    def receive(self, child: int, frame: Frame) -> None:
        """A message of ``child`` is in ``frame``, which is left alone until the answer."""
        header = frame.header
        arrived = read_arrival(child, header, self._manifest.hash32)
        if header.kind is Kind.ERROR:
            # First, so that whoever waits for this child hears of it.
            self._hear_failure(child, WorkerFailed(*read_failure(frame)))
            self._carry_out(self._protocol.on(arrived))
            return
        if self.crew is not None:
            self.crew.heard(child, header)
            # It may leave before it could hear of the work that is now its own.
            arrived = replace(arrived, leaves=arrived.leaves and not self.crew.has_gift(child))
        refusals, state = read_extra(frame)
        if header.flags & Flag.HAS_STATE:
            self._observer.state_came(child, state, arrived.leaves)
        self._inbox[child] = frame
        if refusals:
            self._report(refusals)
        self._carry_out(self._protocol.on(arrived))

    def _report(self, refusals: Sequence[Refusal]) -> None:
        try:
            self._observer.refused(self, refusals)
        except Exception as error:
            self.fail(error)

    def lose(self, child: int, reason: str) -> None:
        """``child`` is gone for good: others take over what it has left undone."""
        if child in self._protocol.active | self._protocol.resting:
            self._pass_on(
                child, TrainingError(f"a worker must be left, got rank {child} {reason}")
            )
            self._carry_out(self._protocol.on(Lost(child)))

    def suspect(self, child: int) -> None:
        """``child`` is silent: rounds close without it until it speaks again."""
        self._carry_out(self._protocol.on(Suspected(child)))

    def _hear_failure(self, child: int, error: WorkerFailed) -> None:
        if self.crew is None or not self.fails_alone:
            self.fail(error)
            return
        log.error("going on without it: %s", error)
        self._pass_on(child, error)

    def _pass_on(self, child: int, error: Exception) -> None:
        """Hand the work of a lost child to others; ``error`` ends the run without any."""
        if self.crew is None:
            self.fail(error)
        if self.crew is None or self.stopping:
            return
        takers = self.crew.lose(child, self._protocol.resting, self._protocol.active)
        if takers is None:
            self.fail(error)
            return
        if takers:
            log.warning("what rank %d has left undone goes to %s", child, takers)
        for taker in takers:
            if taker in self._protocol.resting:
                self._carry_out(self._protocol.on(Hired(taker)))

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Apply(children):
                    self._try_to_apply(children)
                case Reply(child):
                    self._reply(child)
                case Release(child):
                    self._link.release(child)

    def _try_to_apply(self, children: tuple[int, ...]) -> None:
        """An error here ends the run, but first everyone who waits gets an answer."""
        if self.error is not None:
            return
        try:
            self._apply(children)
        except Exception as error:
            self.fail(error)

    def _apply(self, children: tuple[int, ...]) -> None:
        n = self._manifest.n_trainable
        headers = {child: self._inbox[child].header for child in children}
        updates = [
            Update(
                self._inbox[child].vector[:n],
                header.n_samples,
                self.version - header.version,
                self._base(child, header.version),
                header.n_merged,
            )
            for child, header in headers.items()
        ]
        start = time.perf_counter()
        target = self._outbox.writable()
        self._merge_state(children, target)
        self.half.apply(self._outbox.weights[:n], updates, target.vector[:n])
        self._outbox.current = target
        self.version += 1
        self._spans.add("apply", start, time.perf_counter())
        for update, (child, header) in zip(updates, headers.items(), strict=True):
            self._observer.counted(child, header, self._inbox[child].tail, update.staleness)
        self._observer.stepped(self)

    def _merge_state(self, children: tuple[int, ...], target: Frame) -> None:
        """S moves to the workers' by weighted mean: convex, so that variances stay positive."""
        n = self._manifest.n_trainable
        if n == self._manifest.size:
            return
        state = self._outbox.weights[n:].astype(np.float64)
        samples = {child: self._inbox[child].header.n_samples for child in children}
        self._mean_samples |= samples
        present = self._protocol.active | set(children)
        total = sum(self._mean_samples.get(child, 0) for child in present)
        merged = state * (1.0 - sum(samples.values()) / total)
        for child, n_samples in samples.items():
            merged += self._inbox[child].vector[n:] * (n_samples / total)
        target.vector[n:] = merged

    def _base(self, child: int, version: int) -> np.ndarray | None:
        base = self._outbox.base(child, version)
        return self._first if base is None else base[: self._manifest.n_trainable]

    def _reply(self, child: int) -> None:
        heard, gift = self._inbox[child].header, b""
        # Between a pull and its update a worker is at no place where its work could change.
        if self.crew is not None and heard.kind is not Kind.PULL and not self.stopping:
            gift = self.crew.gift(child)
        header = self._answer(child)
        if gift:
            header = header._replace(flags=header.flags | Flag.GIFT)
        self._outbox.send(child, header, gift)

    def _answer(self, child: int) -> Header:
        """What ``child`` must be told besides the weights."""
        heard = self._inbox[child].header
        flags = Flag.STOP if self.stopping else Flag(0)
        # Between a pull and its update a worker is at no place where it could go on.
        if child in self._to_save and heard.kind is not Kind.PULL:
            flags |= Flag.SAVE
            self._to_save.discard(child)
        needs_none = heard.flags & Flag.NO_WEIGHTS and heard.kind is not Kind.BYE
        return Header(
            Kind.ACK if needs_none else Kind.WEIGHTS,
            flags,
            version=self.version,
            layout=self._manifest.hash32,
            rate=self.rate,
        )
