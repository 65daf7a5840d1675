"""Messages of any length between rank 0 and the blocks, without waiting for any.

A message goes as two: its length, for which a receive is always posted, and its bytes, which
are on their way by then. Nothing is received from anybody who was not named.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.mpi import link, ulfm
from nnlo.optimize.wire import Message, pack, unpack

if TYPE_CHECKING:
    from mpi4py import MPI

LENGTH, BYTES = 11, 12  # tags

LONGEST_SLEEP_S = 5e-3
"""Of one who waits for messages that come seconds apart."""


class Post:
    """peers: whose messages are received. ``lost``: those that MPI has found dead, until
    somebody takes note."""

    def __init__(self, comm: "MPI.Intracomm", peers: Iterable[int]) -> None:
        self.comm = comm
        self.lost: set[int] = set()
        self._receives: dict[int, tuple[Any, Any]] = {}
        self._sends: list[tuple[Any, Any]] = []
        self._dead: set[int] = set()
        for peer in peers:
            self.listen(peer)

    @property
    def peers(self) -> list[int]:
        return [*self._receives]

    def listen(self, peer: int) -> None:
        """From now on receive messages of ``peer``."""
        if peer in self._receives or peer in self._dead:
            return
        length = np.zeros(1, np.int64)
        try:
            with ulfm.losses():
                self._receives[peer] = self.comm.Irecv(length, peer, LENGTH), length
        except ulfm.PeersLost:
            self._lose(peer)

    def receive(self) -> list[tuple[int, Message]]:
        """The messages that have come, with their senders."""
        found = []
        for peer, (request, length) in list(self._receives.items()):
            try:
                with ulfm.losses():
                    if not request.Test():
                        continue
                    del self._receives[peer]
                    data = np.empty(int(length[0]), np.uint8)
                    self.comm.Recv(data, peer, BYTES)
            except ulfm.PeersLost:
                self._lose(peer)
                continue
            self.listen(peer)
            found.append((peer, unpack(data.tobytes())))
        return found

    def send(self, peer: int, message: Message) -> None:
        """Send without waiting; a message to a dead peer is dropped."""
        self._sends = [one for one in self._sends if not self._is_through(one[0])]
        if peer in self._dead:
            return
        data = np.frombuffer(pack(message), np.uint8)
        length = np.array([data.size], np.int64)
        try:
            with ulfm.losses():
                self._sends.append((self.comm.Isend(length, peer, LENGTH), length))
                self._sends.append((self.comm.Isend(data, peer, BYTES), data))
        except ulfm.PeersLost:
            self._lose(peer)

    def _is_through(self, request: Any) -> bool:
        try:
            with ulfm.losses():
                return bool(request.Test())
        except ulfm.PeersLost:
            return True  # to nobody

    def _lose(self, peer: int) -> None:
        self._receives.pop(peer, None)
        self._dead.add(peer)
        self.lost.add(peer)

    def close(self, patience: float = 5.0) -> None:
        """Let messages under way arrive, and take back the receives that nobody will answer."""
        deadline = time.monotonic() + patience
        while self._sends and time.monotonic() < deadline:
            self._sends = [one for one in self._sends if not self._is_through(one[0])]
            time.sleep(1e-3)
        for request, _ in self._receives.values():
            with suppress(ulfm.PeersLost), ulfm.losses():
                request.Cancel()
                request.Wait()
        self._receives.clear()


class Patience:
    """Sleeps that grow from 0.2 to 5 ms while nothing comes."""

    def __init__(self) -> None:
        self._delay = 2e-4

    def reset(self) -> None:
        self._delay = 2e-4

    def sleep(self) -> None:
        time.sleep(self._delay)
        self._delay = min(2 * self._delay, LONGEST_SLEEP_S)


def share(comm: "MPI.Intracomm", message: Message | None) -> Message:
    """Bring the message of the first rank to all; collective. None elsewhere.

    Those who wait for it do so without burning a core.
    """
    data = b"" if message is None else pack(message)
    length = np.array([len(data)], np.int64)
    link.broadcast(comm, length)
    buffer = np.empty(int(length[0]), np.uint8)
    if message is not None:
        buffer[:] = np.frombuffer(data, np.uint8)
    link.broadcast(comm, buffer)
    return unpack(buffer.tobytes())
