"""Who trains on what under one master, and who takes over what a lost worker leaves undone."""

from collections.abc import Callable, Collection, Mapping, Sequence

from nnlo.mpi.agenda import Agenda, Share, divide, pack
from nnlo.mpi.frame import Header, Kind


class Crew:
    """The book of all children of a master.

    shares: what each begins with; nothing for a spare. count: batches of a shard in an epoch,
    or None where nobody knows. ``lost``: who is no longer there, or has failed.
    """

    def __init__(
        self, shares: Mapping[int, Sequence[Share]], count: Callable[[int], int | None]
    ) -> None:
        self.lost: list[int] = []
        self._agendas = {child: Agenda(own) for child, own in shares.items()}
        self._gifts: dict[int, list[Share]] = {}  # not handed over yet
        self._count = count

    def heard(self, child: int, header: Header) -> None:
        """Note how far ``child`` is by a message of its."""
        if header.n_steps:
            self._agendas[child].reach(header.stint, header.epoch, header.batch)
        if header.kind is Kind.BYE:
            self._agendas[child].finish()

    def lose(
        self, child: int, resting: Collection[int], active: Collection[int]
    ) -> list[int] | None:
        """Give what ``child`` leaves undone to one that rests, or else to all active ones.

        Returns who has got some of it; None where work is left and nobody to do it.
        """
        if child in self.lost:
            return []
        self.lost.append(child)
        rest = self._agendas[child].rest() + self._gifts.pop(child, [])
        if not any(self._batches(share) for share in rest):
            return []
        takers = sorted(set(resting) - set(self.lost))[:1] or sorted(set(active) - {child})
        if not takers:
            return None
        for taker, part in zip(takers, divide(rest, len(takers), self._count), strict=True):
            if part:
                self._gifts.setdefault(taker, []).extend(part)
        return [taker for taker in takers if taker in self._gifts]

    def has_gift(self, child: int) -> bool:
        """Whether there is work that ``child`` has not been told of."""
        return child in self._gifts

    def gift(self, child: int) -> bytes:
        """What goes to ``child`` with this answer; it is its own from now on."""
        shares = self._gifts.pop(child, [])
        self._agendas[child].add(shares)
        return pack(shares) if shares else b""

    def _batches(self, share: Share) -> int:
        """At least one where nobody knows."""
        stop = share.stop if share.stop is not None else self._count(share.shard)
        return 1 if stop is None else (stop - share.start) * (share.end - share.first)
