"""What happened when in a search, from its records alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from nnlo.errors import ConfigError
from nnlo.optimize.fidelity import at_the_end
from nnlo.optimize.searcher import Told
from nnlo.optimize.space import Space
from nnlo.optimize.study import read
from nnlo.optimize.trials import Record, Trial, Trials


class Stretch(NamedTuple):
    """A block's work on a trial, in seconds of the search.

    outcome: finished, failed, paused, stopped, suspended, lost (its block died), killed (the
    whole search did) or running (when the log ends).
    """

    block: int
    trial: int
    start: float
    end: float
    outcome: str


class Result(NamedTuple):
    """A merit that a trial came to after ``at`` seconds of the search; None: it failed."""

    trial: int
    at: float
    merit: float | None
    is_final: bool


_CLOSING = {"pause": "paused", "stop": "stopped", "suspend": "suspended"}


@dataclass(frozen=True)
class Course:
    """The records of a search, header first, as ``study.read`` gives them.

    Seconds of the search are those since its begin in which it ran: what passed between a kill
    and the next restore does not count.
    """

    records: Sequence[Record]

    def __post_init__(self) -> None:
        header = self.records[0] if self.records else {}
        if header.get("event") != "header" or not header.get("space"):
            raise ConfigError(
                f"a report must be made of a log with a header and its space, got "
                f"{str(header)[:80] or 'nothing'}; give the study.log of a search"
            )

    @classmethod
    def load(cls, file: Path) -> "Course":
        """From a log, also a copy of one that is being written; raises like ``study.read``."""
        return cls(read(file))

    @cached_property
    def space(self) -> Space:
        """As the header's ``space`` tells, so without ``repair``."""
        return Space.from_json(self.records[0]["space"])

    @cached_property
    def table(self) -> Trials:
        return Trials(self.records)

    @property
    def trials(self) -> list[Trial]:
        return self.table.rows

    @cached_property
    def told(self) -> Sequence[Told]:
        """Merits of unfinished trials are made comparable, see ``fidelity``."""
        return at_the_end(self.table)

    @cached_property
    def merit_names(self) -> list[str]:
        """Those of the header, if as many as the trials have; else numbers."""
        n = max((len(one.merits) for one in self.trials), default=0) or 1
        names = [one.strip() for one in str(self.records[0].get("merit", "merit")).split(",")]
        return names if len(names) == n else [f"merit {i}" for i in range(1, n + 1)]

    @cached_property
    def seconds(self) -> list[float]:
        """Of each record; never falling, even where the clock was set back."""
        found: list[float] = []
        now, before = 0.0, self.records[0]["at"]
        for record in self.records:
            if record["event"] != "restored":
                now += max(0.0, record["at"] - before)
            before = record["at"]
            found.append(now)
        return found

    @cached_property
    def stretches(self) -> list[Stretch]:
        """In the order of their ends."""
        return list(self._stretches())

    @cached_property
    def results(self) -> list[Result]:
        """Ends, failures, and merits with which trials were paused or stopped, in order."""
        found = []
        for record, at in zip(self.records, self.seconds, strict=True):
            event = record["event"]
            if event in ("finished", "failed"):
                found.append(Result(record["trial"], at, record.get("merit"), True))
            elif event == "reported" and record["verdict"] in ("pause", "stop"):
                found.append(Result(record["trial"], at, record["merit"], False))
        return found

    @cached_property
    def sessions(self) -> list[tuple[float, float]]:
        """Begin and end of each process that led the search."""
        pairs = zip(self.records, self.seconds, strict=True)
        begins = [0.0, *(at for record, at in pairs if record["event"] == "restored")]
        return list(zip(begins, [*begins[1:], self.seconds[-1]], strict=True))

    @property
    def utilisation(self) -> float:
        """The share of the blocks' time in which they had a trial; 0 where none has passed.

        A block counts for the whole session in which it worked.
        """
        held = 0.0
        for begin, end in self.sessions:
            working = [one for one in self.stretches if one.start < end and one.end > begin]
            held += len({one.block for one in working}) * (end - begin)
        busy = sum(one.end - one.start for one in self.stretches)
        return busy / held if held else 0.0

    def _stretches(self) -> Iterator[Stretch]:
        running: dict[int, tuple[int, float]] = {}
        for record, at in zip(self.records, self.seconds, strict=True):
            event: str = record["event"]
            trial = record.get("trial", -1)
            if event == "started":
                running[trial] = (record["block"], at)
            elif event == "restored":
                yield from _closed(running, at, "killed")
                running = {}
            elif trial in running:
                outcome = _CLOSING.get(record.get("verdict", ""), event)
                if outcome != "reported":
                    block, start = running.pop(trial)
                    yield Stretch(block, trial, start, at, outcome)
        yield from _closed(running, self.seconds[-1], "running")


def _closed(running: dict[int, tuple[int, float]], at: float, outcome: str) -> Iterator[Stretch]:
    for trial, (block, start) in running.items():
        yield Stretch(block, trial, start, at, outcome)
