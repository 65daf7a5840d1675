"""A master: carries out what the protocol decides, on the flat vector."""

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from nnlo.algo.base import MasterHalf, Update
from nnlo.errors import ProtocolError, WorkerFailed
from nnlo.model.manifest import Manifest
from nnlo.mpi.frame import ERROR_BYTES, N_TIMES, Flag, Frame, Header, Kind
from nnlo.mpi.protocol import (
    Action,
    Apply,
    Arrived,
    MasterProtocol,
    Release,
    Reply,
    StopAsked,
)
from nnlo.spans import Spans


class Link(Protocol):
    """How a master's answers reach its children."""

    def reply(self, child: int, frame: Frame) -> None: ...

    def release(self, child: int) -> None: ...

    def reap(self) -> None:
        """Bring ``in_flight`` of the frames up to date."""


class Observer(Protocol):
    """Who watches the weights: epochs, validation, stopping, checkpoints (``root.py``)."""

    def counted(self, child: int, header: Header, tail: np.ndarray, staleness: int) -> None:
        """An update has been applied."""

    def stepped(self, master: "Master") -> None:
        """The version has grown by one."""

    def state_came(self, child: int, state: bytes, leaves: bool) -> None:
        """A worker's local state, asked for by a checkpoint or sent as it leaves."""


class Master:
    """The weights, who waits for them and what each exchange does to them.

    weights: initial vector ``[T | S]``, copied. version: of these weights. n_tail: float64
    values in an UP frame. spans: where it notes what it did when.
    """

    def __init__(
        self,
        manifest: Manifest,
        half: MasterHalf,
        protocol: MasterProtocol,
        link: Link,
        observer: Observer,
        weights: np.ndarray,
        version: int = 0,
        spans: Spans | None = None,
    ) -> None:
        self._spans = spans or Spans()
        self.half = half
        self.version = version
        self.error: Exception | None = None
        self._manifest = manifest
        self._protocol = protocol
        self._link = link
        self._observer = observer
        self._frames = [Frame(manifest.size)]
        self._frame = self._frames[0]
        self._frame.vector[:] = weights
        self._inbox: dict[int, Frame] = {}
        self._to_save: set[int] = set()  # children to ask for their local state
        self._base_rate = half.learning_rate
        self._mean_samples: dict[int, float] = {}

    @property
    def weights(self) -> np.ndarray:
        """The current vector, shape (manifest.size,); valid until the next step."""
        return self._frame.vector

    @property
    def finished(self) -> bool:
        return self._protocol.finished

    @property
    def stopping(self) -> bool:
        return self._protocol.stopping

    @property
    def active(self) -> frozenset[int]:
        """Children that have not left."""
        return frozenset(self._protocol.active)

    def replace_weights(self, weights: np.ndarray) -> None:
        """Put ``weights``, shape (manifest.size,), in place of the current ones."""
        target = self._writable()
        target.vector[:] = weights
        self._frame = target
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
        if header.layout != self._manifest.hash32:
            raise ProtocolError(
                f"all ranks must train the same model, got another layout from rank {child}; "
                "check that the model file is the same on all nodes"
            )
        if header.kind is Kind.ERROR:
            host, _, trace = frame.extra.tobytes().decode(errors="replace").partition("\n")
            # First, so that whoever waits for this child hears of it.
            self.fail(WorkerFailed(header.sender, host, trace))
            self._carry_out(self._protocol.on(Arrived(child, has_update=False, leaves=True)))
            return
        leaves = header.kind is Kind.BYE
        if header.flags & Flag.HAS_STATE:
            self._observer.state_came(child, frame.extra.tobytes(), leaves)
        self._inbox[child] = frame
        has_update = bool(header.flags & Flag.HAS_UPDATE) and header.n_samples > 0
        self._carry_out(self._protocol.on(Arrived(child, has_update, leaves)))

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Apply(children):
                    self._try_to_apply(children)
                case Reply(child):
                    self._link.reply(child, self._answer(child))
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
            )
            for child, header in headers.items()
        ]
        start = time.perf_counter()
        target = self._writable()
        self._merge_state(children, target)
        self.half.apply(self._frame.vector[:n], updates, target.vector[:n])
        self._frame = target
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
        state = self._frame.vector[n:].astype(np.float64)
        samples = {child: self._inbox[child].header.n_samples for child in children}
        self._mean_samples |= samples
        present = self._protocol.active | set(children)
        total = sum(self._mean_samples.get(child, 0) for child in present)
        merged = state * (1.0 - sum(samples.values()) / total)
        for child, n_samples in samples.items():
            merged += self._inbox[child].vector[n:] * (n_samples / total)
        target.vector[n:] = merged

    def _writable(self) -> Frame:
        """A frame that no send reads: the current one if that is free."""
        self._link.reap()
        if not self._frame.in_flight:
            return self._frame
        for frame in self._frames:
            if not frame.in_flight:
                return frame
        self._frames.append(Frame(self._manifest.size))
        return self._frames[-1]

    def _answer(self, child: int) -> Frame:
        """The current weights with the header that ``child`` must see."""
        flags = Flag.STOP if self.stopping else Flag(0)
        if child in self._to_save:
            flags |= Flag.SAVE
            self._to_save.discard(child)
        rate = self.half.learning_rate / self._base_rate if self._base_rate else 1.0
        header = Header(
            Kind.WEIGHTS,
            flags,
            version=self.version,
            layout=self._manifest.hash32,
            rate=rate,
        )
        if self._frame.in_flight:
            if header == self._frame.header:
                return self._frame
            copy = self._writable()
            if copy is not self._frame:
                copy.vector[:] = self._frame.vector
                self._frame = copy
        self._frame.header = header
        return self._frame


def up_frame(manifest: Manifest, n_sums: int, state_bytes: int = 0) -> Callable[[], Frame]:
    """A maker of frames for messages to a master of this model.

    n_sums: entries of the adapter's sums. state_bytes: room for a worker's local state.
    """
    return lambda: Frame(manifest.size, N_TIMES + n_sums, ERROR_BYTES + state_bytes)
