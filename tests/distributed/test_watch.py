"""The stall report of three real ranks, one of which is stopped for a while, or killed."""

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


KILLED = """
import os, signal, sys, time
import numpy as np
from nnlo.mpi import link, watch
from nnlo.mpi.fence import Registry

world = link.world()
registry = Registry.gather(world)
own = watch.start(world, registry, after=0.3)
heard = []
token = np.zeros(1)
if world.rank == 2:
    time.sleep(600)
elif world.rank == 1:
    with own.waiting("rank 0"):
        link.wait(world.Irecv(token, 0), own.poll)
else:
    own._tell = heard.append
    own.moved()
    own.moved()
    limit = time.monotonic() + 60
    while not any("is dead" in line for line in heard):
        assert time.monotonic() < limit
        own.poll()
        time.sleep(1e-3)
        if any("does not answer: computes" in line for line in heard):
            registry.kill([2])
    world.Send(token, 1)
start = time.monotonic()
own.close()
print(*heard, f"rank {world.rank} closed in {time.monotonic() - start:.0f} s", sep="\\n")
sys.stdout.flush()
time.sleep(0.5)
os._exit(0)  # MPI's own end may hang after a death
"""


def run(launch, folder, program, *options):
    (folder / "program.py").write_text(program)
    words = [sys.executable, "-m", "nnlo.cli.launch", *options, "-n", 3, "--threads", 1]
    ended = launch([*words, folder / "program.py"]).ended(90)
    assert ended.code == 0, ended.output
    return ended.output


def test_a_stopped_rank_is_named_and_so_is_who_waits_for_it(launch, tmp_path):
    output = run(launch, tmp_path, PROGRAM)
    assert "rank 0 is waiting for rank 1" in output
    assert "rank 1 is waiting for rank 2 for " in output
    assert "does not answer: stopped" in output
    assert "ranks 1 and 2 are waiting for rank 0" in output
    assert output.count("closed True") == 3


def test_a_killed_rank_is_named_and_does_not_delay_the_end_of_others(launch, tmp_path):
    output = run(launch, tmp_path, KILLED, "--fault-tolerant")
    assert "is dead" in output
    assert "rank 1 is waiting for rank 0 for " in output
    assert output.count("closed in 0 s") == 2
