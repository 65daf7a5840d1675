"""Proposals made ahead in a thread: the same whatever the timing, also after a restore."""

import random
import threading
import time

import numpy as np
import pytest

from nnlo.errors import ConfigError
from nnlo.optimize.bayesian import Bayesian
from nnlo.optimize.coordinator import Coordinator
from nnlo.optimize.events import End, Finished, Idle, Interrupted, Limits
from nnlo.optimize.pruning import Asha, Median, Never
from nnlo.optimize.quasi_random import Random
from nnlo.optimize.space import Space
from nnlo.optimize.study import unlike
from tests.optimize.simulated import Faults, Guess, Simulation, proposals

ROUGH = Faults(error=0.1, nan=0.05, death=0.03, saves=0.8)


class Slow(Guess):
    """As fast as chance has it."""

    def ask(self, trial, told, running):
        time.sleep(random.random() / 300)
        return super().ask(trial, told, running)


class Broken(Guess):
    def ask(self, trial, told, running):
        if trial == 3:
            raise ConfigError("repair must let some parameters pass")
        return super().ask(trial, told, running)


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("proposals")]


@pytest.mark.parametrize("pruner", [Never(1), Asha(9), Median(9)])
def test_how_fast_proposals_are_made_changes_nothing(pruner):
    one = Simulation(5, 80, pruner=pruner, faults=ROUGH, n_ahead=3).run()
    other = Simulation(5, 80, pruner=pruner, faults=ROUGH, n_ahead=3, searcher=Slow()).run()
    assert one.records == other.records


@pytest.mark.parametrize("n_ahead", [0, 1, 4])
def test_a_proposal_lacks_the_results_since_its_order_alone(n_ahead):
    done = Simulation(4, 60, n_ahead=n_ahead).run()
    known = {one["trial"]: one["told"] for one in done.records if one["event"] == "asked"}
    assert [known[trial] for trial in range(10, 60)] == list(range(7 - n_ahead, 57 - n_ahead))
    others = [one["running"] for one in done.records if one["event"] == "asked"][10:]
    assert {len(running) for running in others} == {3 + n_ahead}


@pytest.mark.parametrize("pruner", [Never(2), Asha(9), Median(9)])
def test_the_log_tells_what_each_proposal_rests_on(pruner):
    done = Simulation(4, 60, pruner=pruner, faults=ROUGH, n_ahead=3).run()
    assert unlike(done.records, Guess()) == []
    bare = [one for one in done.records if one["event"] != "ordered"]
    assert len(unlike(bare, Guess())) > 30


@pytest.mark.parametrize("n_ahead", [0, 2, 5])
@pytest.mark.parametrize("pruner", [Never(2), Asha(9)])
def test_a_restored_search_keeps_what_was_ordered(pruner, n_ahead):
    whole = Simulation(4, 60, pruner=pruner, faults=ROUGH, n_ahead=3).run()
    for size in range(20, len(whole.records), 37):
        past = [*whole.records[:size], {"event": "restored"}]
        ordered = {one["trial"] for one in past if one["event"] == "ordered"}
        rest = Simulation(6, 60, pruner=pruner, faults=ROUGH, past=past, n_ahead=n_ahead).run()
        assert unlike(rest.records, Guess()) == []
        for trial in ordered:
            assert proposals(rest.records)[trial] == proposals(whole.records)[trial]


def test_an_error_of_the_searcher_comes_out_where_its_proposal_is_taken():
    search = Coordinator(Broken(), Limits(9, n_ahead=2), Never(1))
    for block in range(3):
        search.handle(Idle(block))
    with pytest.raises(ConfigError, match="repair must"):
        search.handle(Idle(3))
    search.close()
    assert threads() == []


@pytest.mark.parametrize("n_ahead", [1, 9])
def test_a_space_is_tried_through_without_repeats(n_ahead):
    space = Space.from_tune(["a=1:3", "b=x,y"])
    done = Simulation(
        2, 50, searcher=Random(space, 0), n_ahead=n_ahead, merit=lambda params, epoch: params["a"]
    ).run()
    assert done.end == End("the space is exhausted")
    assert len({space.key(params) for params in proposals(done.records)}) == 6


def test_no_thread_is_left_after_the_end_or_an_interruption():
    search = Coordinator(Slow(), Limits(9, n_ahead=2), Never(1))
    search.handle(Idle(0))
    assert len(threads()) == 1
    search.handle(Interrupted())
    assert isinstance(search.handle(Finished(0, 0, 0.5))[-1], End)
    assert threads() == []


def test_no_more_are_ordered_than_there_will_be_trials():
    done = Simulation(2, 5, n_ahead=9).run()
    assert [one["trial"] for one in done.records if one["event"] == "ordered"] == [1, 2, 3, 4]


def test_ten_thousand_trials_take_seconds():
    begin = time.process_time()
    done = Simulation(16, 10_000, faults=ROUGH, n_ahead=4).run()
    assert len(proposals(done.records)) == 10_000
    assert time.process_time() - begin < 20


def test_the_default_searcher_in_a_thread_proposes_what_its_log_tells():
    space = Space.from_tune(["x=0.0:1.0", "n=1:9", "kind=a,b"])
    done = Simulation(4, 30, searcher=Bayesian(space, 1), n_ahead=2).run()
    assert unlike(done.records, Bayesian(space, 1)) == []
    assert np.mean([x["x"] for x in proposals(done.records)[15:]]) == pytest.approx(0.3, abs=0.2)
