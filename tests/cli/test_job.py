"""Jobs of nnlorun: what is shown of them, and how they end, fail and are stopped."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from nnlo.cli import job
from nnlo.cli.job import BannerFilter, Starting, exit_code, make_segments
from nnlo.files import FolderLock

RULE = b"-" * 74 + b"\n"
EXIT_BANNER = (
    RULE + b"prterun detected that one or more processes exited with non-zero status,\n"
    b"   Process name: [prterun-vm-1@1,1]\n   Exit code:    1\n" + RULE
)
KILL_BANNER = (
    RULE + b"prterun noticed that process rank 0 on node vm exited on\nsignal 9.\n" + RULE
)


@pytest.mark.parametrize("size", [1, 7, 80, 1000])
def test_the_banner_of_an_exit_is_dropped_however_it_is_cut(size: int) -> None:
    text = b"rank 1: my error\n" + EXIT_BANNER + b"\x00after\n"
    banners = BannerFilter()
    shown = b"".join(banners.feed(text[i : i + size]) for i in range(0, len(text), size))
    assert shown + banners.close() == b"rank 1: my error\nafter\n"


@pytest.mark.parametrize("size", [1, 9, 1000])
def test_what_the_daemon_says_of_a_rank_that_is_gone_is_dropped(size: int) -> None:
    noise = b"[vm:123] PMIX ERROR: PMIX_ERR_UNREACH in file /a/pmix_server.c at line 3841\n"
    noise += b"NBC_Progress: an error 75 was found during schedule 0x1 at line 2\n"
    text = b"before\n" + noise + b"[vm:123] a word of a rank\n[1, 2]\n" + noise
    banners = BannerFilter()
    shown = b"".join(banners.feed(text[i : i + size]) for i in range(0, len(text), size))
    assert shown + banners.close() == b"before\n[vm:123] a word of a rank\n[1, 2]\n"


@pytest.mark.parametrize("text", [KILL_BANNER, RULE + b"a table\n" + RULE, b"10%|---", b"a-b"])
def test_everything_else_is_shown_as_it_is(text: bytes) -> None:
    banners = BannerFilter()
    assert banners.feed(text) + banners.close() == text


def test_exit_codes_keep_what_the_job_says() -> None:
    assert exit_code(3) == 3
    assert exit_code(-9) == 137
    assert exit_code(0, signal.SIGINT) == exit_code(138, signal.SIGINT) == 130
    assert exit_code(75, signal.SIGTERM) == 75
    assert exit_code(1, signal.SIGTERM, was_forced=True) == 143


def test_only_a_scheduler_is_told_to_start_again() -> None:
    assert exit_code(75, signal.SIGINT) == 130
    assert exit_code(138, signal.SIGTERM) == exit_code(0, signal.SIGTERM) == 143
    assert exit_code(75, signal.SIGTERM, was_forced=True) == 143
    assert exit_code(143, signal.SIGTERM, was_forced=True, done=75) == 75


def test_shared_memory_of_killed_jobs_goes_and_that_of_living_ones_stays(tmp_path: Path) -> None:
    living, dead, fresh = (tmp_path / f"nnlorun-{name}" for name in ("living", "dead", "fresh"))
    for folder in (living, dead, fresh):
        folder.mkdir()
    lock = FolderLock(living / "lock")
    lock.take()
    for folder in (living, dead):
        os.utime(folder, (0, 0))
    with ExitStack() as stack:
        own = Path(make_segments(stack, tmp_path))
        assert sorted(tmp_path.iterdir()) == sorted([living, fresh, own])
    lock.release()
    assert sorted(tmp_path.iterdir()) == sorted([living, fresh])


RANK = """
import os, signal, sys, time
from mpi4py import MPI
rank, mode = MPI.COMM_WORLD.rank, sys.argv[1]
asked = []
if mode in ("stop", "ignore"):
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
if mode == "exit":
    sys.exit(7)
if mode == "kill" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
MPI.COMM_WORLD.Barrier()
os.write(1, f"ready {os.getpid()} {os.environ['OMP_NUM_THREADS']}\\n".encode())
while mode != "end" and (mode == "ignore" or not asked):
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def rank_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("job") / "rank.py"
    path.write_text(RANK)
    return path


def start(program: Path, mode: str, **changes: str) -> "subprocess.Popen[str]":
    pytest.importorskip("mpi4py")
    command = [sys.executable, "-m", "nnlo.cli.launch", "-n", "3", str(program), mode]
    environ = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | changes
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )


def read_ready(job: "subprocess.Popen[str]") -> list[list[str]]:
    """Wait until all three ranks run; return their pids and threads."""
    assert job.stdout is not None
    return [job.stdout.readline().split()[1:] for _ in range(3)]


def gone(pid: str) -> bool:
    """Whether it runs no more; a zombie waits for init only."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.distributed
@pytest.mark.timeout(60)
def test_ranks_share_the_cores_and_the_job_succeeds(rank_program: Path) -> None:
    job = start(rank_program, "end")
    threads = {int(count) for _, count in read_ready(job)}
    _, errors = job.communicate(timeout=30)
    assert threads == {max(1, len(os.sched_getaffinity(0)) // 3)}
    assert (job.returncode, errors) == (0, "")


@pytest.mark.distributed
@pytest.mark.timeout(60)
def test_the_exit_code_of_the_ranks_comes_back_without_a_banner(rank_program: Path) -> None:
    job = start(rank_program, "exit")
    _, errors = job.communicate(timeout=30)
    assert (job.returncode, errors) == (7, "")


@pytest.mark.distributed
@pytest.mark.timeout(60)
def test_a_killed_rank_ends_the_job_and_is_named(rank_program: Path) -> None:
    job = start(rank_program, "kill")
    _, errors = job.communicate(timeout=30)
    assert job.returncode == 137
    assert "rank 1" in errors


@pytest.mark.distributed
@pytest.mark.alone
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("mode", "number", "code", "limit_s"),
    [("stop", signal.SIGINT, 130, 4.0), ("ignore", signal.SIGTERM, 143, 6.0)],
)
def test_a_signal_ends_all_ranks(
    rank_program: Path, mode: str, number: int, code: int, limit_s: float
) -> None:
    job = start(rank_program, mode)
    pids = [pid for pid, _ in read_ready(job)]
    begin = time.monotonic()
    job.send_signal(number)
    job.communicate(timeout=30)
    assert time.monotonic() - begin < limit_s
    assert job.returncode == code
    assert all(gone(pid) for pid in pids)


@pytest.mark.distributed
@pytest.mark.alone
@pytest.mark.timeout(60)
def test_a_second_signal_does_not_wait(rank_program: Path) -> None:
    job = start(rank_program, "ignore")
    pids = [pid for pid, _ in read_ready(job)]
    begin = time.monotonic()
    job.send_signal(signal.SIGINT)
    time.sleep(0.2)
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=30)
    assert time.monotonic() - begin < 3.5
    assert job.returncode == 130
    assert all(gone(pid) for pid in pids)


@pytest.mark.distributed
@pytest.mark.timeout(60)
@pytest.mark.parametrize("victim", ["nnlorun", "mpirun"])
def test_no_rank_outlives_a_killed_launcher(rank_program: Path, victim: str) -> None:
    job = start(rank_program, "ignore")
    pids = [pid for pid, _ in read_ready(job)]
    rank_parent = Path("/proc", pids[0], "stat").read_text().rpartition(")")[2].split()[1]
    os.kill(job.pid if victim == "nnlorun" else int(rank_parent), signal.SIGKILL)
    job.communicate(timeout=30)
    deadline = time.monotonic() + 5
    while not all(gone(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(gone(pid) for pid in pids)


@pytest.mark.distributed
@pytest.mark.timeout(60)
@pytest.mark.parametrize("victim", ["nnlorun", "mpirun"])
def test_a_later_mpirun_with_the_same_process_id_meets_no_files_of_a_killed_one(
    rank_program: Path, tmp_path: Path, victim: str
) -> None:
    job = start(rank_program, "ignore", TMPDIR=str(tmp_path))
    pids = [pid for pid, _ in read_ready(job)]
    mpirun = Path("/proc", pids[0], "stat").read_text().rpartition(")")[2].split()[1]
    for pid in (str(job.pid), mpirun) if victim == "nnlorun" else (mpirun,):
        os.kill(int(pid), signal.SIGKILL)
    job.communicate(timeout=30)
    left = [path.name[:8] for path in tmp_path.iterdir()]
    assert left == (["nnlorun-"] if victim == "nnlorun" else [])


def test_a_rank_that_dies_before_it_is_up_is_lost(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(job, "LOOK_S", 0.0)
    there = {11, 12, 13}
    monkeypatch.setattr(job, "_children", lambda _: there)
    starting, other = Starting(10, tmp_path), Starting(10, None)
    assert not starting.look()
    (tmp_path / "up-11").touch()
    there = {12, 13}
    assert not starting.look()
    there = {13}
    assert starting.look()
    assert not starting.look()
    assert starting.lost
    assert not other.look()


def test_children_are_known_to_the_kernel() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid in job._children(os.getpid())
        child.kill()
    assert child.pid not in job._children(os.getpid())
