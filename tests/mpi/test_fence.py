"""The processes behind ranks, on processes that the tests start."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnlo.mpi.fence import Process, Registry

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")

OWN = Process.own()


def process_of(child):
    """What the child's rank would say of itself."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return Process(OWN.host, OWN.machine, child.pid, int(fields[19]))


@pytest.fixture
def children():
    """Three processes that sleep."""
    started = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
    yield started
    for child in started:
        child.kill()
        child.wait()


@pytest.fixture
def registry(children):
    """Rank 0 is this process, ranks 1 to 3 are the children."""
    return Registry([OWN, *map(process_of, children)])


def stop(*children):
    for child in children:
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)


def test_this_process_runs_and_says_where(registry):
    assert registry.state(0) == "running"
    assert registry.name(0) == f"pid {os.getpid()} on {OWN.host}"


def test_a_process_is_running_stopped_or_gone(registry, children):
    stop(children[1])
    children[2].kill()
    children[2].wait()
    assert [registry.state(rank) for rank in (1, 2, 3)] == ["running", "stopped", "gone"]


def test_a_zombie_is_gone(registry, children):
    children[0].kill()
    os.waitid(os.P_PID, children[0].pid, os.WEXITED | os.WNOWAIT)
    assert registry.state(1) == "gone"


def test_another_process_with_the_same_number_is_not_taken_for_the_first(children):
    process = process_of(children[0])
    registry = Registry([OWN, process._replace(started=process.started - 1)])
    assert registry.state(1) == "gone"
    assert registry.kill([1]) == {1}
    assert children[0].poll() is None


def test_a_process_on_another_machine_is_left_alone(children):
    elsewhere = process_of(children[0])._replace(host="far", machine="another boot")
    registry = Registry([OWN, elsewhere])
    assert (registry.state(1), registry.kill([1])) == (None, set())
    assert children[0].poll() is None


def test_only_the_stopped_rank_of_a_worker_is_killed(registry, children):
    stop(children[1])
    assert registry.kill([1, 2, 3]) == {2}
    assert children[1].wait() == -signal.SIGKILL
    assert [children[i].poll() for i in (0, 2)] == [None, None]


def test_ranks_that_wait_for_one_that_is_gone_are_left_alone(registry, children):
    children[0].kill()
    children[0].wait()
    assert registry.kill([1, 2]) == {1}
    assert children[1].poll() is None


def test_where_none_is_stopped_all_are_killed(registry, children):
    assert registry.kill([1, 3]) == {1, 3}
    assert children[1].poll() is None
    assert [children[i].wait() for i in (0, 2)] == [-signal.SIGKILL] * 2


def test_a_process_never_kills_itself(registry):
    assert registry.kill([0]) == set()


def test_a_registry_of_the_survivors_has_new_numbers(registry, children):
    left = registry.restricted([0, 3])
    assert left.name(1) == registry.name(3)
    stop(children[2])
    assert left.kill([1]) == {1}


def test_a_killed_process_is_gone_within_a_moment(registry, children):
    stop(*children)
    start = time.monotonic()
    assert registry.kill([1, 2, 3]) == {1, 2, 3}
    assert time.monotonic() - start < 1.0


def test_gathering_asks_every_rank():
    class Comm:
        def allgather(self, own):
            return [own, own._replace(pid=own.pid + 1)]

    assert Registry.gather(Comm()).name(1) == f"pid {os.getpid() + 1} on {OWN.host}"
