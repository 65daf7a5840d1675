"""The log of a search, the only truth about it: ``study.log``, one JSON object a line.

Lines are only ever appended, and on the disk when ``append`` returns. A writer that is killed,
at whatever byte, leaves complete lines and perhaps a piece of one more; ``open`` cuts that off
and keeps it in ``study.log.torn``. One process writes (``study.lock``); all may read.

The first line is the header: ``event`` "header", ``schema`` 1, ``at``, and what the caller
gives, of which ``IDENTITY`` must not change while the search lasts (nor should ``code``).
``trials`` tells of the rest.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnlo.errors import CheckpointError, ConfigError, DataError
from nnlo.files import FolderLock, sync_folder, write_atomic
from nnlo.optimize.ahead import Orders
from nnlo.optimize.searcher import Searcher
from nnlo.optimize.trials import EVENTS, Record, Trials

log = logging.getLogger(__name__)

STUDY = "study.log"
"""Its name in the folder of a search."""

SCHEMA = 1
IDENTITY = (
    *("model", "space", "merit", "merit_epoch", "searcher", "seed", "pruning"),
    *("epochs", "folds", "training"),
)
"""What makes it the same search, in the header."""


class Study:
    """Made by ``create`` and ``open``; ``close`` it, or use it in a ``with``.

    trials: the table of all records in the log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / STUDY
        self.header: Record = {}
        self.trials = Trials()
        self._lock = FolderLock(folder / "study.lock")
        self._number: int | None = None

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> "Study":
        """Begin a search. Raises ConfigError where the folder has one, or cannot be used."""
        study = cls(folder)
        with study._held():
            if study._repair():
                raise ConfigError(
                    f"a new search must have a folder of its own, got {folder}, which has one; "
                    "give another --trial-name, or go on with that one by --opt-restore"
                )
            study._begin(header)
        return study

    @classmethod
    def open(cls, folder: Path, header: Mapping[str, Any]) -> "Study":
        """Go on with a search, which needs one whose ``header`` has the same ``IDENTITY``.

        Whatever ran is waiting now. Where a search was killed before its header was written it
        begins here. Raises ConfigError for another search or none, DataError for a log that is
        damaged before its end.
        """
        study = cls(folder)
        if not study.file.exists():
            raise ConfigError(
                f"--opt-restore must find a search, got {folder}, which has none; "
                "leave it out to begin one, or check --trial-name and --output"
            )
        with study._held():
            if not study._repair():
                study._begin(header)
                return study
            study._read()
            study._compare(header)
            if study.header.get("code") != header.get("code"):
                log.warning(
                    "the model's file has changed since the search began: merits of trials before "
                    "and after may not compare"
                )
            study._to_append()
            about = {name: header[name] for name in header if name not in IDENTITY}
            study.append({"event": "restored", **about})
        return study

    def append(self, *records: Record) -> list[Record]:
        """Bring records to the disk and into the table; what was written: with ``at`` added.

        Several at once cost one flush. Raises CheckpointError where the disk does not take
        them: the log is as it was then.
        """
        if self._number is None:
            raise ConfigError(f"the log must be open to be written, got {self.file}; open it")
        now = round(time.time(), 3)
        stamped = [record if "at" in record else record | {"at": now} for record in records]
        data = b"".join(_line(record) for record in stamped)
        size = os.fstat(self._number).st_size
        try:
            n_written = 0
            while n_written < len(data):
                n_written += os.write(self._number, data[n_written:])
            os.fsync(self._number)
        except OSError as error:
            with suppress(OSError):  # else the next open cuts it off
                os.ftruncate(self._number, size)
            raise CheckpointError(
                f"the log of the search must be written to {self.file}, got {error}; "
                "free space, then go on by --opt-restore"
            ) from error
        for record in stamped:
            self.trials.apply(record)
        return stamped

    def records(self) -> list[Record]:
        """All complete records, the header first."""
        return read(self.file)

    def close(self) -> None:
        """Let another process write."""
        if self._number is not None:
            os.close(self._number)
            self._number = None
        self._lock.release()

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Take the lock, and give it back if something fails under it."""
        self._take()
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.take()
        except OSError as error:
            raise ConfigError(
                f"a search must be written to a folder, got {self.folder} ({error}); "
                "give another --output"
            ) from error

    def _repair(self) -> bool:
        """Cut the log back to its complete lines; whether there are any."""
        if not self.file.exists():
            return False
        data = self.file.read_bytes()
        size = _whole(data, self.file)
        if size < len(data):
            write_atomic(_torn(self.file), lambda stream: stream.write(data[size:]))
            log.warning(
                "%s: its last %d bytes were torn and are cut off; they are kept in %s",
                self.file,
                len(data) - size,
                _torn(self.file).name,
            )
            with self.file.open("r+b") as stream:
                stream.truncate(size)
                os.fsync(stream.fileno())
        elif not data.endswith(b"\n") and data:
            with self.file.open("ab") as end:
                end.write(b"\n")
                os.fsync(end.fileno())
        return size > 0

    def _begin(self, header: Mapping[str, Any]) -> None:
        self._to_append()
        self.header = {"event": "header", "schema": SCHEMA, **header}
        self.append(self.header)
        sync_folder(self.folder)

    def _read(self) -> None:
        self.header, *others = self.records()
        if self.header["event"] != "header" or self.header.get("schema") != SCHEMA:
            raise ConfigError(
                f"a log must begin with a header of schema {SCHEMA}, got {self.file}, which "
                f"begins with {str(self.header)[:80]}; use the version of NNLO that wrote it"
            )
        self.trials = Trials(others)

    def _compare(self, header: Mapping[str, Any]) -> None:
        """Raise ConfigError that tells how the search of the log differs from that asked for."""
        now = json.loads(_line(dict(header)))
        differing = [
            f"{name} {json.dumps(now.get(name))} instead of {json.dumps(self.header.get(name))}"
            for name in IDENTITY
            if now.get(name) != self.header.get(name)
        ]
        if differing:
            raise ConfigError(
                f"--opt-restore must go on with the same search, got {'; '.join(differing)}; "
                "give the old values, or begin another search by another --trial-name"
            )

    def _to_append(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._number = os.open(self.file, flags, 0o666)


def read(file: Path) -> list[Record]:
    """The complete records of a log, also of one that is being written.

    Raises DataError for a file that is damaged before its last line, ConfigError for none.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the log of a search must be readable, got {file} ({error}); check its folder"
        ) from error
    return parse(data, file)


def parse(data: bytes, file: Path) -> list[Record]:
    """The complete records in the content of ``file``; raises DataError like ``read``."""
    return [record for record, _ in _lines(data[: _whole(data, file)]) if record is not None]


def unlike(records: Iterable[Record], searcher: Searcher) -> list[int]:
    """The trials of a log that ``searcher`` would not have proposed there.

    None, where it is of the same space, seed and options, and of the same libraries.
    """
    orders, found = Orders(), []
    for record in records:
        if record["event"] == "asked":
            told, running = orders.of(record["trial"])
            if searcher.ask(record["trial"], told, running) != record["params"]:
                found.append(record["trial"])
        orders.apply(record)
    return found


def _line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _torn(file: Path) -> Path:
    return file.with_name(file.name + ".torn")


def _lines(data: bytes) -> Iterator[tuple[Record | None, int]]:
    """Each line's record, None for what is none, and where the line ends."""
    end = 0
    while end < len(data):
        start, end = end, data.find(b"\n", end) + 1 or len(data)
        yield _record(data[start:end]), end


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_known = isinstance(record, dict) and record.get("event") in EVENTS
    return record if is_known else None


def _whole(data: bytes, file: Path) -> int:
    """Up to which byte the log is good; DataError where good lines follow bad ones."""
    size, first_bad = 0, 0
    for number, (record, end) in enumerate(_lines(data), 1):
        if record is None:
            first_bad = first_bad or number
        elif first_bad:
            raise DataError(
                f"a log must be damaged at its end only, got {file} with a bad line {first_bad}; "
                "remove that line, or restore the file from a copy"
            )
        else:
            size = end
    return size
