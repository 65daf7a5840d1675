"""Particles with handlers on real ranks: results, errors, ends."""

import re
import sys
import time

import pytest

from tests.program import run_here

RULES = '''
import hashlib
import os
import sys
import time

import numpy as np

from nnlo.bayes import rounds
from nnlo.bayes.crowd import Vectors
from nnlo.bayes.message import pack
from nnlo.bayes.society import Society
from nnlo.errors import NNLOError
from nnlo.mpi import link

comm = link.world()


def society_on(part, n=8, size=500):
    society = Society(Vectors(lambda pid, rng: rng.normal(size=size), n, comm=part, seed=3))

    @society.on("NOTE")
    def note(p, sender, x):
        p.state.setdefault("heard", []).append(sender)
        p.weights += np.float32(0.1) * x
        return len(p.state["heard"])

    @society.on("TALK")
    async def talk(p, times):
        for _ in range(times):
            asked = [p.send(j, "NOTE", p.pid, p.weights) for j in p.rng.permutation(p.others())]
            counts = [await one for one in asked]
            p.weights -= await p.view((p.pid + 1) % p.n)
            total = await p.allreduce(p.weights)
            p.weights = total / p.n + p.rng.normal(size=p.weights.size) * counts[0]
        return p.state["heard"], p.weights, await p.gather({"mean": p.weights.mean()})

    @society.on("FAIL")
    def fail(p):
        raise ValueError("boom")

    @society.on("ASK")
    async def ask(p, name):
        return await p.send(7, name)

    @society.on("MEET")
    async def meet(p):
        await p.barrier()

    @society.on("SLEEP")
    def sleep(p, seconds):
        time.sleep(seconds)

    @society.on("END")
    def end(p):
        os._exit(5)

    return society


def tell(*words):
    """In one call: lines of several ranks would mix."""
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
'''

TALK = (
    RULES
    + """
for size in (1, 2, 4):
    part = comm.Split(comm.rank // size)
    rounds._PIECE = 1 << 30 if size == 2 else 600  # messages in many parts
    society = society_on(part)
    digest = hashlib.sha1(pack(society.run("TALK", 3, on="all"))).hexdigest()
    tell("talk", size, digest)
    for args in (("ASK", "FAIL"), ("MEET",), ("ASK", "NO")):
        try:
            society.run(*args)
        except NNLOError as error:
            first = str(error).splitlines()[0]
            tell("error", size, f"<{error.kind}> <{error.particle}> <{error.rank}> <{first}>")
    society.close()
    part.Free()
"""
)


@pytest.fixture
def run(launch, tmp_path):
    """Run a script on ranks to its end."""

    def start(n_ranks, text, *options):
        (tmp_path / "script.py").write_text(text)
        words = ["-m", "nnlo.cli.launch", "-n", n_ranks, "--threads", 1, *options]
        return launch([sys.executable, *words, tmp_path / "script.py"]).ended()

    return start


@pytest.fixture(scope="module")
def talked(tmp_path_factory):
    """What 4 ranks say that make societies of 1, 2 and 4 of them."""
    folder = tmp_path_factory.mktemp("talk")
    (folder / "talk.py").write_text(TALK)
    return run_here(folder, "nnlorun", "-n", "4", "--threads", "1", str(folder / "talk.py"))


def test_results_do_not_depend_on_the_number_of_ranks(talked):
    found = re.findall(r"^talk (\d) (\w+)$", talked, re.MULTILINE)
    assert sorted(size for size, _ in found) == sorted("124" * 4)
    assert len({digest for _, digest in found}) == 1


def test_errors_reach_all_ranks_with_their_place(talked):
    found = re.findall(r"^error (\d) <ValueError> <7> <(\d)> <(.*)>$", talked, re.MULTILINE)
    text = "handler 'FAIL' of particle 7 (rank {}) raised ValueError: boom"
    expected = [(str(n), str(n - 1), text.format(n - 1)) for n in (1, 2, 4) for _ in range(4)]
    assert sorted(found) == sorted(expected)


def test_deadlocks_and_wrong_names_reach_all_ranks(talked):
    for kind in ("deadlock", "ConfigError"):
        sizes = re.findall(rf"^error (\d) <{kind}>", talked, re.MULTILINE)
        assert sorted(sizes) == sorted("124" * 4), kind


def test_a_rank_that_does_not_come_back_ends_the_run_by_its_time_limit(run):
    text = RULES + "society_on(comm).run('SLEEP', 200, on=7, timeout_s=0.5)"
    begin = time.monotonic()
    ended = run(2, text)
    assert ended.code == 1
    assert "got some that did not while rank 0 waited" in ended.output
    assert time.monotonic() - begin < 100


def test_the_death_of_a_rank_in_a_handler_ends_all(run):
    ended = run(2, RULES + "society_on(comm).run('ASK', 'END')")
    assert ended.code == 5


def test_those_who_survive_a_death_all_hear_of_it(run):
    text = (
        RULES.replace("os._exit(5)", "os.kill(os.getpid(), 9)")
        + """
society = society_on(comm)
try:
    society.run("ASK", "END")
except NNLOError as error:
    tell("caught", type(error).__name__)
society.close()
link.leave(0)
"""
    )
    assert run(3, text, "--fault-tolerant").output.count("caught RanksLost") == 2
