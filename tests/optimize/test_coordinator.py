"""The coordinator: what it answers, and whole searches with blocks that only pretend."""

import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnlo.errors import ConfigError
from nnlo.optimize.coordinator import Coordinator
from nnlo.optimize.events import (
    BlockLost,
    Dismiss,
    End,
    Failed,
    Finished,
    Idle,
    Interrupted,
    Limits,
    Reported,
    Start,
    Tick,
    Verdict,
    Write,
)
from nnlo.optimize.pruning import Asha, Median, Never
from tests.optimize.simulated import Faults, Guess, Simulation, ends, proposals

ROUGH = Faults(error=0.1, nan=0.05, death=0.03, saves=0.8)


def coordinator(n_trials=10, epochs=1, past=(), searcher=None, **limits) -> Coordinator:
    limits = Limits(n_trials, **limits)
    return Coordinator(searcher or Guess(), limits, Never(epochs), past)


def started(actions) -> list[Start]:
    return [action for action in actions if isinstance(action, Start)]


def test_a_free_block_gets_a_trial_that_was_written_before():
    write_asked, write_started, start = coordinator().handle(Idle(3))
    assert write_asked.record["event"] == "asked"
    assert write_started.record["event"] == "started"
    assert (start.block, start.trial, start.params) == (3, 0, write_asked.record["params"])


def test_a_result_brings_the_next_trial_at_once():
    search = coordinator()
    search.handle(Idle(0))
    (start,) = started(search.handle(Finished(0, 0, 0.5)))
    assert (start.block, start.trial) == (0, 1)


def test_all_blocks_are_dismissed_at_the_end():
    search = coordinator(n_trials=1)
    search.handle(Idle(0))
    assert started(search.handle(Idle(1))) == []
    actions = search.handle(Finished(0, 0, 0.5))
    assert [type(action) for action in actions] == [Write, Dismiss, Dismiss, Write, End]
    assert search.handle(Idle(7)) == [Dismiss(7)]


def test_a_lost_trial_comes_before_a_new_one_and_from_its_checkpoint():
    search = coordinator(epochs=9)
    search.handle(Idle(0))
    search.handle(Reported(0, 0, 4, 0.3, saved=True))
    search.handle(Reported(0, 0, 5, 0.2, saved=False))
    search.handle(BlockLost(0, returns=True))
    (start,) = started(search.handle(Idle(0)))
    assert (start.trial, start.from_epoch, start.attempt) == (0, 4, 2)


def test_a_trial_is_given_to_two_other_blocks_and_then_failed():
    search = coordinator(max_moves=2)
    for block in range(3):
        (start,) = started(search.handle(Idle(block)))
        assert start.trial == 0
        search.handle(BlockLost(block, returns=True))
    assert search.trials[0].kind == "lost"


def test_a_transient_failure_is_tried_again():
    search = coordinator()
    search.handle(Idle(0))
    (start,) = started(search.handle(Failed(0, 0, "file server away", "transient")))
    assert (start.trial, start.attempt) == (0, 2)


@pytest.mark.parametrize("merit", [math.nan, math.inf, -math.inf])
def test_a_merit_that_is_no_number_is_a_failure(merit):
    search = coordinator()
    search.handle(Idle(0))
    search.handle(Finished(0, 0, merit))
    assert (search.trials[0].state, search.trials[0].kind) == ("failed", "nan")


def test_three_errors_in_a_row_end_the_search_with_their_reasons():
    search = coordinator(n_trials=100)
    search.handle(Idle(0))
    for trial in range(3):
        actions = search.handle(Failed(0, trial, "no such layer: Dens"))
    assert actions[-1] == End(search.reason)
    assert "3 trials in a row" in search.reason
    assert "trial 0, 1, 2: no such layer: Dens" in search.reason


def test_infeasible_parameters_need_ten_in_a_row():
    search = coordinator(n_trials=100)
    search.handle(Idle(0))
    for trial in range(10):
        assert not search.is_over
        search.handle(Failed(0, trial, "out of memory", "infeasible"))
    assert search.is_over


def test_a_success_between_forgives_errors_but_not_their_total():
    search = coordinator(n_trials=100, max_failures=4)
    search.handle(Idle(0))
    for trial in range(7):
        assert not search.is_over
        search.handle(Finished(0, trial, 0.5) if trial % 2 else Failed(0, trial, "no"))
    assert search.reason.startswith("4 trials failed")


def test_the_target_stops_new_trials_and_waits_for_those_under_way():
    search = coordinator(target=0.0)
    search.handle(Idle(0))
    search.handle(Idle(1))
    assert started(search.handle(Finished(0, 0, 0.0))) == []
    assert not search.is_over
    assert isinstance(search.handle(Finished(1, 1, 3.0))[-1], End)


def test_the_deadline_suspends_trials_when_they_report():
    search = coordinator(epochs=9, deadline=100)
    search.handle(Idle(0))
    actions = search.handle(Reported(0, 0, 3, 0.5, saved=True), now=101)
    assert Verdict(0, 0, "suspend") in actions
    assert isinstance(search.handle(Idle(0), now=102)[-1], End)
    assert search.trials[0].state == "waiting"


def test_an_interruption_suspends_what_runs_and_ends_when_all_have_left():
    search = coordinator()
    for block in range(2):
        search.handle(Idle(block))
    writes = [Write({"event": "suspended", "trial": n, "block": n, "reason": "a signal"})
              for n in range(2)]  # fmt: skip
    verdicts = [Verdict(0, 0, "suspend"), Verdict(1, 1, "suspend")]
    actions = search.handle(Interrupted("a signal"))
    assert actions == [writes[0], verdicts[0], writes[1], verdicts[1]]
    assert search.handle(Idle(0)) == [Dismiss(0)]
    assert search.handle(Idle(1))[-1] == End("a signal")
    assert {(one.state, one.n_lost) for one in search.trials.rows} == {("waiting", 0)}


def test_a_suspended_trial_that_reports_is_told_again_without_a_record():
    search = coordinator(epochs=9)
    search.handle(Idle(0))
    search.handle(Interrupted())
    assert search.handle(Reported(0, 0, 1, 0.5)) == [Verdict(0, 0, "suspend")]
    assert search.handle(Reported(0, 7, 1, 0.5)) == [Verdict(0, 7, "stop")]


def test_a_suspended_trial_may_finish_while_its_block_leaves():
    search = coordinator()
    search.handle(Idle(0))
    search.handle(Interrupted("a signal"))
    actions = search.handle(Finished(0, 0, 0.5))
    assert [type(action) for action in actions] == [Write, Dismiss, Write, End]
    assert (search.trials[0].state, search.trials.told[0].merit) == ("finished", 0.5)


@pytest.mark.parametrize("event", [Failed(0, 0, "killed"), BlockLost(0)])
def test_a_suspended_trial_whose_block_breaks_is_still_waiting(event):
    search = coordinator()
    search.handle(Idle(0))
    search.handle(Interrupted("a signal"))
    assert search.handle(event)[-1] == End("a signal")
    assert (search.trials[0].state, search.trials[0].n_lost) == ("waiting", 0)


def test_an_interruption_of_free_blocks_ends_the_search_at_once():
    search = coordinator(n_trials=1)
    assert search.handle(Interrupted("a signal"))[-1] == End("a signal")
    assert search.handle(Interrupted("another")) == []


@pytest.mark.parametrize("pruner", [Never(3), Asha(9, exempt=5), Median(9)])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(pruner):
    part = Simulation(4, 30, pruner=pruner, faults=ROUGH, interrupt_after=40).run()
    assert part.end == End("a signal")
    suspended = {one["trial"] for one in part.records if one["event"] == "suspended"}
    over = set(ends(part.records))
    rest = Simulation(4, 30, pruner=pruner, past=[*part.records, {"event": "restored"}]).run()
    assert rest.end == End("all trials are done")
    assert len(suspended) == 4
    assert suspended - over <= {start.trial for start in rest.starts}
    assert set(ends(rest.records).values()) == {1}


def test_a_block_that_hangs_gets_nothing_until_it_answers():
    search = coordinator(trial_s=10)
    search.handle(Idle(0), now=0)
    actions = search.handle(Tick(), now=11)
    assert search.trials[0].kind == "timeout"
    assert Verdict(0, 0, "stop") in actions
    (start,) = started(search.handle(Finished(0, 0, 0.5), now=12))
    assert (start.trial, search.trials[0].state) == (1, "failed")


def test_the_search_ends_when_no_block_is_left_and_keeps_the_trial():
    search = coordinator()
    search.handle(Idle(0))
    assert search.handle(BlockLost(0))[-1] == End("no block is left")
    assert search.trials[0].state == "waiting"


def test_an_exhausted_space_ends_the_search():
    done = Simulation(n_trials=50, searcher=Guess(size=7)).run()
    assert done.end == End("the space is exhausted")
    assert len(done.coordinator.trials) == 7


def test_a_stopped_search_can_be_told_of_later_trials():
    first = Simulation(n_trials=10).run()
    more = Simulation(n_trials=15, past=first.records[:-1]).run()
    assert proposals(more.records)[:10] == proposals(first.records)
    assert sorted(start.trial for start in more.starts) == list(range(10, 15))


@pytest.mark.parametrize(
    "value", [{"n_trials": 0}, {"max_moves": -1}, {"target": math.nan}, {"n_ahead": -1}]
)
def test_limits_that_make_no_sense_are_refused(value):
    with pytest.raises(ConfigError, match=next(iter(value))):
        Limits(**{"n_trials": 1} | value)


@pytest.mark.parametrize("pruner", [Never(3), Asha(9), Asha(9, pauses=False), Median(9)])
@pytest.mark.parametrize("faults", [Faults(), ROUGH], ids=["calm", "rough"])
def test_every_proposal_is_answered_once_none_lost_none_twice(pruner, faults):
    done = Simulation(16, 400, seed=3, faults=faults, pruner=pruner).run()
    assert done.end == End("all trials are done")
    over = {trial.number for trial in done.coordinator.trials.rows if trial.is_over}
    assert set(ends(done.records).values()) == {1}
    assert set(ends(done.records)) == over
    paused = {one.number for one in done.coordinator.trials.rows if one.state == "paused"}
    assert over | paused == set(range(400))


def test_ten_thousand_trials_take_seconds():
    begin = time.process_time()
    done = Simulation(16, 10_000, faults=ROUGH).run()
    assert len(ends(done.records)) == 10_000
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("pruner", [Never(1), Asha(9), Median(9)])
def test_no_block_is_idle_while_there_is_a_trial_to_give(pruner):
    assert Simulation(16, 400, pruner=pruner, faults=ROUGH).run().n_idle_moments == 0


def test_blocks_are_busy_all_the_time():
    done = Simulation(16, 800, spread=0.2).run()
    assert done.busy_s / (16 * done.now) > 0.98


class Shuffled(Simulation):
    """The same results in the same order, at other times and by other names of the blocks."""

    def run(self) -> "Shuffled":
        recorded: list = []
        inner = self.coordinator.handle
        self.coordinator.handle = lambda event, now: (recorded.append(event), inner(event, now))[1]
        super().run()
        again = Coordinator(Guess(), Limits(self.n_trials), self.coordinator._pruner)
        for i, event in enumerate(recorded):
            again.handle(type(event)(**vars(event) | {"block": 99 - event.block}), now=i * 1e4)
        self.again = again
        return self


@pytest.mark.parametrize("pruner", [Never(2), Asha(9), Median(9)])
def test_proposals_follow_from_the_order_of_results_alone(pruner):
    done = Shuffled(5, 100, pruner=pruner).run()
    assert [one.params for one in done.again.trials.rows] == proposals(done.records)


def test_other_results_bring_other_proposals():
    one = Simulation(5, 60, merit=lambda params, epoch: 1 - params["x"]).run()
    other = Simulation(5, 60).run()
    assert proposals(one.records)[:5] == proposals(other.records)[:5]
    assert proposals(one.records)[10:] != proposals(other.records)[10:]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([Never(4), Asha(9), Median(9)]))
def test_a_search_killed_anywhere_goes_on_without_repeating_a_finished_trial(seed, pruner):
    rng = random.Random(seed)
    whole = Simulation(4, 30, seed=seed, pruner=pruner, faults=ROUGH).run()
    past = whole.records[: rng.randrange(len(whole.records))]
    over, known = set(ends(past)), proposals(past)
    past = [*past, {"event": "restored"}]
    in_flight = [
        one.number for one in Coordinator(Guess(), Limits(30), pruner, past).trials.in_flight()
    ]
    n_blocks = rng.choice([2, 4, 6])
    rest = Simulation(n_blocks, 30, seed=seed + 1, pruner=pruner, faults=ROUGH, past=past).run()
    assert rest.end == End("all trials are done")
    assert proposals(rest.records)[: len(known)] == known
    assert not over & {start.trial for start in rest.starts}
    assert [start.trial for start in rest.starts[: min(n_blocks, len(in_flight))]] == in_flight[
        :n_blocks
    ]
    assert set(ends(rest.records).values()) == {1}


@pytest.mark.parametrize("pruner", [Asha(9), Asha(9, pauses=False), Median(9)])
def test_a_restored_coordinator_decides_as_the_one_that_was_killed(pruner):
    part = Simulation(4, 60, pruner=pruner, stop_after=150).run()
    again = Coordinator(Guess(), Limits(60), pruner, part.records)
    for number in {one.trial for one in part.starts}:
        for epoch in (1, 3):
            if epoch in part.coordinator.trials[number].curve:
                verdict = pruner.judge(number, epoch, part.coordinator._choice.curves)
                assert pruner.judge(number, epoch, again._choice.curves) == verdict
    before = pruner.promoted(part.coordinator._choice.curves, is_last=True)
    assert pruner.promoted(again._choice.curves, is_last=True) == before


def test_a_restored_trial_trains_from_its_newest_checkpoint():
    part = Simulation(4, 12, epochs=8, stop_after=50).run()
    saved = {one.number: one.saved_epoch for one in part.coordinator.trials.in_flight()}
    rest = Simulation(4, 12, epochs=8, past=[*part.records, {"event": "restored"}]).run()
    assert max(saved.values()) > 0
    assert {s.trial: s.from_epoch for s in rest.starts if s.trial in saved} == saved
    twice = {key for key, n in (part.trained + rest.trained).items() if n > 1}
    assert twice <= {(trial, epoch + 1) for trial, epoch in saved.items()}


def test_a_trial_under_which_every_search_dies_is_failed_in_the_end():
    past: list = []
    for _ in range(4):
        part = Simulation(1, 5, past=past, stop_after=1).run()
        past = [*part.records, {"event": "restored"}]
    assert part.coordinator.trials[0].kind == "lost"
    assert part.starts[0].trial == 1


def test_each_report_is_answered_by_one_verdict():
    done = Simulation(4, 50, pruner=Median(9)).run()
    reports = [record for record in done.records if record["event"] == "reported"]
    assert len(done.verdicts) == len(reports)


def test_the_work_of_the_coordinator_stays_far_below_a_trial_of_a_second():
    begin = time.process_time()
    Simulation(16, 200, spread=0.1).run()
    assert (time.process_time() - begin) / (200 * 1.0) < 0.01
