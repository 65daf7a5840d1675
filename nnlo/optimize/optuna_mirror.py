"""A copy of a search as an Optuna journal file, for optuna-dashboard and Optuna's own tools.

The lines are written in the format of Optuna's ``JournalFileBackend`` (4.x and 5.x), which is
the interface here: Optuna need not be installed where the search runs. The journal follows from
the log alone, so it can be made again at any time, and a piece of it is never repaired but
written anew. Trials keep their numbers. Merits are Optuna's values, to be minimised; reports
are its intermediate values; block, attempt, state, metrics and the reason of a failure are user
attributes. A paused trial runs, for Optuna, until the search ends: then it is pruned.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nnlo.files import write_atomic
from nnlo.optimize.dimensions import Categorical, Dimension, Integer
from nnlo.optimize.space import Params, Space
from nnlo.optimize.trials import Record, Trials

log = logging.getLogger(__name__)

WRITER = "nnlo"

# Optuna's JournalOperation and TrialState.
_CREATE_STUDY, _STUDY_ATTR, _STUDY_NOTE, _CREATE_TRIAL = 0, 2, 3, 4
_SET_STATE, _SET_VALUE, _SET_ATTR = 6, 7, 8
_RUNNING, _COMPLETE, _PRUNED, _FAIL, _WAITING = 0, 1, 2, 3, 4
_MINIMIZE = 1


class Journal:
    """Turns records into lines, one after the other.

    name: of the study. merits: their names.
    """

    def __init__(self, name: str, space: Space, merits: Sequence[str]) -> None:
        self._name = name
        self._space = space
        self._merits = list(merits)
        self._trials = Trials()
        self._is_open: set[int] = set()  # trials that Optuna can still change

    def lines(self, record: Record) -> list[bytes]:
        """What the journal gains by the next record of the log."""
        self._trials.apply(record)
        return [_line(operation) for operation in self._operations(record)]

    def _operations(self, record: Record) -> Iterator[dict[str, Any]]:
        event = record["event"]
        if event == "header":
            yield from self._study(record)
        elif event == "asked":
            yield from self._asked(record)
        elif event == "ended":
            for number in sorted(self._is_open):
                yield from self._prune(number, record)
        elif event not in ("restored", "ordered") and record["trial"] in self._is_open:
            yield from getattr(self, f"_{event}")(record)

    def _study(self, record: Record) -> Iterator[dict[str, Any]]:
        directions = [_MINIMIZE] * len(self._merits)
        yield {"op_code": _CREATE_STUDY, "study_name": self._name, "directions": directions}
        names = {"study:metric_names": self._merits}
        yield {"op_code": _STUDY_NOTE, "study_id": 0, "system_attr": names}
        for name, value in record.items():
            if name not in ("event", "space"):
                yield {"op_code": _STUDY_ATTR, "study_id": 0, "user_attr": {name: value}}

    def _asked(self, record: Record) -> Iterator[dict[str, Any]]:
        self._is_open.add(record["trial"])
        yield {
            "op_code": _CREATE_TRIAL,
            "study_id": 0,
            "datetime_start": None,
            "state": _WAITING,
            "value": None,
            "values": None,
            "distributions": {one.name: _distribution(one) for one in self._space.dimensions},
            "params": self._internal(record["params"]),
            "user_attrs": {},
            "system_attrs": {},
            "intermediate_values": {},
        }

    def _internal(self, params: Params) -> dict[str, Any]:
        """Optuna's own numbers: the place of a category, floats for all else."""
        return {
            one.name: one.categories.index(params[one.name])
            if isinstance(one, Categorical)
            else float(params[one.name])  # type: ignore[arg-type]
            for one in self._space.dimensions
        }

    def _started(self, record: Record) -> Iterator[dict[str, Any]]:
        number = record["trial"]
        if record["attempt"] == 1:
            yield {
                "op_code": _SET_STATE,
                "trial_id": number,
                "state": _RUNNING,
                "values": None,
                "datetime_start": _time(record),
            }
        about = {"block": record["block"], "attempt": record["attempt"]}
        yield from _attrs(number, state="running", **about)

    def _reported(self, record: Record) -> Iterator[dict[str, Any]]:
        number, epoch = record["trial"], record["epoch"]
        merit = {"step": epoch, "intermediate_value": record["merit"]}
        yield {"op_code": _SET_VALUE, "trial_id": number} | merit
        state = self._trials[number].state
        if state != "running":
            yield from _attrs(number, state=state, **_named(record["metrics"]))
        if state == "stopped":
            yield self._end(number, _PRUNED, self._merit(number), record)

    def _finished(self, record: Record) -> Iterator[dict[str, Any]]:
        number = record["trial"]
        epochs, merit = record["epochs"], record["merit"]
        about = {"epochs": epochs, "seconds": record["seconds"], **record["files"]}
        yield from _attrs(number, state="finished", **about, **_named(record["metrics"]))
        last = {"step": epochs, "intermediate_value": merit}
        yield {"op_code": _SET_VALUE, "trial_id": number} | last
        yield self._end(number, _COMPLETE, record["merits"] or [merit], record)

    def _failed(self, record: Record) -> Iterator[dict[str, Any]]:
        number = record["trial"]
        yield from _attrs(number, state="failed", reason=record["reason"], kind=record["kind"])
        yield self._end(number, _FAIL, None, record)

    def _lost(self, record: Record) -> Iterator[dict[str, Any]]:
        yield from _attrs(record["trial"], state="waiting", lost=record["reason"])

    def _suspended(self, record: Record) -> Iterator[dict[str, Any]]:
        yield from _attrs(record["trial"], state="waiting", suspended=record["reason"])

    def _prune(self, number: int, record: Record) -> Iterator[dict[str, Any]]:
        if self._trials[number].state == "paused":
            yield self._end(number, _PRUNED, self._merit(number), record)

    def _merit(self, number: int) -> list[float] | None:
        """The values of a trial that did not end; Optuna wants as many as there are merits."""
        merit = self._trials[number].merit
        return [merit] if merit is not None and len(self._merits) == 1 else None

    def _end(
        self, number: int, state: int, values: list[float] | None, record: Record
    ) -> dict[str, Any]:
        self._is_open.discard(number)
        about = {"trial_id": number, "state": state, "values": values}
        return {"op_code": _SET_STATE, **about, "datetime_complete": _time(record)}


class Mirror:
    """The journal of one search on disk, kept along with its log.

    A reader that follows the file sees it grow. A disk that does not take it only brings a
    warning: nothing is written then until the next ``rebuild``, which makes it good.
    """

    def __init__(self, file: Path, name: str, space: Space, merits: Sequence[str]) -> None:
        self.file = file
        self._about = (name, space, tuple(merits))
        self._journal = Journal(*self._about)
        self._is_good = False

    def rebuild(self, records: Sequence[Record]) -> None:
        """Bring the file to what ``records``, the whole log, make of it.

        A file that holds the beginning of that is only continued, so that those who read it
        can go on and keep what they added, such as notes of optuna-dashboard; any other is
        replaced.
        """
        self._journal = Journal(*self._about)
        # An end that the search was restored after did not end its paused trials.
        lasting = [one for one in records[:-1] if one["event"] != "ended"] + list(records[-1:])
        data = b"".join(line for record in lasting for line in self._journal.lines(record))
        with self._careful():
            present = self.file.read_bytes() if self.file.exists() else b""
            ours = _ours(present)
            if ours and data.startswith(ours):
                _append(self.file, data[len(ours) :])
            else:
                write_atomic(self.file, lambda stream: stream.write(data))
            self._is_good = True

    def follow(self, record: Record) -> None:
        """Add the next record of the log."""
        data = b"".join(self._journal.lines(record))
        if data and self._is_good:
            with self._careful():
                _append(self.file, data)

    @contextmanager
    def _careful(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._is_good = False
            log.warning("%s cannot be written (%s); make it again later", self.file, error)


def _ours(data: bytes) -> bytes:
    """What we wrote of a journal, and whatever is torn in it."""
    mark = f'"worker_id":"{WRITER}"'.encode()
    lines = data.splitlines(keepends=True)
    return b"".join(line for line in lines if mark in line or not _is_whole(line))


def _is_whole(line: bytes) -> bool:
    """Whether Optuna can read a line of others."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n")


def _append(file: Path, data: bytes) -> None:
    number = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        if os.write(number, data) < len(data):
            raise OSError(f"only a part of {len(data)} bytes was written")
    finally:
        os.close(number)


def _line(operation: Mapping[str, Any]) -> bytes:
    line = {"op_code": operation["op_code"], "worker_id": WRITER, **operation}
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _distribution(dimension: Dimension) -> str:
    """As ``optuna.distributions.distribution_to_json``."""
    name: str
    about: dict[str, Any]
    if isinstance(dimension, Categorical):
        name, about = "CategoricalDistribution", {"choices": list(dimension.categories)}
    elif isinstance(dimension, Integer):
        name, about = "IntDistribution", {"log": dimension.log, "step": 1}
    else:
        name, about = "FloatDistribution", {"log": dimension.log, "step": None}
    if not isinstance(dimension, Categorical):
        about |= {"low": dimension.low, "high": dimension.high}
    return json.dumps({"name": name, "attributes": about})


def _attrs(number: int, **attrs: Any) -> Iterator[dict[str, Any]]:
    for name, value in attrs.items():
        yield {"op_code": _SET_ATTR, "trial_id": number, "user_attr": {name: value}}


def _named(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"metric {name}": value for name, value in metrics.items()}


def _time(record: Record) -> str:
    return datetime.fromtimestamp(record.get("at", 0.0), UTC).isoformat(timespec="microseconds")
