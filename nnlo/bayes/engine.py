"""The handlers of one rank's particles, and what they have sent, wait for and left over.

Particles live in rounds. What was sent in one round arrives in the next, ordered by receiver,
sender and number; each message runs its handler, or resumes the one that awaits it, up to the
next await. So what a particle sees is the same wherever it and the others live.
"""

import traceback
import weakref
from collections.abc import Callable, Coroutine, Hashable, Sequence
from contextlib import suppress
from enum import IntEnum
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from nnlo.bayes.crowd import Crowd
from nnlo.bayes.future import Failure, Future, Task
from nnlo.bayes.meeting import Meeting
from nnlo.bayes.member import VIEW, Member, show
from nnlo.bayes.message import Array, copied
from nnlo.errors import ConfigError, ParticleError

Handler = Callable[..., Any]


class Kind(IntEnum):
    MEETING = 0
    REQUEST = 1
    ANSWER = 2
    FAILURE = 3


class Letter(NamedTuple):
    """to: a particle; -1 for all ranks. number: counts what the sender has sent. refers: to the
    request that is answered, or which meeting it is for."""

    to: int
    sender: int
    number: int
    kind: int
    refers: int
    name: str
    value: Any


_ORDER = itemgetter(0, 1, 2)

NOBODY = (-1, -1)
"""The origin of handlers that ``Society.run`` has started."""


class Engine:
    """members: of this rank, by number. crowd: what they are made of."""

    def __init__(self, crowd: Crowd, rank: int) -> None:
        self.members: dict[int, Member] = {}
        self.handlers: dict[str, Handler] = {VIEW: show}
        self._n = crowd.n
        self._rank = rank
        self._crowd = crowd
        self.reset()

    def reset(self) -> None:
        """Forget all but the particles and the handlers."""
        for task in getattr(self, "tasks", ()):
            with suppress(Exception, SystemExit):  # from a handler that won't be ended
                task.coroutine.close()
        self.tasks: dict[Task, None] = {}
        self.results: dict[int, Any] = {}
        self.fatal: list[Failure] = []
        self._unknown: list[Failure] = []
        self._out: list[Letter] = []
        self._numbers = dict.fromkeys(self.members, 0)
        self._met = dict.fromkeys(self.members, 0)
        self._asked: dict[tuple[int, int], weakref.ref[Future]] = {}
        self._meetings: dict[int, Meeting] = {}
        self._wanted: dict[Hashable, list[tuple[int, Any, Future]]] = {}

    # What particles want --------------------------------------------------------------------

    def send(self, sender: Member, to: int, name: str, args: Sequence[Any]) -> Future:
        """See ``Member.send``."""
        if name not in self.handlers:
            raise ConfigError(
                f"a message must have one of the names {sorted(self.handlers)}, got {name!r}; "
                "add a handler by @society.on"
            )
        if not isinstance(to, int | np.integer) or not 0 <= to < self._n:
            raise ConfigError(
                f"a message must go to a particle from 0 to {self._n - 1}, got {to!r}"
            )
        value = [copied(one) for one in args]
        future = Future(sender.pid, f"the answer of particle {to} to {name!r}")
        number = self._put(int(to), sender.pid, Kind.REQUEST, 0, name, value)
        self._asked[sender.pid, number] = weakref.ref(future)
        return future

    def meet(self, member: Member, kind: str, value: Any) -> Future:
        """See ``Member.gather``, ``allreduce`` and ``barrier``."""
        which = self._met[member.pid]
        value = copied(value)
        self._met[member.pid] += 1
        future = Future(member.pid, f"{kind} {which}")
        self._meetings.setdefault(which, Meeting()).futures.append(future)
        self._put(-1, member.pid, Kind.MEETING, which, kind, value)
        return future

    def gradient(self, member: Member, batch: Any) -> Future:
        """See ``Member.gradient``."""
        layout = self._crowd.layout(batch)
        future = Future(member.pid, "a gradient")
        self._wanted.setdefault(layout, []).append((member.pid, batch, future))
        return future

    def outputs(self, member: Member, x: Any) -> Any:
        """See ``Member.outputs``."""
        return self._crowd.outputs(member.pid, x)

    def _put(self, to: int, sender: int, kind: int, refers: int, name: str, value: Any) -> int:
        number = self._numbers[sender]
        self._numbers[sender] += 1
        self._out.append(Letter(to, sender, number, kind, refers, name, value))
        return number

    # A round --------------------------------------------------------------------------------

    def deliver(self, letters: list[Letter]) -> list[Letter]:
        """Let the particles of this rank have what was sent to them; what they send."""
        for letter in sorted(letters, key=_ORDER):
            if letter.kind == Kind.REQUEST:
                self._start(letter)
            elif letter.kind == Kind.MEETING:
                self._hear(letter)
            else:
                self._hear_answer(letter)
        while self._wanted:
            self._compute()
        out, self._out = self._out, []
        return out

    def _start(self, letter: Letter) -> None:
        origin = (letter.sender, letter.number)
        try:
            result = self.handlers[letter.name](self.members[letter.to], *letter.value)
            if not isinstance(result, Coroutine):
                self._answer(letter.to, origin, copied(result))
                return
        except (Exception, SystemExit) as error:
            self._fail(letter.to, letter.name, origin, error)
            return
        task = Task(letter.to, letter.name, result, origin)
        self.tasks[task] = None
        self._resume(task)

    def _resume(self, task: Task) -> None:
        try:
            task.resume()
        except StopIteration as end:
            try:
                self._answer(task.pid, task.origin, copied(end.value))
            except ConfigError as error:
                self._fail(task.pid, task.name, task.origin, error)
        except (Exception, SystemExit) as error:
            self._fail(task.pid, task.name, task.origin, error)
            with suppress(Exception, SystemExit):
                task.coroutine.close()
        else:
            return
        del self.tasks[task]

    def _answer(self, pid: int, origin: tuple[int, int], value: Any) -> None:
        to, number = origin
        if origin == NOBODY:
            self.results[pid] = value
        else:
            self._put(to, pid, Kind.ANSWER, number, "", value)

    def _fail(self, pid: int, name: str, origin: tuple[int, int], error: BaseException) -> None:
        failure = self._failure(pid, name, error)
        if origin == NOBODY:
            self.fatal.append(failure)
        else:
            self._put(origin[0], pid, Kind.FAILURE, origin[1], "", failure.content)

    def _failure(self, pid: int, name: str, error: BaseException) -> Failure:
        if isinstance(error, ParticleError):  # of another particle: told as it was
            return Failure(error.message, error.kind, error.particle, error.rank, error.trace)
        kind = type(error).__name__
        said = f"{kind}: {error}" if str(error) else kind
        message = f"handler {name!r} of particle {pid} (rank {self._rank}) raised {said}"
        trace = "".join(traceback.format_exception(error))
        return Failure(message, kind, pid, self._rank, trace)

    def _hear_answer(self, letter: Letter) -> None:
        future = self._asked.pop((letter.to, letter.refers))()
        if letter.kind == Kind.FAILURE:
            failure = Failure(*letter.value)
            if future is None:  # nobody can ask for it any more
                self.fatal.append(failure)
            else:
                self._tell(future, failure)
        elif future is not None:
            self._settle(future, letter.value)

    def _settle(self, future: Future, value: Any, error: Failure | None = None) -> None:
        future.settle(value, error)
        for task in future.waiting:
            self._resume(task)
        future.waiting.clear()

    def _hear(self, letter: Letter) -> None:
        meeting = self._meetings.setdefault(letter.refers, Meeting())
        meeting.said[letter.sender] = (letter.name, letter.value)
        if len(meeting.said) < self._n:
            return
        del self._meetings[letter.refers]
        try:
            values = meeting.results()
        except (ConfigError, ValueError, TypeError) as error:
            for future in meeting.futures:
                self._refuse(future, error)
            return
        for future in sorted(meeting.futures, key=lambda one: one.owner):
            self._settle(future, copied(values, _locked))

    def _compute(self) -> None:
        """Gradients for all who have asked by now; the batches of one layout at once."""
        wanted, self._wanted = self._wanted, {}
        for group in wanted.values():
            try:
                found = self._crowd.gradients([(pid, batch) for pid, batch, _ in group])
            except Exception as error:
                for _, _, future in group:
                    self._refuse(future, error)
                continue
            for (_, _, future), result in zip(group, found, strict=True):
                self._settle(future, result)

    def _refuse(self, future: Future, error: Exception) -> None:
        self._tell(future, self._failure(future.owner, future.what, error))

    def _tell(self, future: Future, failure: Failure) -> None:
        """Fail a future, and keep in mind that its owner may never look."""
        self._unknown = [one for one in self._unknown if not one.is_known]
        self._unknown.append(failure)
        self._settle(future, None, failure)

    # Its end --------------------------------------------------------------------------------

    def failures(self) -> list[Failure]:
        """What has been raised and told to nobody, the first to report first."""
        left = [one for one in self._unknown if not one.is_known]
        return sorted(self.fatal, key=_place) + sorted(left, key=_place)

    def waits(self) -> dict[int, list[str]]:
        """Who waits for what, by particle."""
        for meeting in self._meetings.values():
            absent = [pid for pid in range(self._n) if pid not in meeting.said]
            for future in meeting.futures:
                future.what += f", which particles {absent} have not called"
        found: dict[int, list[str]] = {}
        for task in self.tasks:
            found.setdefault(task.pid, []).append(task.report())
        return found


def _locked(array: Array) -> Array:
    array.setflags(write=False)
    return array


def _place(failure: Failure) -> Any:
    return failure.content[2]
