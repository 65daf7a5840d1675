"""What goes wrong in handlers comes to whoever waits, else to all who run the society."""

import asyncio
import re
import time

import numpy as np
import pytest

from nnlo.bayes.crowd import Vectors
from nnlo.bayes.society import Society
from nnlo.errors import ConfigError, ParticleError
from tests.bayes.ranks import Ranks, Seat, first_weights

N_RANKS = pytest.mark.parametrize("n_ranks", [1, 2, 6])


@pytest.fixture
def society():
    return Society(Vectors(first_weights, 6, seed=3))


def failing(society):
    @society.on("FAIL")
    def fail(p, how="boom"):
        raise ValueError(how)

    @society.on("ASK")
    async def ask(p):
        return await p.send(5, "FAIL")

    @society.on("CATCH")
    async def catch(p):
        try:
            await p.send(5, "ASK_ON")
        except ParticleError as error:
            return error.kind, error.particle, "ValueError: boom" in error.trace

    @society.on("ASK_ON")
    async def ask_on(p):
        await p.send(3, "FAIL")

    @society.on("DROP")
    async def drop(p):
        p.send(5, "FAIL", "dropped")
        for _ in range(4):
            await p.send(1, "NOTHING")
        p.state["goes on"] = True

    @society.on("FORGET")
    async def forget(p):
        p.state["future"] = p.send(5, "FAIL", "forgotten")
        await p.send(1, "NOTHING")

    @society.on("NOTHING")
    def nothing(p):
        pass

    @society.on("HALF")
    async def half(p):
        if p.pid == 4:
            raise KeyError("only one")
        await p.barrier()

    @society.on("EXIT")
    def leave(p):
        raise SystemExit(3)


@N_RANKS
def test_an_error_nobody_catches_is_raised_on_all_ranks_with_its_place(n_ranks):
    error = Ranks(n_ranks, failing).error("ASK")
    assert isinstance(error, ParticleError)
    assert (error.kind, error.particle, error.rank) == ("ValueError", 5, n_ranks - 1)
    first, *_, last = str(error).splitlines()
    assert first == f"handler 'FAIL' of particle 5 (rank {n_ranks - 1}) raised ValueError: boom"
    assert last == "ValueError: boom"
    assert "in fail" in error.trace


@N_RANKS
def test_an_error_can_be_caught_where_the_future_is_awaited(n_ranks):
    assert Ranks(n_ranks, failing).result("CATCH") == ("ValueError", 3, True)


@N_RANKS
def test_an_error_that_nobody_can_await_ends_the_run_at_once(n_ranks):
    ranks = Ranks(n_ranks, failing)
    assert "dropped" in str(ranks.error("DROP"))
    assert "goes on" not in ranks.societies[0].members[0].state


@N_RANKS
def test_an_error_that_nobody_has_awaited_is_raised_at_the_end(n_ranks):
    assert "forgotten" in str(Ranks(n_ranks, failing).error("FORGET"))


@N_RANKS
def test_the_failure_of_one_ends_those_who_wait_for_it(n_ranks):
    error = Ranks(n_ranks, failing).error("HALF", on="all")
    assert (error.kind, error.particle) == ("KeyError", 4)


@N_RANKS
def test_an_exit_in_a_handler_is_an_error_too(n_ranks):
    assert Ranks(n_ranks, failing).error("EXIT", on=[2]).kind == "SystemExit"


def test_several_failures_are_counted(society):
    failing(society)
    with pytest.raises(
        ParticleError, match=r"(?s)particle 1 .*Other failures: 2, as .*particle 3"
    ):
        society.run("FAIL", on=[1, 3, 4])


def test_a_society_runs_on_after_an_error(society):
    failing(society)
    with pytest.raises(ParticleError):
        society.run("HALF", on="all")
    assert society.run("CATCH")[0] == "ValueError"


# Waiting for ever -------------------------------------------------------------------------


def waiting(society):
    @society.on("CROSS")
    async def cross(p, other):
        p.state["asked"] = p.send(other, "ANSWER")
        return await p.state["asked"]

    @society.on("ANSWER")
    async def answer(p):
        return await p.state["asked"]

    @society.on("MEET")
    async def meet(p):
        if p.pid not in (1, 4):
            await p.gather(p.pid)

    @society.on("FOREVER")
    async def forever(p):
        while True:
            await p.send(5, "NOTHING")

    @society.on("NOTHING")
    def nothing(p):
        pass


@N_RANKS
def test_a_deadlock_says_who_waits_for_what(n_ranks):
    ranks = Ranks(n_ranks, waiting)
    [society.on("START")(start) for society in ranks.societies]
    error = ranks.error("START", on=[0, 5])
    assert error.kind == "deadlock"
    assert "particle 0 in 'START' waits for the answer of particle 5 to 'ANSWER'" in str(error)
    assert "particle 5 in 'ANSWER' waits for the answer of particle 0 to 'ANSWER'" in str(error)


async def start(p):
    p.state["asked"] = p.send(5 - p.pid, "ANSWER")
    await p.state["asked"]


@N_RANKS
def test_a_meeting_says_who_is_absent(n_ranks):
    error = Ranks(n_ranks, waiting).error("MEET", on="all")
    assert error.kind == "deadlock"
    where = "particle 3 in 'MEET' waits for gather 0, which particles [1, 4] have not called"
    assert where in str(error)


def test_a_run_without_an_end_ends_by_its_time_limit(society):
    waiting(society)
    begin = time.monotonic()
    with pytest.raises(ParticleError, match=r"within timeout_s(.|\n)*particle 0 in 'FOREVER'"):
        society.run("FOREVER", timeout_s=0.2)
    assert time.monotonic() - begin < 5.0
    assert society.run("NOTHING") is None


def test_handlers_on_their_way_are_ended_with_the_run(society):
    ended = []

    @society.on("HOLD")
    async def hold(p):
        try:
            await p.barrier()
        finally:
            ended.append(p.pid)

    with pytest.raises(ParticleError, match="barrier 0"):
        society.run("HOLD", on=[1, 2])
    assert ended == [1, 2]


# Mistakes in handlers ---------------------------------------------------------------------


def raised_by(society, handler, *, on=0):
    """What a run of ``handler`` raises."""
    society.on("TRY")(handler)
    with pytest.raises(ParticleError) as caught:
        society.run("TRY", on=on)
    return caught.value


@pytest.mark.parametrize(
    ("send", "message"),
    [
        (lambda p: p.send(1, "UNKNOWN"), r"one of the names \['TRY', 'view'\], got 'UNKNOWN'"),
        (lambda p: p.send(6, "TRY"), "particle from 0 to 5, got 6"),
        (lambda p: p.send(-1, "TRY"), "particle from 0 to 5, got -1"),
        (lambda p: p.send(1, "TRY", p), r"got nnlo\.bayes\.member\.Member"),
        (lambda p: p.send(1, "TRY", np.array([p])), "got an array of object"),
        (lambda p: p.view(7), "got 7"),
        (lambda p: p.gradient((1, 2)), "must have a model to have gradients"),
        (lambda p: p.outputs(1), "must have a model to have outputs"),
        (lambda p: {1, 2}, r"got builtins\.set"),
        (lambda p: p.send(1, "TRY").result, r"got the answer .* await the future"),
    ],
)
def test_mistakes_are_found_where_they_are_made(society, send, message):
    error = raised_by(society, send)
    assert (error.kind, error.particle) == ("ConfigError", 0)
    assert re.search(message, str(error))


def test_wrong_arguments_are_the_error_of_the_handler(society):
    assert raised_by(society, lambda p, x: x).kind == "TypeError"


def test_only_own_futures_can_be_awaited(society):
    async def await_foreign(p):
        await others[0]

    others = []
    society.on("LEND")(lambda p: others.append(p.barrier()))
    society.on("NAP")(nap)
    society.on("TRY")(await_foreign)
    with pytest.raises(ParticleError, match="of asyncio belong elsewhere"):
        society.run("NAP")
    society.run("LEND", on=1)
    with pytest.raises(ParticleError, match="futures of other particles"):
        society.run("TRY")


async def nap(p):
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda p: p.allreduce(np.ones(p.pid + 1)), r"one layout, got <f8 of shape \(1,\) but"),
        (lambda p: p.allreduce("text"), "numbers of one layout, got <U4"),
        (lambda p: p.gather(1) if p.pid else p.barrier(), "same calls in order, got barrier by"),
    ],
)
def test_meetings_must_fit_together(society, add, message):
    async def meet(p):
        await add(p)

    assert re.search(message, str(raised_by(society, meet, on="all")))


# Calls ------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", [6, -1, [], [1, 1], "some", 1.5, None])
def test_a_run_needs_particles_that_are_there(society, on):
    failing(society)
    with pytest.raises(ConfigError, match="on must be particles from 0 to 5"):
        society.run("NOTHING", on=on)


def test_a_run_needs_a_handler(society):
    with pytest.raises(ConfigError, match=r"one of the handlers \['view'\], got 'NOTHING'"):
        society.run("NOTHING")


def test_a_run_cannot_start_in_a_handler(society):
    error = raised_by(society, lambda p: society.run("TRY"))
    assert "got one that runs; send instead" in str(error)


def test_all_ranks_must_have_the_same_handlers():
    ranks = Ranks(3, failing)
    ranks.societies[1].on("MORE")(start)
    assert "got others on ranks [1]" in str(ranks.error("NOTHING"))


def test_a_particle_lives_on_one_rank():
    crowd = Vectors(first_weights, 4, comm=Seat(0, 2))
    crowd.placement = crowd.placement.__class__(2, 2, 2)
    with pytest.raises(ConfigError, match="one rank each, got groups of 2"):
        Society(crowd)
