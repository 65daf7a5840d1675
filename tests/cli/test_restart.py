"""When nnlorun starts a job again, on how many ranks, and what it says and returns."""

import os
import signal
from pathlib import Path
from queue import SimpleQueue

import pytest

from nnlo.cli.job import JobEnd
from nnlo.cli.marks import Marks
from nnlo.cli.restart import Ranks, Restarts, failure, ranks_left, run_job_again

UP = Marks(ranks=True)
STARTED = Marks(ranks=True, started=True)
DONE = Marks(ranks=True, started=True, done=0)


@pytest.mark.parametrize(
    "end",
    [
        JobEnd(0, marks=DONE),
        JobEnd(0, marks=UP),  # a program that knows no marks
        JobEnd(2, marks=UP),
        JobEnd(130, marks=STARTED),
        JobEnd(1, marks=UP._replace(done=1)),  # a model that cannot be used
        JobEnd(75, marks=DONE._replace(done=75)),  # saved, for a scheduler
        JobEnd(138, marks=DONE._replace(done=138)),
        JobEnd(137, marks=DONE),  # killed when all was written
        JobEnd(143, signal.SIGTERM, marks=STARTED),
        JobEnd(1, signal.SIGINT, marks=STARTED),
        JobEnd(138, was_warned=True, marks=UP),
    ],
)
def test_what_is_done_or_was_ended_is_not_started_again(end: JobEnd) -> None:
    assert failure(end) is None


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (JobEnd(0, marks=STARTED), "all ranks were lost"),
        (JobEnd(75, marks=STARTED), "ranks were lost"),
        (JobEnd(137, marks=STARTED), "a rank was killed (SIGKILL)"),
        (JobEnd(139, marks=UP), "a rank was killed (SIGSEGV)"),
        (JobEnd(137, marks=DONE._replace(done=75)), "a rank was killed (SIGKILL)"),
        (JobEnd(1, marks=DONE._replace(done=1)), "the job failed with code 1"),
        (JobEnd(213), "no rank could be started (code 213)"),
    ],
)
def test_lost_ranks_and_late_errors_are_reasons(end: JobEnd, reason: str) -> None:
    assert failure(end) == reason


def test_ranks_stay_as_many_unless_none_came_up() -> None:
    assert ranks_left(Ranks(4), str, came_up=True) == (Ranks(4), "")
    assert ranks_left(Ranks(4), str, came_up=False) == (Ranks(3), ", one fewer")
    assert ranks_left(Ranks(1), str, came_up=False) == (Ranks(1), "")
    assert ranks_left(Ranks(4, "a:4"), str, came_up=False)[0] == Ranks(3, "a:4")


@pytest.mark.parametrize(("n", "expected"), [(8, 4), (3, 3), (16, 8)])
def test_hosts_that_are_gone_take_their_slots_with_them(n: int, expected: int) -> None:
    ranks, said = ranks_left(Ranks(n, "a:4,b:4"), lambda _: "a:4", came_up=True)
    assert ranks == Ranks(expected, "a:4")
    assert said == " of a:4, the hosts that answer"


class Script:
    """A job that ends as it is told, and notes how it was started."""

    def __init__(self, *ends: JobEnd) -> None:
        self.ends = list(ends)
        self.starts: list[tuple[Ranks, int]] = []
        self.signals: SimpleQueue[int] = SimpleQueue()

    def start(self, ranks: Ranks, n_restarts: int) -> JobEnd:
        self.starts.append((ranks, n_restarts))
        return self.ends.pop(0)

    def run(self, max_restarts: int) -> int:
        again = Restarts(max_restarts, 0.0, self.signals, str)
        return run_job_again(self.start, Ranks(3), again)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnlo.cli.restart.LONGEST_S", 0.01)


def test_a_job_is_started_until_it_succeeds(capfd: pytest.CaptureFixture[str]) -> None:
    script = Script(JobEnd(137, marks=STARTED), JobEnd(213), JobEnd(0, marks=DONE))
    assert script.run(5) == 0
    assert script.starts == [(Ranks(3), 0), (Ranks(3), 1), (Ranks(2), 2)]
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("nnlorun: a rank was killed (SIGKILL); restart 1 of 5 in ")
    assert first.endswith(" on 3 ranks, from the beginning: no --checkpoint")
    assert second.endswith("on 2 ranks, one fewer")


def test_restarts_end(capfd: pytest.CaptureFixture[str]) -> None:
    script = Script(*[JobEnd(137, marks=STARTED)] * 3)
    assert script.run(2) == 137
    assert len(script.starts) == 3
    assert capfd.readouterr().err.count("\n") == 3


def test_ranks_that_were_all_lost_are_no_success(capfd: pytest.CaptureFixture[str]) -> None:
    assert Script(JobEnd(0, marks=STARTED)).run(0) == 75
    said = capfd.readouterr().err
    assert "all ranks were lost; without --checkpoint nothing was kept" in said
    assert "--max-restarts K" in said


def test_the_newest_checkpoint_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cp-00002.npz").touch()
    os.utime(tmp_path / "cp-00002.npz", (1e9,) * 2)
    marks = STARTED._replace(checkpoint=tmp_path / "cp")
    Script(JobEnd(137, marks=marks)).run(0)
    assert f"{tmp_path}/cp-00002.npz: go on with --restore cp" in capfd.readouterr().err


def test_an_error_that_the_job_has_told_needs_no_word(capfd: pytest.CaptureFixture[str]) -> None:
    assert Script(JobEnd(1, marks=DONE._replace(done=1))).run(0) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("number", "checkpoint", "code"),
    [
        (signal.SIGINT, Path("cp"), 130),
        (signal.SIGTERM, Path("cp"), 75),
        (signal.SIGUSR1, Path("cp"), 75),
        (signal.SIGTERM, None, 143),
    ],
)
def test_a_signal_between_two_starts_ends_it(
    number: int, checkpoint: Path | None, code: int
) -> None:
    script = Script(JobEnd(137, marks=STARTED._replace(checkpoint=checkpoint)))
    script.signals.put(number)
    assert script.run(3) == code
    assert len(script.starts) == 1
