"""Who has been silent too long, and when a whole run stalls: clocks that are told the time.

Nothing is sent here and no clock is read: ``now`` is in seconds of any clock that never goes
back. Each object counts time as this process lives it: of a gap between two calls at most a
tenth of ``after`` counts (or 1 s), because a process that was stopped, asleep with its machine
or busy elsewhere could not have heard anybody.
"""

from collections.abc import Iterable
from dataclasses import dataclass

USUALS = 10.0
"""Silence is long when it lasts that many times the usual interval."""
DEAD = 10.0
"""Silence that lasts that many times a long one is the end."""
FIRST = 5.0
"""How many times ``after`` all may take while none has spoken: models are being compiled."""

_WEIGHT = 0.1  # of the newest interval in the running mean
_GAP_S = 1.0
_EVERY_S = 0.1  # between two looks at all children


@dataclass(frozen=True)
class Silent:
    """A child has owed a message for longer than is usual.

    silence_s: how long. usual_s: its mean interval between an answer and its next message, None
    before its first message.
    """

    child: int
    silence_s: float
    usual_s: float | None


@dataclass(frozen=True)
class Dead:
    """A child has been silent ten times as long as makes it ``Silent``."""

    child: int
    silence_s: float


class _LivedTime:
    """Seconds that this process has lived through since ``now``."""

    def __init__(self, after: float, now: float) -> None:
        self._most = max(after / 10.0, _GAP_S)
        self._last = now
        self._lived = 0.0

    def at(self, now: float) -> float:
        self._lived += min(max(now - self._last, 0.0), self._most)
        self._last = now
        return self._lived


class _Pace:
    """How long somebody takes: the first time, and usually."""

    def __init__(self) -> None:
        self.n = 0
        self.usual_s = 0.0

    def limit(self, after: float) -> float:
        """What is long, once it has happened."""
        return max(after, USUALS * self.usual_s)

    def took(self, seconds: float, after: float) -> None:
        if self.n < 2:  # the first one compiles and opens files: it says nothing of the others
            self.usual_s = seconds
        else:  # what was too long is not usual
            newest = min(seconds, self.limit(after))
            self.usual_s += _WEIGHT * (newest - self.usual_s)
        self.n += 1


class _Child(_Pace):
    def __init__(self, since: float | None) -> None:
        super().__init__()
        self.since = since  # when it began to owe a message, None where it owes none
        self.told = 0  # how many verdicts there were on this silence


class Vigil:
    """Watches children that owe a message.

    children: those that train from the start and owe their first message since ``now``; others
    are taken up when they are ``answered``. after: seconds that a silence may always last; 0
    for no verdict ever.

    A child is Silent after max(after, 10 x its usual interval), the running mean of the times
    from an answer to its next message. Before its first message, which waits for compilers and
    first reads, that is max(after, 10 x the longest first interval of the others), or 5 x after
    while no child has spoken. It is Dead after 10 times as long.
    """

    def __init__(self, children: Iterable[int], after: float, now: float) -> None:
        self._after = after
        self._time = _LivedTime(after, now)
        self._children = {child: _Child(0.0) for child in children}
        self._longest_first: float | None = None
        self._every = min(_EVERY_S, after / 10.0)
        self._next_look = now

    def heard(self, child: int, now: float) -> None:
        """A message came: the child owes none until it is answered."""
        known = self._children.get(child)
        if known is None or known.since is None:
            return
        seconds = self._time.at(now) - known.since
        if not known.n:
            self._longest_first = max(seconds, self._longest_first or 0.0)
        known.took(seconds, self._after)
        known.since = None

    def answered(self, child: int, now: float) -> None:
        """The child owes a message from now on."""
        known = self._children.setdefault(child, _Child(None))
        known.since = self._time.at(now)
        known.told = 0

    def forget(self, child: int) -> None:
        """The child has left or died, or will be answered for the last time."""
        self._children.pop(child, None)

    def check(self, now: float) -> list[Silent | Dead]:
        """What is new, each verdict once per silence; costs little however often it is called.

        Messages that are there already should be ``heard`` before.
        """
        if not self._after or now < self._next_look:
            return []
        self._next_look = now + self._every
        time = self._time.at(now)
        verdicts: list[Silent | Dead] = []
        for child, known in self._children.items():
            if known.since is not None and time - known.since > self._after:
                verdicts += self._judge(child, known, time - known.since)
        return verdicts

    def _judge(self, child: int, known: _Child, silence_s: float) -> list[Silent | Dead]:
        limit = self._limit(known)
        verdicts: list[Silent | Dead] = []
        if known.told < 1 and silence_s > limit:
            verdicts.append(Silent(child, silence_s, known.usual_s if known.n else None))
        if known.told < 2 and silence_s > DEAD * limit:
            verdicts.append(Dead(child, silence_s))
        known.told += len(verdicts)
        return verdicts

    def _limit(self, known: _Child) -> float:
        if known.n:
            return known.limit(self._after)
        if self._longest_first is None:
            return FIRST * self._after
        return max(self._after, USUALS * self._longest_first)


class Stall:
    """Says when nothing has moved for long, again after twice that time, and so on.

    after: seconds without movement that are always usual; 0 for never. Long is more than
    max(after, 10 x the usual interval between movements), and 5 x after before the first.
    """

    def __init__(self, after: float, now: float) -> None:
        self._after = after
        self._time = _LivedTime(after, now)
        self._pace = _Pace()
        self._since = 0.0
        self._factor = 1.0

    def moved(self, now: float) -> None:
        """Something has happened."""
        time = self._time.at(now)
        self._pace.took(time - self._since, self._after)
        self._since, self._factor = time, 1.0

    def stalled_s(self, now: float) -> float:
        """Seconds since something happened last."""
        return self._time.at(now) - self._since

    def is_due(self, now: float) -> bool:
        """Whether it is time to ask why nothing moves: once after a long time, then doubled."""
        seconds = self.stalled_s(now)
        if not self._after or seconds <= self._factor * self._limit():
            return False
        self._factor *= 2.0
        return True

    def _limit(self) -> float:
        return self._pace.limit(self._after) if self._pace.n else FIRST * self._after
