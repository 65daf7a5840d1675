"""What a job leaves in its folder for the ``nnlorun`` that has started it.

The folder is named in ``NNLO_JOB``; without that variable nothing is written. A mark that cannot
be written is left out: ``nnlorun`` then knows less, and the run goes on.
"""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

JOB = "NNLO_JOB"
"""The folder of this start of the job."""
RESTARTS = "NNLO_RESTARTS"
"""How often the job has been started again, "0" at its first start."""
SINCE = "NNLO_SINCE"
"""When the job was started for the first time, in seconds of ``time.time()``."""

AGAIN = 75
"""Exit code EX_TEMPFAIL: the job has saved what it could and wants to be started again."""

RANKS, STARTED, LOG, DONE = "ranks", "started", "log", "done"
_UP = "up-"


class Marks(NamedTuple):
    """How far one start came.

    ranks: the launcher has started ranks. started: the training has begun; checkpoint: base
    path of its checkpoints, None where it writes none; log: of a search instead. done: the exit
    code of a program that came to its end in order, also by an error that it has explained;
    None where it did not.
    """

    ranks: bool = False
    started: bool = False
    checkpoint: Path | None = None
    done: int | None = None
    log: Path | None = None


def mark_ranks(environ: Mapping[str, str] = os.environ) -> None:
    """Say that ranks are there; any of them may."""
    _write(RANKS, "", environ)


def mark_up(environ: Mapping[str, str] = os.environ) -> None:
    """Say that this process has met the other ranks, or that it ends and will not."""
    _write(f"{_UP}{os.getpid()}", "", environ)


def is_up(folder: Path, pid: int) -> bool:
    """Whether the process ``pid`` has said so, or any that the training has begun."""
    return (folder / f"{_UP}{pid}").exists() or (folder / STARTED).exists()


def mark_started(checkpoint: Path | None, environ: Mapping[str, str] = os.environ) -> None:
    """Say, on rank 0, that the training begins; checkpoint: base path, None without any."""
    _write(STARTED, "" if checkpoint is None else str(checkpoint.absolute()), environ)


def mark_search(log: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Say, on rank 0, that a search begins that keeps ``log``."""
    _write(LOG, str(log.absolute()), environ)
    _write(STARTED, "", environ)


def mark_done(code: int, environ: Mapping[str, str] = os.environ) -> None:
    """Say, on rank 0, that the program ends in order with exit code ``code``."""
    _write(DONE, str(code), environ)


def code_of_end(interrupted: str, *, has_checkpoint: bool) -> int:
    """Return the exit code of a run that has ended in order.

    interrupted: the text that names the signal which ended it, empty without one. SIGINT is the
    user's own; SIGTERM and SIGUSR1 are a scheduler's, which may start again what has been saved.
    """
    named = [number for number in signal.Signals if f"({number.name})" in interrupted]
    if not named:
        return 0
    return AGAIN if has_checkpoint and named[0] != signal.SIGINT else 128 + named[0]


def _write(name: str, text: str, environ: Mapping[str, str]) -> None:
    if folder := environ.get(JOB):
        with suppress(OSError):  # rank 0 may be on a node that does not see the folder
            Path(folder, name).write_text(text)


def read_marks(folder: Path) -> Marks:
    """Return what the ranks have left in ``folder``."""
    started, log, done = (_read(folder / name) for name in (STARTED, LOG, DONE))
    return Marks(
        ranks=(folder / RANKS).exists() or started is not None or done is not None,
        started=started is not None,
        checkpoint=Path(started) if started else None,
        done=int(done) if done and done.isdigit() else None,
        log=Path(log) if log else None,
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def count_restarts(environ: Mapping[str, str] = os.environ) -> int:
    """Return how often this job has been started again."""
    text = environ.get(RESTARTS, "")
    return int(text) if text.isdigit() else 0


def first_start(environ: Mapping[str, str] = os.environ) -> float:
    """Return when the job was started for the first time, 0.0 where nobody has said it."""
    try:
        return float(environ.get(SINCE, "0"))
    except ValueError:
        return 0.0
