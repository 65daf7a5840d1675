"""Starting a job again: when, on how many ranks, and what is said of it."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nnlo.cli.job import FORWARDED, JobEnd, Signals, next_signal, show
from nnlo.cli.machine import count_host_slots
from nnlo.cli.marks import AGAIN
from nnlo.cli.resume import files_since
from nnlo.errors import CheckpointError

LONGEST_S = 60.0
NOT_AGAIN = (0, 2, 130)
"""Exit codes of a job that is done, was called wrongly, or was ended by its user."""


@dataclass(frozen=True)
class Ranks:
    """What one start is given: ranks, and hosts as mpirun's ``--host`` takes them, if any."""

    n: int
    hosts: str | None = None


Start = Callable[[Ranks, int], JobEnd]
"""Starts the job, for the n-th time after the first, and waits for its end."""


@dataclass(frozen=True)
class Restarts:
    """What may be done about a job that has failed.

    most: restarts. since: older checkpoints are those of other jobs, in seconds of time.time().
    signals: ours, which end the waiting between two starts. living: of hosts, those that answer.
    """

    most: int
    since: float
    signals: Signals
    living: Callable[[str], str]


def run_job_again(start: Start, ranks: Ranks, again: Restarts) -> int:
    """Run a job, and run it again while it fails and restarts are left; return the exit code."""
    n_restarts = 0
    while True:
        end = start(ranks, n_restarts)
        reason = failure(end)
        if reason is None:
            return end.code
        if n_restarts == again.most:
            _say_what_is_left(end, reason, again)
            return end.code or AGAIN
        n_restarts += 1
        ranks, change = ranks_left(ranks, again.living, came_up=end.marks.ranks)
        delay = min(2.0 ** (n_restarts - 1), LONGEST_S)
        show(
            f"nnlorun: {reason}; restart {n_restarts} of {again.most} in {delay:.0f} s on "
            f"{ranks.n} rank{'s' * (ranks.n > 1)}{change}{_from(end, again.since)}"
        )
        if (number := _pause(again.signals, delay)) is not None:
            return _code_of_pause(number, end)


def failure(end: JobEnd) -> str | None:
    """Return why the job should be started again, None where it should not.

    It should not where it is done, where its user or a scheduler has ended it, and where it
    would fail in the same way at once: by a command line or a model that cannot be used.
    """
    code, marks = end.code, end.marks
    if end.stopped_by is not None or (end.was_warned and code == 128 + signal.SIGUSR1):
        return None
    # Ranks that have lost one get a SIGTERM from mpirun, and may take it for a scheduler's.
    if marks.done is not None and not (marks.done == AGAIN and code > 128):
        is_late_error = marks.done == 1 and marks.started
        return "the job failed with code 1" if is_late_error else None
    if code == 0 and marks.started:
        return "all ranks were lost"
    if code in NOT_AGAIN:
        return None
    if code == AGAIN:
        return "ranks were lost" if marks.started else "the job asks for another start"
    if not marks.ranks:
        return f"no rank could be started (code {code})"
    killed = f"a rank was killed ({_name(code - 128)})" if code > 128 else ""
    return killed or f"the job failed with code {code}"


def ranks_left(ranks: Ranks, living: Callable[[str], str], *, came_up: bool) -> tuple[Ranks, str]:
    """Return ranks for the hosts that answer, and how to say what has changed.

    came_up: the last start brought up its ranks. Where it did not, and no host is known to be
    gone, there is one rank fewer, and at least one.
    """
    left = living(ranks.hosts) if ranks.hosts else None
    if left != ranks.hosts and left:
        before, after = count_host_slots(ranks.hosts or ""), count_host_slots(left)
        n = min(ranks.n, after if ranks.n <= before else ranks.n * after // before)
        return Ranks(max(1, n), left), f" of {left}, the hosts that answer"
    if came_up or ranks.n == 1:
        return ranks, ""
    return replace(ranks, n=ranks.n - 1), ", one fewer"


def _pause(signals: Signals, delay: float) -> int | None:
    """Wait; return the signal that forbids another start, None without one."""
    deadline = time.monotonic() + delay
    while (left := deadline - time.monotonic()) > 0:
        number = next_signal(signals, left)
        if number is not None and (number not in FORWARDED or number == signal.SIGUSR1):
            return number
    return None


def _code_of_pause(number: int, end: JobEnd) -> int:
    """A scheduler may start again what has left checkpoints."""
    is_scheduler = number in (signal.SIGTERM, signal.SIGUSR1)
    is_saved = end.marks.checkpoint or end.marks.log
    return AGAIN if is_scheduler and is_saved else 128 + number


def _from(end: JobEnd, since: float) -> str:
    """What the next start goes on from, where it is known."""
    if not end.marks.started:
        return ""
    if end.marks.log is not None:
        return f", from {end.marks.log.name}"
    if file := _newest(end, since):
        return f", from {file.name}"
    has_base = end.marks.checkpoint is not None
    return ", from the beginning: " + ("no checkpoint yet" if has_base else "no --checkpoint")


def _newest(end: JobEnd, since: float) -> Path | None:
    base = end.marks.checkpoint
    try:
        files = files_since(base, since) if base else []
    except CheckpointError:  # the program will say so
        files = []
    return files[-1] if files else None


def _say_what_is_left(end: JobEnd, reason: str, again: Restarts) -> None:
    """Tell a user whose job has lost ranks what can be done; errors speak for themselves."""
    if not end.marks.started or end.marks.done is not None:
        if again.most:
            show(f"nnlorun: {reason}; no restart of {again.most} is left")
        return
    base, file, log = end.marks.checkpoint, _newest(end, again.since), end.marks.log
    if log:
        remedy = f"what the search has done is in {log}: go on with --opt-restore"
    elif base and file:
        remedy = f"the newest checkpoint is {file}: go on with --restore {base.name}"
    elif base:
        remedy = "no checkpoint was written yet: start again"
    else:
        remedy = "without --checkpoint nothing was kept: start again"
    more = "" if again.most else ", or let nnlorun do so by --max-restarts K"
    show(f"nnlorun: {reason}; {remedy}{more}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
