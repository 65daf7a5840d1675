"""One running MPI job: its signals, its standard error, its end."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import BinaryIO, NamedTuple

from nnlo.cli.banner import BannerFilter
from nnlo.cli.marks import AGAIN, JOB, Marks, is_up, read_marks
from nnlo.cli.threads import die_with_parent
from nnlo.errors import ConfigError
from nnlo.files import FolderLock

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORWARDED = (signal.SIGUSR1, signal.SIGUSR2)
# Seconds after the request to stop: mpirun hands SIGUSR1 to every rank, ends them hard upon
# SIGTERM, and needs up to half a second for that.
ESCALATION = ((0.0, signal.SIGUSR1), (4.0, signal.SIGTERM), (4.7, signal.SIGKILL))
HURRIED = ((0.0, signal.SIGTERM), (0.7, signal.SIGKILL))
POLL_S = 0.02
LOOK_S = 0.02
"""Between two looks at ranks that start: one that has not been seen is not missed."""
OURS = {
    *("OptimizationDriver", "nnlo.cli.optimize"),
    *("PredictDriver", "nnlo.cli.predict"),
    *("PruneDriver", "nnlo.cli.prune"),
    *("TrainingDriver", "nnlo.cli.train"),
}
"""Programs that say when their ranks have met."""
# Where Open MPI 5 puts its files. By itself it names the folder after mpirun's process id, and
# fails ("The PMIx server's listener thread failed to start", code 213) when a killed job with
# the same id has left one.
FOLDERS = ("PRTE_MCA_prte_local_tmpdir_base", "PRTE_MCA_prte_tmpdir_base")
# Where ranks of one node put the memory that they share. What a killed job leaves in the common
# /dev/shm cannot be told from what a living one needs; in a folder of its own it can.
SHARED_MEMORY = Path("/dev/shm")
SEGMENTS = "OMPI_MCA_btl_sm_backing_directory"
MAKING_S = 60.0
"""Age of such a folder whose maker, if it lives, has locked it."""
Signals = SimpleQueue[int]


class JobEnd(NamedTuple):
    """How one start of a job ended.

    code: the exit code. stopped_by: the signal that has asked us to end it. was_warned: SIGUSR1
    was handed on to it, by which a scheduler says that the time is over. marks: how far it came.
    """

    code: int
    stopped_by: int | None = None
    was_warned: bool = False
    marks: Marks = Marks()


def run_job(
    command: Sequence[str],
    environ: Mapping[str, str],
    signals: Signals,
    *,
    is_local: bool,
) -> JobEnd:
    """Run ``command``, pass ``signals`` on, return how it ended (code 128 + n by signal n).

    SIGINT, SIGTERM and SIGHUP ask the ranks to stop and end them within 5 seconds, or at once
    when they come again. Of the job nothing is left on this machine when this returns.
    is_local: all ranks are on this machine; else they share the current folder with us.
    """
    with ExitStack() as stack:
        settings = {name: environ[name] for name in environ if name in (*FOLDERS, SEGMENTS)}
        folder = _folder(stack, None)
        if not settings.keys() & FOLDERS:
            settings[FOLDERS[0]] = folder
        if is_local and os.access(SHARED_MEMORY, os.W_OK):
            settings.setdefault(SEGMENTS, make_segments(stack, SHARED_MEMORY))
        settings[JOB] = folder if is_local else _folder(stack, Path.cwd(), hidden=True)
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
        watched = (
            is_local and "--with-ft" in command and any(name in OURS for name in _names(command))
        )
        starting = Starting(job.pid, Path(folder) if watched else None)
        stopped_by, was_forced, was_warned = _wait(job, signals, starting)
        _kill_session(job.pid)
        pump.join(timeout=1.0)
        marks = read_marks(Path(settings[JOB]))
    if job.returncode < 0 and stopped_by is None:
        show(f"nnlorun: {command[0]} was ended by signal {-job.returncode}")
    code = exit_code(job.returncode, stopped_by, was_forced=was_forced, done=marks.done)
    if starting.lost and stopped_by is None:
        code = AGAIN
    return JobEnd(code, stopped_by, was_warned, marks)


def _folder(stack: ExitStack, where: Path | None, *, hidden: bool = False) -> str:
    """A new folder in ``where`` (None: the one for temporary files) that goes with ``stack``."""
    prefix = ".nnlorun-" if hidden else "nnlorun-"
    return stack.enter_context(
        TemporaryDirectory(prefix=prefix, dir=where, ignore_cleanup_errors=True)
    )


def _names(command: Sequence[str]) -> list[str]:
    """Its words without folders and the ending of a file."""
    return [Path(word).name.removesuffix(".py") for word in command]


def make_segments(stack: ExitStack, where: Path) -> str:
    """A new folder in ``where`` for shared memory, without those that killed jobs have left."""
    for old in where.glob("nnlorun-*"):
        with suppress(ConfigError, OSError):  # its job lives, or it is another user's
            if old.stat().st_mtime < time.time() - MAKING_S:
                lock = FolderLock(old / "lock")
                lock.take()
                shutil.rmtree(old, ignore_errors=True)
                lock.release()
    folder = _folder(stack, where)
    lock = FolderLock(Path(folder, "lock"))
    lock.take()
    stack.callback(lock.release)
    return folder


def exit_code(
    returncode: int,
    stopped_by: int | None = None,
    *,
    was_forced: bool = False,
    done: int | None = None,
) -> int:
    """Return the exit code for a job that ended with ``returncode``.

    stopped_by: the signal that asked it to stop: 128 + that then, unless the job ended by itself
    with an error of its own, or with 75, "start me again", where it was not the user's Ctrl-C.
    was_forced: it did not end by itself. done: what rank 0 had said before it ended in order.
    """
    if returncode < 0:
        returncode = 128 - returncode
    if stopped_by is None:
        return returncode
    if done == AGAIN and (was_forced or returncode > 128):
        returncode, was_forced = AGAIN, False  # the others had to be ended, but all is saved
    is_own = 0 < returncode <= 128 and not was_forced
    if is_own and not (returncode == AGAIN and stopped_by == signal.SIGINT):
        return returncode
    return 128 + stopped_by


def _wait(
    job: "subprocess.Popen[bytes]", signals: Signals, starting: "Starting"
) -> tuple[int | None, bool, bool]:
    """Wait for the end of the job and pass signals on; end it once one ``starting`` is lost.

    Returns the signal that asked it to stop, if any; whether the ranks were ended by force; and
    whether they got SIGUSR1 that was sent to us.
    """
    stopped_by: int | None = None
    steps: list[tuple[float, int]] = []
    sent, begin, was_warned = 0, 0.0, False
    while job.poll() is None:
        if not steps and starting.look():
            show("nnlorun: a rank died while it started, for which the others would wait")
            steps, begin = list(HURRIED), time.monotonic()
        number = next_signal(signals, POLL_S)
        if number in FORWARDED:
            job.send_signal(number)
            was_warned |= number == signal.SIGUSR1
        elif number is not None:
            steps = list(HURRIED if stopped_by else ESCALATION)
            stopped_by, begin = stopped_by or number, time.monotonic()
            _say_stopping(steps)
        while steps and time.monotonic() - begin >= steps[0][0]:
            sent = steps.pop(0)[1]
            job.send_signal(sent)
    return stopped_by, sent in (signal.SIGTERM, signal.SIGKILL), was_warned


class Starting:
    """The ranks on their way to each other, children of ``launcher``: are all still there?

    For programs that tell by ``mark_up`` in ``folder`` when they have met; None: does not look.
    Under ULFM (Open MPI 5.0.11) the others would wait for a dead one in MPI_Init for ever.
    """

    def __init__(self, launcher: int, folder: Path | None) -> None:
        self.lost = False
        self._launcher = launcher
        self._folder = folder
        self._known: set[int] = set()
        self._looked = 0.0

    def look(self) -> bool:
        """Whether one has been lost since the last time."""
        folder, now = self._folder, time.monotonic()
        if folder is None or self.lost or now - self._looked < LOOK_S:
            return False
        self._looked = now
        before, self._known = self._known, _children(self._launcher)
        self.lost = any(not is_up(folder, pid) for pid in before - self._known)
        return self.lost


def next_signal(signals: Signals, timeout_s: float) -> int | None:
    """Wait for a signal, at most ``timeout_s``; None where none came."""
    try:
        return signals.get(timeout=timeout_s)
    except Empty:
        return None


def _say_stopping(steps: Sequence[tuple[float, int]]) -> None:
    if steps[0][1] == signal.SIGUSR1:
        grace = steps[1][0]
        show(f"nnlorun: asked the ranks to stop, {grace:.0f} s for it; again: at once")


@contextmanager
def caught_signals(numbers: Sequence[int] = STOPPING + FORWARDED) -> Iterator[Signals]:
    """Queue these signals instead of acting on them."""
    signals: Signals = SimpleQueue()
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
    with source:
        while chunk := os.read(source.fileno(), 65536):
            _show(banners.feed(chunk))
    _show(banners.close())


def show(line: str) -> None:
    """Say ``line`` on standard error, if that is still there."""
    _show(f"{line}\n".encode())


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


def _children(parent: int) -> set[int]:
    """Return the processes that any thread of ``parent`` has started and not yet buried."""
    found: set[int] = set()
    for path in Path("/proc").glob(f"{parent}/task/*/children"):
        with suppress(OSError):  # that thread has just ended
            found.update(map(int, path.read_text().split()))
    return found


def _members(session: int) -> list[int]:
    """Return the processes of a session that still run; none where there is no ``/proc``."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session = entry.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                members.append(int(entry.parent.name))
    return members
