"""The stall report of three real ranks, one of which is stopped for a while."""

import sys

import pytest

pytest.importorskip("mpi4py")

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux"),
]

PROGRAM = """
import os, signal, time
import numpy as np
from nnlo.mpi import link, watch
from nnlo.mpi.fence import Registry

world = link.world()
registry = Registry.gather(world)
pids = world.allgather(os.getpid())
own = watch.start(world, registry, after=0.3)
heard = []
token = np.zeros(1)


def tell(line):
    heard.append(line)
    print(line, flush=True)


def wait_for(source):
    with own.waiting(f"rank {source}"):
        link.wait(world.Irecv(token, source), own.poll)


if world.rank == 2:
    os.kill(os.getpid(), signal.SIGSTOP)
    world.Send(token, 1)
    wait_for(0)
elif world.rank == 1:
    wait_for(2)
    world.Send(token, 0)
    wait_for(0)
else:
    own._tell = tell
    own.moved()
    own.moved()
    own.doing = "waiting for rank 1"
    limit = time.monotonic() + 60
    while not any("rank 2" in line and "stopped" in line for line in heard):
        assert time.monotonic() < limit
        own.poll()
        time.sleep(1e-3)
    os.kill(pids[2], signal.SIGCONT)
    wait_for(1)
    heard.clear()
    own.ask()
    while not any("for rank 0" in line for line in heard):
        assert time.monotonic() < limit
        own.poll()
        time.sleep(1e-3)
    for rank in (1, 2):
        world.Send(token, rank)
own.close()
print("rank", world.rank, "closed", own._comm == type(own._comm)(), flush=True)
"""


def test_a_stopped_rank_is_named_and_so_is_who_waits_for_it(launch, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [sys.executable, "-m", "nnlo.cli.launch", "-n", 3, "--threads", 1]
    ended = launch([*words, tmp_path / "program.py"]).ended(90)
    assert ended.code == 0, ended.output
    assert "rank 0 is waiting for rank 1" in ended.output
    assert "rank 1 is waiting for rank 2 for " in ended.output
    assert "does not answer: stopped" in ended.output
    assert "ranks 1 and 2 are waiting for rank 0" in ended.output
    assert ended.output.count("closed True") == 3
