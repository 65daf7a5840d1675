"""One running MPI job: its signals, its standard error, its end."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import BinaryIO

from nnlo.cli.threads import die_with_parent

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORWARDED = (signal.SIGUSR1, signal.SIGUSR2)
# Seconds after the request to stop: mpirun hands SIGUSR1 to every rank, ends them hard upon
# SIGTERM, and needs up to half a second for that.
ESCALATION = ((0.0, signal.SIGUSR1), (4.0, signal.SIGTERM), (4.7, signal.SIGKILL))
HURRIED = ((0.0, signal.SIGTERM), (0.7, signal.SIGKILL))
POLL_S = 0.02
# Where Open MPI 5 puts its files. By itself it names the folder after mpirun's process id, and
# fails ("The PMIx server's listener thread failed to start", code 213) when a killed job with
# the same id has left one.
FOLDERS = ("PRTE_MCA_prte_local_tmpdir_base", "PRTE_MCA_prte_tmpdir_base")

# What Open MPI adds when a rank ends with an error that it has explained itself, or when it did
# not know yet what SIGUSR1 asks for. Open MPI 5 has no option against it. Any other banner (a rank
# killed by a signal, too few slots) tells something new and passes.
_RULE = rb"-{74}\n"
_HEADS = (
    rb"(?:prterun|mpirun) (?:detected that one|has exited due)",
    rb"(?:prterun|mpirun) noticed that process rank[^-]*?\ssignal 10 ",
    rb"MPI_ABORT was",
    rb"Primary job ",
)
# Besides: remains of banners, and what libevent says of a pipe whose rank is gone.
_BANNER = re.compile(
    b"%b(?:%b).*?\n%b|\x00|^\\[warn\\] Epoll [^\n]*\n" % (_RULE, b"|".join(_HEADS), _RULE),
    re.DOTALL | re.MULTILINE,
)
# The end of the text as long as it may still become a banner.
_OPEN = re.compile(
    rb"-+\Z|%b(?:[pmMP](?:(?!%b).){0,1500})?\Z|^\[warn\][^\n]*\Z" % (_RULE, _RULE),
    re.DOTALL | re.MULTILINE,
)


class BannerFilter:
    """Drops from a byte stream the banners by which mpirun repeats a failure."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what can be shown now; what may become a banner is held back."""
        text = _BANNER.sub(b"", self._held + chunk)
        opened = _OPEN.search(text)
        cut = opened.start() if opened else len(text)
        self._held = text[cut:]
        return text[:cut]

    def close(self) -> bytes:
        """Return the rest."""
        return self._held


def run_job(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run ``command``, pass signals on, return its exit code (128 + n when signal n ended it).

    SIGINT, SIGTERM and SIGHUP ask the ranks to stop and end them within 5 seconds, or at once
    when they come again. Of the job nothing is left on this machine when this returns.
    """
    with (
        TemporaryDirectory(prefix="nnlorun-", ignore_cleanup_errors=True) as folder,
        _caught(STOPPING + FORWARDED) as signals,
    ):
        settings = {} if any(name in environ for name in FOLDERS) else {FOLDERS[0]: folder}
        job = subprocess.Popen(
            command,
            env={**environ, **settings},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # A session of its own: the terminal's Ctrl-C must not reach mpirun, which would kill.
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
        assert job.stderr is not None
        pump = threading.Thread(target=_pump, args=(job.stderr,), daemon=True)
        pump.start()
        stopped_by, was_forced = _wait(job, signals)
        _kill_session(job.pid)
        pump.join(timeout=1.0)
    if job.returncode < 0 and stopped_by is None:
        _show(f"nnlorun: {command[0]} was ended by signal {-job.returncode}\n".encode())
    return exit_code(job.returncode, stopped_by, was_forced=was_forced)


def exit_code(returncode: int, stopped_by: int | None = None, *, was_forced: bool = False) -> int:
    """Return the exit code for a job that ended with ``returncode``.

    stopped_by: the signal that asked it to stop: 128 + that then, unless the job ended by itself
    with an error of its own. was_forced: it did not.
    """
    if returncode < 0:
        returncode = 128 - returncode
    if stopped_by is not None and (was_forced or returncode == 0 or returncode > 128):
        return 128 + stopped_by
    return returncode


def _wait(job: "subprocess.Popen[bytes]", signals: "SimpleQueue[int]") -> tuple[int | None, bool]:
    """Wait for the end of the job and pass signals on.

    Returns the signal that asked it to stop, if any, and whether the ranks were ended by force.
    """
    stopped_by: int | None = None
    steps: list[tuple[float, int]] = []
    sent, begin = 0, 0.0
    while job.poll() is None:
        number = _next(signals)
        if number in FORWARDED:
            job.send_signal(number)
        elif number is not None:
            steps = list(HURRIED if stopped_by else ESCALATION)
            stopped_by, begin = stopped_by or number, time.monotonic()
            _say_stopping(steps)
        while steps and time.monotonic() - begin >= steps[0][0]:
            sent = steps.pop(0)[1]
            job.send_signal(sent)
    return stopped_by, sent in (signal.SIGTERM, signal.SIGKILL)


def _next(signals: "SimpleQueue[int]") -> int | None:
    try:
        return signals.get(timeout=POLL_S)
    except Empty:
        return None


def _say_stopping(steps: Sequence[tuple[float, int]]) -> None:
    if steps[0][1] == signal.SIGUSR1:
        grace = steps[1][0]
        _show(f"nnlorun: asked the ranks to stop, {grace:.0f} s for it; again: at once\n".encode())


@contextmanager
def _caught(numbers: Sequence[int]) -> Iterator["SimpleQueue[int]"]:
    """Queue these signals instead of acting on them."""
    signals: SimpleQueue[int] = SimpleQueue()
    before = {
        number: signal.signal(number, lambda n, _: signals.put(n))
        for number in numbers
        # nohup has it ignored, and that must stay so.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pump(source: BinaryIO) -> None:
    """Show the job's standard error, without mpirun's comments on it."""
    banners = BannerFilter()
    while chunk := os.read(source.fileno(), 65536):
        _show(banners.feed(chunk))
    _show(banners.close())


def _show(text: bytes) -> None:
    with suppress(OSError):  # a terminal that is gone must not stop us from ending the ranks
        sys.stderr.buffer.write(text)
        sys.stderr.buffer.flush()


def _kill_session(session: int) -> None:
    """Kill what the launcher has left behind on this machine, and wait for its end."""
    deadline = time.monotonic() + 0.5
    while (left := _members(session)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(OSError):  # gone meanwhile
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def _members(session: int) -> list[int]:
    """Return the processes of a session that still run; none where there is no ``/proc``."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session = entry.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                members.append(int(entry.parent.name))
    return members
