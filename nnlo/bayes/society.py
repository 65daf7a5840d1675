"""Particles that follow rules of the user's: handlers, and messages between particles.

A handler is a plain function ``fn(particle, *args)`` or an ``async def``, which may await what
it is sent. All ranks go through rounds together (``engine``), so results don't depend on where
particles live, an end and a deadlock are seen at once, and no threads are needed. The price:
a round takes as long as its slowest rank.
"""

import operator
import time
import zlib
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.algo.optimizers import Optimizer, make_optimizer
from nnlo.bayes.crowd import Crowd, Vectors, as_crowd
from nnlo.bayes.engine import NOBODY, Engine, Handler, Kind, Letter
from nnlo.bayes.future import Failure
from nnlo.bayes.member import VIEW, Member
from nnlo.bayes.message import copied, pack, unpack
from nnlo.bayes.posterior import Posterior
from nnlo.bayes.rounds import Heard, Rounds
from nnlo.bayes.seeds import Purpose, generator
from nnlo.errors import ConfigError, ParticleError

if TYPE_CHECKING:
    from nnlo.bayes.particles import Particles

_GRACE_S = 5.0
"""What a rank waits beyond the time limit for others, which may be about to say the same."""

Steps = Generator[tuple[dict[int, bytes], list[int]], Heard, Any]
"""Yields what goes to the other ranks, is sent what came from them."""


class Society:
    """Particles with handlers; every rank makes it alike (collective) and adds the same ones.

    optimizer, learning_rate: of ``Member.step``. Raises ConfigError where a particle takes more
    than one rank.
    """

    def __init__(
        self,
        particles: "Particles | Vectors | Crowd",
        *,
        optimizer: str | Optimizer | None = None,
        learning_rate: float | None = None,
    ) -> None:
        self._crowd = crowd = as_crowd(particles)
        numbers = {} if learning_rate is None else {"learning_rate": learning_rate}
        rule = None if optimizer is None else make_optimizer(optimizer, **numbers)
        self._rounds = Rounds(crowd.comm)
        self._rank, self._size = rank, size = self._rounds.rank, self._rounds.size
        self._others = [one for one in range(size) if one != rank]
        self.n = crowd.n
        pids = [crowd.placement.pids(one) for one in range(size)]
        self._owner = [one for one, part in enumerate(pids) for _ in part]
        self._engine = Engine(crowd, rank)
        for row, pid in enumerate(pids[rank]):
            rng = generator(crowd.seed, Purpose.MESSAGE, pid)
            member = Member(pid, self.n, crowd.weights[row], rng, self._engine)
            member.rule = rule
            self._engine.members[pid] = member
        self._engine.reset()
        self._is_running = self._is_broken = False

    @property
    def members(self) -> list[Member]:
        """The particles of this rank."""
        return list(self._engine.members.values())

    def posterior(self) -> Posterior:
        """All particles as they are now, each to count the same: for predictions."""
        return self._crowd.posterior()

    def on(self, name: str) -> Callable[[Handler], Handler]:
        """Let the function that follows handle messages ``name``, of all particles.

        A second one takes the place of the first. Raises ConfigError for a name that is taken.
        """
        if not isinstance(name, str) or name in ("", VIEW):
            raise ConfigError(f"a message must have a name other than {VIEW!r}, got {name!r}")

        def add(handler: Handler) -> Handler:
            self._engine.handlers[name] = handler
            return handler

        return add

    def run(
        self,
        name: str,
        *args: Any,
        on: "int | str | Sequence[int]" = 0,
        timeout_s: float | None = None,
    ) -> Any:
        """Have one particle, several or ``"all"`` handle ``name``; collective.

        Returns on all ranks, once all handlers have ended that this has started directly or by
        messages, what the handler has returned: of one particle its value, else a list.
        Raises the same error on all ranks: ParticleError for what a handler has raised and
        nobody has awaited, for particles that wait for each other for ever, and after
        ``timeout_s``; ConfigError for a call that cannot be. Weights and ``state`` stay as they
        are then, and a society can run again unless a rank has not answered in time.
        """
        if self._is_running or self._is_broken:
            raise ConfigError(
                "a society must be at rest to run, got one that "
                + ("has lost ranks; make a new one" if self._is_broken else "runs; send instead")
            )
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._is_running = True
        self._is_broken = self._size > 1  # until it has ended on all ranks alike
        try:
            result = self._follow(self.steps(name, args, on, deadline), deadline)
        finally:
            self._is_running = False
            self._engine.reset()
        return result

    def close(self) -> None:
        """Free what this holds of MPI; collective. After ranks were lost it stays as it is."""
        if not self._is_broken:
            self._rounds.close()

    def _follow(self, steps: Steps, deadline: float | None) -> Any:
        def check() -> None:
            if deadline is not None and time.monotonic() > deadline + _GRACE_S:
                raise ParticleError(
                    "all ranks must come to every round within timeout_s, got some that did "
                    f"not while rank {self._rank} waited; they have left, or a handler is slow",
                    "timeout",
                )

        letters, words = next(steps)
        while True:
            heard = self._rounds.exchange(letters, words, check)
            try:
                letters, words = steps.send(heard)
            except StopIteration as end:
                self._is_broken = False
                return end.value
            except (ConfigError, ParticleError):  # raised on all ranks
                self._is_broken = False
                raise

    def steps(
        self, name: str, args: Sequence[Any], on: Any = 0, deadline: float | None = None
    ) -> Steps:
        """What ``run`` does between exchanges, for those who carry the bytes by other means."""
        error: ConfigError | None = None
        pids: list[int] = []
        letters: list[Letter] = []
        try:
            pids = self._pids(name, on)
            for pid in pids:
                value = [copied(one) for one in args]
                if pid in self._engine.members:
                    letters.append(Letter(pid, *NOBODY, Kind.REQUEST, 0, name, value))
        except ConfigError as found:
            error = found
        call = zlib.crc32(repr((name, pids, self.n, sorted(self._engine.handlers))).encode())
        heard = yield {}, [call, int(error is not None)]
        _check_call(heard, error)
        while True:
            out = self._engine.deliver(letters)
            letters, parcels = self._sort(out)
            is_late = deadline is not None and time.monotonic() > deadline
            heard = yield parcels, [len(out), len(self._engine.fatal), int(is_late)]
            for data in heard.letters.values():
                letters += [Letter(*one) for one in unpack(data)]
            n_sent, n_fatal, n_late = map(sum, zip(*heard.words, strict=True))
            if n_fatal or n_late or not n_sent:
                break
        return (yield from self._end(pids, on, bool(n_late)))

    def _pids(self, name: str, on: Any) -> list[int]:
        """The particles to start, checked."""
        if name not in self._engine.handlers:
            raise ConfigError(
                f"a run must start one of the handlers {sorted(self._engine.handlers)}, got "
                f"{name!r}; add it by @society.on"
            )
        if isinstance(on, str):
            pids = list(range(self.n)) if on == "all" else []
        else:
            pids = _numbers(on)
        if not pids or len(set(pids)) < len(pids) or not set(pids) <= set(range(self.n)):
            raise ConfigError(
                f"on must be particles from 0 to {self.n - 1}, each once, or 'all', got {on!r}"
            )
        return pids

    def _sort(self, out: list[Letter]) -> tuple[list[Letter], dict[int, bytes]]:
        """What stays here, and what goes to each other rank."""
        if self._size == 1:
            return out, {}
        mine: list[Letter] = []
        to_all: list[Any] = []
        direct: dict[int, list[Any]] = {}
        for letter in out:
            if letter.to < 0:
                to_all.append(list(letter))
            elif (rank := self._owner[letter.to]) != self._rank:
                direct.setdefault(rank, []).append(list(letter))
            if letter.to < 0 or rank == self._rank:
                mine.append(letter)
        parcels = dict.fromkeys(self._others, pack(to_all)) if to_all else {}
        return mine, parcels | {rank: pack(to_all + some) for rank, some in direct.items()}

    def _end(self, pids: list[int], on: Any, is_late: bool) -> Steps:
        """Bring results, or what went wrong, to all ranks."""
        engine = self._engine
        waits = [[pid, text] for pid, texts in engine.waits().items() for text in texts]
        failures = [one.content for one in engine.failures()]
        mine = [engine.results, len(engine.fatal), failures, waits]
        heard = yield dict.fromkeys(self._others, pack(mine)), []
        parts = [mine, *map(unpack, heard.letters.values())]
        failed = sorted((f for _, n, bad, _ in parts for f in bad[:n]), key=_particle)
        failed += sorted((f for _, n, bad, _ in parts for f in bad[n:]), key=_particle)
        if failed:
            raise _summary(failed)
        if is_late or any(waits for *_, waits in parts):
            waiting = sorted((pid, text) for *_, waits in parts for pid, text in waits)
            raise _stuck([text for _, text in waiting], is_late)
        results = {pid: value for found, *_ in parts for pid, value in found.items()}
        values = [results[pid] for pid in pids]
        return values if isinstance(on, str) or not np.isscalar(on) else values[0]


def _numbers(on: Any) -> list[int]:
    try:
        return [operator.index(pid) for pid in np.atleast_1d(on)]
    except TypeError:
        return []


def _check_call(heard: Heard, error: ConfigError | None) -> None:
    if error is not None:
        raise error
    call = heard.words[0][0]
    bad = [rank for rank, (_, is_bad) in enumerate(heard.words) if is_bad]
    bad = bad or [rank for rank, (other, _) in enumerate(heard.words) if other != call]
    if bad:
        raise ConfigError(
            "all ranks must run the same handler on the same particles and have the same "
            f"handlers, got others on ranks {bad}; add handlers and run on all ranks alike"
        )


def _particle(content: list[Any]) -> int:
    return int(content[2])


def _summary(failed: list[list[Any]]) -> ParticleError:
    error = Failure(*failed[0]).raised()
    others = {str(message) for message, *_ in failed} - {error.message}
    if others:
        error.args = (f"{error.args[0]}\nOther failures: {len(others)}, as {min(others)}",)
    return error


def _stuck(waits: list[str], is_late: bool) -> ParticleError:
    shown = waits[:20] + ([f"and {len(waits) - 20} more"] if len(waits) > 20 else [])
    if is_late:
        text, kind = "a run must end within timeout_s, got messages under way", "timeout"
    else:
        text, kind = "particles must not wait for what never comes, got all waiting", "deadlock"
    return ParticleError("\n  ".join([text, *shown]), kind)
