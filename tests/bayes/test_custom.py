"""Particles with handlers: what they are told, in which order, wherever they live."""

import gc
import tracemalloc

import numpy as np
import pytest

from nnlo.bayes.crowd import Vectors
from nnlo.bayes.future import Future
from nnlo.bayes.message import pack
from nnlo.bayes.society import Society
from nnlo.errors import ConfigError
from tests.bayes.ranks import Ranks, first_weights

N_RANKS = pytest.mark.parametrize("n_ranks", [1, 2, 3, 6])


@pytest.fixture
def society():
    return Society(Vectors(first_weights, 6, seed=3))


def all_verbs(society):
    """Handlers that use all verbs of a particle and depend on the order of messages."""

    @society.on("NOTE")
    def note(p, sender, x):
        p.state.setdefault("heard", []).append(sender)
        p.weights += np.float32(0.1) * x
        return len(p.state["heard"])

    @society.on("TALK")
    async def talk(p, rounds):
        for _ in range(rounds):
            asked = [p.send(j, "NOTE", p.pid, p.weights) for j in p.rng.permutation(p.others())]
            counts = [await one for one in asked]
            p.weights -= await p.view((p.pid + 1) % p.n)
            total = await p.allreduce(p.weights)
            await p.barrier()
            p.weights = total / p.n + p.rng.normal(size=p.weights.size) * counts[0]
        return p.state["heard"], p.weights, await p.gather({"mean": p.weights.mean()})


def test_a_message_is_answered(society):
    @society.on("PING")
    def ping(p, x):
        return p.weights[:3] + x

    @society.on("TRAIN")
    async def train(p):
        return await p.send(5, "PING", 1.0)

    np.testing.assert_array_equal(society.run("TRAIN"), society.members[5].weights[:3] + 1.0)


@N_RANKS
def test_results_do_not_depend_on_where_particles_live(n_ranks):
    ranks = Ranks(n_ranks, all_verbs)
    alone = Ranks(1, all_verbs)
    for _ in range(2):
        found, expected = (r.result("TALK", 3, on="all") for r in (ranks, alone))
        assert pack(found) == pack(expected)


def test_messages_arrive_in_the_order_of_senders_and_of_what_each_has_sent(society):
    @society.on("HEAR")
    def hear(p, what):
        p.state.setdefault("heard", []).append(what)

    @society.on("SAY")
    def say(p):
        for k in range(3):
            p.send(2, "HEAR", (p.pid, k))

    society.run("SAY", on=[4, 2, 0])
    assert society.members[2].state["heard"] == [(p, k) for p in (0, 2, 4) for k in range(3)]


def test_a_run_ends_only_after_all_that_it_has_caused(society):
    @society.on("HOP")
    def hop(p, left):
        p.state["left"] = left
        if left:
            p.send((p.pid + 1) % p.n, "HOP", left - 1)

    assert society.run("HOP", 1000) is None
    assert society.members[1000 % 6].state["left"] == 0


def test_thousands_of_messages_leave_nothing_behind(society):
    society.on("MAKE")(lambda p, k: k)

    @society.on("ASK")
    async def ask(p, n):
        for k in range(n):
            p.send(1, "MAKE", k)  # nobody waits for these
            assert await p.send(1, "MAKE", k) == k
        return len(engine._asked), len(engine.tasks), len(engine._unknown), len(engine._out)

    engine = society._engine
    assert society.run("ASK", 3000) == (0, 1, 0, 0)
    assert len([one for one in gc.get_objects() if type(one) is Future]) < 5


def test_answers_nobody_waits_for_take_no_memory(society):
    society.on("MAKE")(lambda p, k: np.full(100_000, k, np.float32))

    @society.on("ASK")
    async def ask(p, n):
        for k in range(n):
            p.send(1, "MAKE", k)
            await p.send(1, "MAKE", k)

    tracemalloc.start()
    society.run("ASK", 50)  # 40 MB went by
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_what_is_sent_is_a_copy_also_within_a_process(society):
    @society.on("KEEP")
    def keep(p, array, table):
        p.state["kept"] = array
        array[:] = 7.0
        table["x"].append(1)
        return array

    @society.on("GIVE")
    async def give(p):
        mine, table = np.zeros(2), {"x": []}
        future = p.send(p.pid, "KEEP", mine, table)
        mine += 1.0
        answer = await future
        answer += 5.0
        return mine, table, p.state["kept"]

    mine, table, kept = society.run("GIVE")
    assert (mine[0], table, kept[0]) == (1.0, {"x": []}, 7.0)


def test_what_is_gathered_is_shared_and_so_read_only(society):
    @society.on("LOOK")
    async def look(p):
        values = await p.gather([p.weights])
        values.append(p.pid)
        return values[2][0].flags.writeable, len(values)

    assert society.run("LOOK", on="all") == [(False, 7)] * 6


def test_sums_are_those_of_float64_in_the_order_of_particles(society):
    @society.on("ADD")
    async def add(p):
        parts = await p.allreduce(np.float32([1e8, 1.0, -1e8, 1.0, 1.0, 1.0][p.pid]))
        return parts, await p.allreduce(p.pid), await p.allreduce(np.ones((2, 2)))

    first, second, third = society.run("ADD", on="all")[3]
    assert (first, first.dtype, second) == (4.0, np.float32, 15)
    np.testing.assert_array_equal(third, np.full((2, 2), 6.0))


def test_a_future_can_be_awaited_by_several_and_kept_for_the_next_run(society):
    @society.on("DOUBLE")
    def double(p, x):
        return 2 * x

    @society.on("ASK")
    async def ask(p):
        p.state["future"] = future = p.send(1, "DOUBLE", 4)
        return await future + await future, future.done, future.result

    @society.on("LATER")
    def later(p):
        return p.state["future"].result

    assert society.run("ASK") == (16, True, 8)
    assert society.run("LATER") == 8


def test_two_handlers_of_one_particle_take_turns(society):
    @society.on("WAIT")
    async def wait(p):
        p.state["future"] = p.send(1, "GO")
        await p.state["future"]
        return p.state["order"]

    @society.on("GO")
    async def go(p):
        await p.send(0, "HELP")

    @society.on("HELP")
    async def help_out(p):
        p.state["order"] = ["helped while it waited"]

    assert society.run("WAIT") == ["helped while it waited"]


def test_handlers_can_be_added_later_and_replaced(society):
    for answer in ("one", "two"):
        society.on("SAY")(lambda p, answer=answer: answer)
        assert society.run("SAY", on=[5, 3]) == [answer, answer]


def test_generators_are_of_the_seed_and_the_particle(society):
    society.on("DRAW")(lambda p: p.rng.normal())
    other = Society(Vectors(first_weights, 8, seed=3))
    other.on("DRAW")(lambda p: p.rng.normal())
    first, second = society.run("DRAW", on="all"), society.run("DRAW", on="all")
    assert len({*first, *second}) == 12
    assert first == other.run("DRAW", on=range(6))


def test_weights_are_written_in_place():
    crowd = Vectors(np.zeros(3), 2)
    society = Society(crowd)

    @society.on("SET")
    def put(p):
        p.weights = [p.pid, 1.0, 2.0]
        p.weights += 1.0

    society.run("SET", on="all")
    np.testing.assert_array_equal(crowd.weights, [[1, 2, 3], [2, 2, 3]])


def test_particles_must_be_vectors():
    with pytest.raises(ConfigError, match=r"start as a vector, got shape \(2, 2\)"):
        Vectors(np.zeros((2, 2)), 3)


@pytest.mark.parametrize("name", ["", "view", 3])
def test_a_name_must_be_free(society, name):
    with pytest.raises(ConfigError, match="name other than 'view'"):
        society.on(name)
