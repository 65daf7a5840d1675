"""Messages of any length between rank 0 and the blocks, without waiting for any.

A message goes as two: its length, for which a receive is always posted, and its bytes, which
are on their way by then. Nothing is received from anybody who was not named.
"""

import math
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

_SLEEPS = ((1e-2, 2e-4), (5e-2, 1e-3), (2e-1, 2.5e-3), (math.inf, 5e-3))
"""Seconds without work, and of a sleep until then: short after short trials, which the next
message of a block follows at once, else long enough to take next to nothing of a core."""


class Post:
    """peers: whose messages are received. ``lost``: those that MPI has found dead, until
    somebody takes note."""

    def __init__(self, comm: "MPI.Intracomm", peers: Iterable[int]) -> None:
        self.comm = comm
        self.lost: set[int] = set()
        self._mail: dict[int, _Mail] = {}
        self._sends: list[tuple[Any, Any]] = []
        self._dead: set[int] = set()
        for peer in peers:
            self._listen(peer)

    def _listen(self, peer: int) -> None:
        try:
            with ulfm.losses():
                self._mail[peer] = _Mail(self.comm, peer)
        except ulfm.PeersLost:
            self._lose(peer)

    def receive(self) -> list[tuple[int, Message]]:
        """What has come, with its senders: one message at most of each."""
        found = []
        for peer, mail in list(self._mail.items()):
            try:
                with ulfm.losses():
                    data = mail.take()
            except ulfm.PeersLost:
                self._lose(peer)
                continue
            if data is not None:
                found.append((peer, unpack(data)))
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
        self._mail.pop(peer, None)
        self._dead.add(peer)
        self.lost.add(peer)

    def close(self, patience: float = 5.0) -> None:
        """Let messages under way arrive, and take back the receives that nobody will answer."""
        deadline = time.monotonic() + patience
        while self._sends and time.monotonic() < deadline:
            self._sends = [one for one in self._sends if not self._is_through(one[0])]
            time.sleep(1e-3)
        for mail in self._mail.values():
            with suppress(ulfm.PeersLost), ulfm.losses():
                mail.cancel()


class _Mail:
    """What a peer sends: the length of a message, then its bytes."""

    def __init__(self, comm: "MPI.Intracomm", peer: int) -> None:
        self._comm = comm
        self._peer = peer
        self._await_length()

    def _await_length(self) -> None:
        self._length = np.zeros(1, np.int64)
        self._data: np.ndarray[Any, Any] | None = None
        self._request = self._comm.Irecv(self._length, self._peer, LENGTH)

    def take(self) -> bytes | None:
        """A message, if one is there as a whole."""
        if not self._request.Test():
            return None
        if self._data is None:
            self._data = np.empty(int(self._length[0]), np.uint8)
            self._request = self._comm.Irecv(self._data, self._peer, BYTES)
            if not self._request.Test():
                return None
        data = self._data.tobytes()
        self._await_length()
        return data

    def cancel(self) -> None:
        self._request.Cancel()
        self._request.Test()  # not Wait: what has begun to come may never be complete


class Patience:
    """Sleeps that grow from 0.2 to 5 ms while there is no work."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """There was work: more may follow."""
        self._since = time.monotonic()

    def sleep(self) -> None:
        """There was none."""
        waited = time.monotonic() - self._since
        time.sleep(next(sleep for limit, sleep in _SLEEPS if waited < limit))


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
