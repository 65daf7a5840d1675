"""What a particle will be told: an answer, a meeting of all particles, a gradient."""

from collections.abc import Coroutine, Generator
from typing import Any

from nnlo.errors import ConfigError, ParticleError


class Future:
    """A value that comes later; ``await`` it in an ``async def`` handler.

    owner: the particle that may wait for it. what: it is, for people.
    """

    __slots__ = ("__weakref__", "_error", "_is_done", "_value", "owner", "waiting", "what")

    def __init__(self, owner: int, what: str) -> None:
        self.owner = owner
        self.what = what
        self.waiting: list[Task] = []
        self._is_done = False
        self._value: Any = None
        self._error: Failure | None = None

    def __repr__(self) -> str:
        return f"<{'done' if self._is_done else 'unfinished'} Future: {self.what}>"

    @property
    def done(self) -> bool:
        return self._is_done

    @property
    def result(self) -> Any:
        """The value. Raises what its handler raised, as ParticleError; ConfigError where it has
        not come yet."""
        if not self._is_done:
            raise ConfigError(
                f"a result must have come before it is read, got {self.what}, which has not; "
                "await the future, in a handler that is an async def"
            )
        if self._error is not None:
            self._error.is_known = True
            raise self._error.raised()
        return self._value

    def __await__(self) -> Generator["Future", None, Any]:
        if not self._is_done:
            yield self
        return self.result

    def settle(self, value: Any, error: "Failure | None" = None) -> None:
        """Give it its value or error; whoever waits is to be resumed by the caller."""
        self._value, self._error, self._is_done = value, error, True


class Failure:
    """What a handler has raised, in a form that can be sent.

    is_known: somebody who awaited it has been told.
    """

    def __init__(self, message: str, kind: str, particle: int, rank: int, trace: str) -> None:
        self.content: list[Any] = [message, kind, particle, rank, trace]
        self.is_known = False

    def raised(self) -> ParticleError:
        return ParticleError(*self.content)


class Task:
    """An ``async def`` handler on its way.

    origin: whom its end is told to. awaited: what it waits for.
    """

    __slots__ = ("awaited", "coroutine", "name", "origin", "pid")

    def __init__(
        self, pid: int, name: str, coroutine: Coroutine[Any, None, Any], origin: tuple[int, int]
    ) -> None:
        self.pid = pid
        self.name = name
        self.coroutine = coroutine
        self.origin = origin
        self.awaited: Future | None = None

    def resume(self) -> Any:
        """Run up to the next await; raises StopIteration with the result at the end."""
        self.awaited = None
        found = self.coroutine.send(None)
        if not isinstance(found, Future) or found.owner != self.pid:
            raise ConfigError(
                f"a handler must await what its own particle was given, got {found!r}; futures "
                "of other particles and of asyncio belong elsewhere"
            )
        self.awaited = found
        found.waiting.append(self)
        return None

    def report(self) -> str:
        """Who waits for what."""
        what = "nothing" if self.awaited is None else self.awaited.what
        return f"particle {self.pid} in {self.name!r} waits for {what}"
