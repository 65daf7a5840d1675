"""What one worker has to train on, and how far it is: the same book at the worker and its master.

A worker begins with the whole of its shard in every epoch. When another one is lost, parts of
the other's shard are added. Both sides keep to the same order, so that the position in a message
says what has been done and what has not.
"""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nnlo.errors import ProtocolError

Position = tuple[int, int]
"""(epoch, batches of it that are done)."""


class Share(NamedTuple):
    """Batches ``start`` to ``stop`` (None: the last) of a shard, in the epochs ``first`` to
    ``end``, which is not one of them."""

    shard: int
    first: int
    end: int
    start: int = 0
    stop: int | None = None


class Stint(NamedTuple):
    """Batches ``start`` to ``stop`` of a shard in one epoch; ``share``: which one it is of."""

    share: int
    epoch: int
    shard: int
    start: int
    stop: int | None


def own_share(shard: int, start: Position, n_epochs: int) -> list[Share]:
    """The whole shard in every epoch, from ``start`` on."""
    epoch, batch = start
    if not batch:
        return [Share(shard, epoch, n_epochs)]
    return [Share(shard, epoch, epoch + 1, batch), Share(shard, epoch + 1, n_epochs)]


class Agenda:
    """Shares in the order in which they are done: epoch by epoch, in each as they came."""

    def __init__(self, shares: Sequence[Share] = ()) -> None:
        self._shares: list[Share] = []
        self._next: list[int] = []  # epoch of each share that comes next
        self._now: Stint | None = None
        self._batch = 0  # of the present stint: how far it is
        self.add(shares)

    def add(self, shares: Sequence[Share]) -> None:
        """There is more to do."""
        for share in shares:
            self._shares.append(share)
            self._next.append(share.first)

    def next(self) -> Stint | None:
        """Begin what comes next, the present stint being done; None where nothing is left."""
        due = [
            (epoch, index)
            for index, (epoch, share) in enumerate(zip(self._next, self._shares, strict=True))
            if epoch < share.end
        ]
        if not due:
            self._now = None
            return None
        epoch, index = min(due)
        share = self._shares[index]
        self._next[index] += 1
        self._batch = share.start
        self._now = Stint(index, epoch, share.shard, share.start, share.stop)
        return self._now

    def reach(self, share: int, epoch: int, batch: int) -> None:
        """Note a position that a message has told: ``batch`` batches of that stint are done, or
        with 0 the whole one of the epoch before."""
        if not share < len(self._shares):
            raise ProtocolError(
                f"a worker must be at a share of its own, got number {share} of "
                f"{len(self._shares)}; check that all ranks run the same version of NNLO"
            )
        target = epoch if batch else epoch - 1
        while self._next[share] <= target and self.next() is not None:
            pass
        now = self._now
        if now is None or (now.share, now.epoch) != (share, target):
            return
        if batch:
            self._batch = batch
        else:
            self._now = None

    def finish(self) -> None:
        """Note that nothing is left."""
        self._now = None
        self._next = [max(share.first, share.end) for share in self._shares]

    def rest(self) -> list[Share]:
        """What has not been done."""
        rest = []
        if self._now is not None:
            _, epoch, shard, _, stop = self._now
            if stop is None or self._batch < stop:
                rest.append(Share(shard, epoch, epoch + 1, self._batch, stop))
        for share, epoch in zip(self._shares, self._next, strict=True):
            if epoch < share.end:
                rest.append(share._replace(first=epoch))
        return rest


def after(epoch: int, index: int, end: int | None) -> Position:
    """Where a worker is once batch ``index`` is done; end: the number after the last one, None
    where nobody knows."""
    return (epoch + 1, 0) if index + 1 == end else (epoch, index + 1)


def divide(
    shares: Sequence[Share], n: int, count: Callable[[int], int | None]
) -> list[list[Share]]:
    """``shares`` in ``n`` parts that take about as long.

    count: batches of a shard in an epoch; None where nobody knows, and whole epochs are dealt out.
    """
    parts: list[list[Share]] = [[] for _ in range(n)]
    for share in shares:
        stop = share.stop if share.stop is not None else count(share.shard)
        low, high = (share.first, share.end) if stop is None else (share.start, stop)
        edges = [low + (high - low) * index // n for index in range(n + 1)]
        for part, begin, end in zip(parts, edges, edges[1:], strict=False):
            if begin == end:
                continue
            if stop is None:
                part.append(share._replace(first=begin, end=end))
            else:
                part.append(share._replace(start=begin, stop=end))
    return parts


def pack(shares: Sequence[Share]) -> bytes:
    """Shares as bytes that go with a message."""
    return json.dumps(shares).encode()


def unpack(data: bytes) -> list[Share]:
    """What ``pack`` made."""
    return [Share(*share) for share in json.loads(data)]
