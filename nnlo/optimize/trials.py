"""The trials of a search, as the records of its log tell them.

A record is a JSON object. ``event`` names it; the others have these fields::

    header     what the search is: see ``study``
    ordered    trial: it is proposed from what is known here, and asked later
    asked      trial, params, told (how many trials the searcher knew), running (numbers of the
               others it was told to be under way)
    started    trial, block, attempt (from 1), from_epoch, to_epoch
    reported   trial, epoch, merit, metrics, saved (a checkpoint of that epoch exists),
               verdict (continue, pause, stop, suspend), to_epoch (where to report next)
    finished   trial, merit, merits, metrics, epochs, seconds, files
    failed     trial, reason, kind, attempt
    lost       trial, block, reason
    suspended  trial, block, reason: the search is interrupted; it may finish all the same
    restored   the search goes on in another process: whatever ran then does not run any more
    ended      reason

``at``, seconds since 1970, is added by the log. Trials are numbered from 0 in the order of
asking. Whoever applies the same records gets the same table.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nnlo.errors import DataError
from nnlo.optimize.searcher import Told
from nnlo.optimize.space import Params

Record = dict[str, Any]
State = Literal["waiting", "running", "paused", "finished", "stopped", "failed"]
VERDICTS = ("continue", "pause", "stop", "suspend")

_AFTER: Mapping[str, State] = {
    "continue": "running",
    "pause": "paused",
    "stop": "stopped",
    "suspend": "waiting",
}


_WAY = ("    ", '  File "')
"""What lines of a traceback before its error begin with."""


def _error_in(text: str) -> str:
    """What stands behind the last traceback in ``text``, all of it where there is none."""
    lines = text.splitlines()
    starts = [
        i
        for i, (before, line) in enumerate(itertools.pairwise(lines), 1)
        if before.startswith(_WAY) and line.strip() and not line.startswith(" ")
    ]
    return "\n".join(lines[starts[-1] :]) if starts else text


@dataclass
class Trial:
    """One set of parameters and what became of it.

    state: waiting (for a block), running, paused (at a rung, may be promoted), finished,
    stopped (early, for good) or failed. merit: the newest, of ``epochs`` epochs; None before
    the first and after a failure. curve: merits by epoch. saved_epoch: that of its newest
    checkpoint, 0 for none. limit: the epoch up to which it may train before it asks again.
    n_lost: how often its block died. n_interrupted: how often the whole search ended under it
    since it last reported. reason, kind: of a failure.
    """

    number: int
    params: Params
    state: State = "waiting"
    merit: float | None = None
    merits: tuple[float, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    epochs: int = 0
    saved_epoch: int = 0
    limit: int = 0
    block: int | None = None
    attempts: int = 0
    n_lost: int = 0
    n_interrupted: int = 0
    reason: str = ""
    kind: str = ""
    seconds: float = 0.0
    files: dict[str, str] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will become of it; a paused one may still be promoted."""
        return self.state in ("finished", "stopped", "failed")

    @property
    def cause(self) -> str:
        """The reason of its failure on one line: of a traceback the error, without the way."""
        return " ".join(_error_in(self.reason).split()) or "no reason given"


class Trials:
    """The table. ``apply`` is the only way in."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.rows: list[Trial] = []
        self.unanswered: dict[int, Params] = {}
        """Parameters of the trials without any result yet, by number."""
        self.failures_in_a_row: dict[str, int] = {"any": 0, "error": 0}
        """Failures since the last success or restore; of every kind, and by an exception."""
        self.n_failed = 0
        self.resting: dict[int, int] = {}
        """Trials with a result that is not of all their epochs, and of how many it is."""
        self._told: list[Told] = []
        self._place: dict[int, int] = {}
        for record in records:
            self.apply(record)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Trial:
        return self.rows[number]

    @property
    def told(self) -> Sequence[Told]:
        """The results so far, in the order in which trials got their first; the table's own.

        A paused trial stands here with the merit of its rung, which changes in place when it
        got further.
        """
        return self._told

    def in_flight(self) -> list[Trial]:
        """Trials that wait for a block or have one."""
        return [trial for trial in self.rows if trial.state in ("waiting", "running")]

    def apply(self, record: Record) -> None:
        """Raises DataError for a record that does not fit those before it."""
        event = record.get("event")
        try:
            if event in ("header", "ended", "ordered"):
                return
            if event == "restored":
                self._interrupt()
            elif event == "asked":
                self._ask(record)
            else:
                _CHANGES[event](self, self.rows[record["trial"]], record)  # type: ignore[index]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(
                f"the records of a search must follow from each other, got {record} after "
                f"{len(self)} trials ({error!r}); the log is damaged or of another version"
            ) from error

    def _ask(self, record: Record) -> None:
        number = record["trial"]
        if number != len(self.rows):
            raise ValueError(f"trial {len(self.rows)} is next")
        self.rows.append(Trial(number, dict(record["params"])))
        self.unanswered[number] = self.rows[-1].params

    def _start(self, trial: Trial, record: Record) -> None:
        if trial.is_over:
            raise ValueError("it is over")
        trial.state = "running"
        trial.block = record["block"]
        trial.attempts = record["attempt"]
        trial.limit = record["to_epoch"]

    def _report(self, trial: Trial, record: Record) -> None:
        verdict, epoch = record["verdict"], record["epoch"]
        trial.state = _AFTER[verdict]
        trial.merit, trial.epochs = record["merit"], epoch
        trial.metrics = record["metrics"]
        trial.curve[epoch] = record["merit"]
        trial.n_interrupted = 0
        if record["saved"]:
            trial.saved_epoch = max(trial.saved_epoch, epoch)
        trial.limit = max(trial.limit, record["to_epoch"])
        if verdict in ("pause", "stop"):
            self._answer(trial, record["merit"], ())
            self.resting[trial.number] = epoch

    def _finish(self, trial: Trial, record: Record) -> None:
        trial.state = "finished"
        trial.merit = record["merit"]
        trial.merits = tuple(record["merits"])
        trial.metrics = record["metrics"]
        trial.epochs = record["epochs"]
        trial.seconds = record["seconds"]
        trial.files = record["files"]
        self._answer(trial, trial.merit, trial.merits)
        self.failures_in_a_row = {"any": 0, "error": 0}

    def _fail(self, trial: Trial, record: Record) -> None:
        trial.state = "failed"
        trial.merit = None
        trial.reason, trial.kind = record["reason"], record["kind"]
        self._answer(trial, None, ())
        self.n_failed += 1
        self.failures_in_a_row["any"] += 1
        self.failures_in_a_row["error"] += trial.kind == "error"

    def _lose(self, trial: Trial, record: Record) -> None:
        trial.state = "waiting"
        trial.n_lost += 1

    def _suspend(self, trial: Trial, record: Record) -> None:
        trial.state = "waiting"

    def _interrupt(self) -> None:
        for trial in self.rows:
            if trial.state == "running":
                trial.state = "waiting"
                trial.n_interrupted += 1
        self.failures_in_a_row = {"any": 0, "error": 0}

    def _answer(self, trial: Trial, merit: float | None, merits: tuple[float, ...]) -> None:
        """Give the searchers' view its newest result."""
        if merit is not None and not math.isfinite(merit):
            raise ValueError("a merit is finite")
        self.resting.pop(trial.number, None)
        told = Told(trial.number, trial.params, merit, merits)
        place = self._place.setdefault(trial.number, len(self._told))
        if place == len(self._told):
            self._told.append(told)
            del self.unanswered[trial.number]
        else:
            self._told[place] = told


_CHANGES = {
    "started": Trials._start,
    "reported": Trials._report,
    "finished": Trials._finish,
    "failed": Trials._fail,
    "lost": Trials._lose,
    "suspended": Trials._suspend,
}
EVENTS = frozenset((*_CHANGES, "header", "ordered", "asked", "restored", "ended"))
