"""From what blocks say to what the coordinator hears."""

import math

import pytest

from nnlo.optimize.events import Failed, Finished, Idle, Interrupted, Reported, Start
from nnlo.optimize.layout import Layout
from nnlo.optimize.ledger import MOST_OF_A_REASON, Ledger
from nnlo.optimize.wire import Order, Outcome, PartEnd, Report

ALONE, BESIDE, AFTER = Layout(2), Layout(3, 2, 2), Layout(2, 1, 3)
"""One fold; two side by side; three one after another."""


def begun(layout=ALONE, attempt=1, now=0.0):
    ledger = Ledger(layout)
    ledger.start(Start(1, 7, {"x": 1}, attempt, 0, 9), now)
    return ledger


def says(ledger, fold, epoch, merit, attempt=1, trial=7, **more):
    report = Report(trial, attempt, fold, epoch, (merit,), {"loss": merit}, **more)
    return [(one.epoch, one.merit) for one in ledger.report(1, report)]


def ends(ledger, *parts, trial=7, attempt=1, now=2.0):
    return ledger.outcome(1, Outcome(trial, attempt, parts), now)


def done(merit=0.5, fold=0, epochs=4, **more):
    return PartEnd("done", fold, (merit,), {"loss": merit}, epochs, {f"model_{fold}": "f"}, **more)


def test_a_start_becomes_an_order():
    order = Ledger(ALONE).start(Start(1, 7, {"x": 1}, 2, 3, 9), 0.0)
    assert order == Order(7, {"x": 1}, 2, 3)


def test_a_report_of_a_single_fold_goes_through():
    report = Report(7, 1, 0, 3, (0.5, 9.0), {"loss": 2.0}, saved=True)
    assert [*begun().report(1, report)] == [Reported(1, 7, 3, 0.5, {"loss": 2.0}, saved=True)]


def test_folds_side_by_side_are_heard_once_all_have_reported():
    ledger = begun(BESIDE)
    assert says(ledger, 0, 1, 0.2) == says(ledger, 0, 2, 0.1) == []
    assert says(ledger, 1, 1, 0.4) == [(1, pytest.approx(0.3))]
    assert says(ledger, 1, 2, 0.3) == [(2, pytest.approx(0.2))]


def test_a_fold_that_has_ended_early_keeps_its_last_merit():
    ledger = begun(BESIDE)
    assert says(ledger, 0, 1, 0.2) == []
    assert says(ledger, 0, 1, 0.2, is_last=True) == []
    assert says(ledger, 1, 1, 0.4) == [(1, pytest.approx(0.3))]
    assert says(ledger, 1, 2, 0.6) == [(2, pytest.approx(0.4))]


def test_what_waited_for_a_fold_is_heard_when_that_ends():
    ledger = begun(BESIDE)
    says(ledger, 0, 1, 0.2)
    for epoch in (1, 2, 3):
        says(ledger, 1, epoch, 0.4)
    told = says(ledger, 0, 1, 0.2, is_last=True)
    assert told == [(2, pytest.approx(0.3)), (3, pytest.approx(0.3))]


def test_side_by_side_all_folds_must_be_saved():
    ledger = begun(BESIDE)
    [*ledger.report(1, Report(7, 1, 0, 1, (0.2,), saved=True))]
    (event,) = ledger.report(1, Report(7, 1, 1, 1, (0.2,), saved=False))
    assert not event.saved


def test_metrics_are_means_of_those_that_all_folds_have():
    ledger = begun(BESIDE)
    [*ledger.report(1, Report(7, 1, 0, 1, (0.2,), {"loss": 1.0, "other": 1.0}))]
    (event,) = ledger.report(1, Report(7, 1, 1, 1, (0.2,), {"loss": 3.0}))
    assert event.metrics == {"loss": 2.0}


def test_one_after_another_the_merit_is_the_mean_so_far():
    ledger = begun(AFTER)
    assert says(ledger, 0, 1, 0.2) == [(1, pytest.approx(0.2))]
    assert says(ledger, 1, 2, 0.6) == [(2, pytest.approx(0.4))]
    assert says(ledger, 2, 3, 0.1) == [(3, pytest.approx(0.3))]


def test_an_epoch_is_heard_once():
    ledger = begun()
    assert says(ledger, 0, 1, 0.2) == [(1, 0.2)]
    assert says(ledger, 0, 1, 0.2, is_last=True) == []


@pytest.mark.parametrize("stale", [{"attempt": 1}, {"trial": 6, "attempt": 2}])
def test_reports_of_another_trial_or_attempt_are_not_heard(stale):
    assert says(begun(attempt=2), 0, 1, 0.2, **stale) == []


@pytest.mark.parametrize("stale", [{"attempt": 1}, {"trial": 6, "attempt": 2}])
def test_outcomes_of_another_trial_or_attempt_are_not_heard(stale):
    ledger = begun(attempt=2)
    assert ends(ledger, done(), **stale) == []
    assert ledger.trial_of(1) == (7, 2)


def test_a_report_behind_a_verdict_is_not_heard():
    ledger = begun()
    assert ledger.take_away(1, 7, "stop") == 1
    assert says(ledger, 0, 2, 0.2) == []


def test_a_verdict_on_another_trial_takes_nothing_away():
    ledger = begun()
    assert ledger.take_away(1, 6, "stop") is None
    assert ledger.take_away(2, 7, "stop") is None
    assert says(ledger, 0, 1, 0.2) == [(1, 0.2)]


def test_a_merit_that_is_no_number_is_heard():
    ((_, merit),) = says(begun(), 0, 1, math.nan)
    assert math.isnan(merit)


def test_a_block_that_is_there_for_the_first_time_is_idle():
    assert Ledger(ALONE).outcome(1, Outcome(), 0.0) == [Idle(1)]


def test_a_trial_that_is_done_has_finished():
    end = done(0.5, epochs=4)
    files = {"model_0": "f"}
    assert ends(begun(), end) == [Finished(1, 7, 0.5, (), {"loss": 0.5}, 4, 2.0, files)]


def test_several_merits_are_told():
    (event,) = ends(begun(), PartEnd("done", merits=(0.5, 7.0), epochs=1))
    assert (event.merit, event.merits) == (0.5, (0.5, 7.0))


@pytest.mark.parametrize(("layout", "epochs"), [(BESIDE, 5), (AFTER, 3)])
def test_folds_are_joined_with_their_spread(layout, epochs):
    merits = (0.1, 0.3, 0.5)[: layout.n_folds]
    parts = [done(merit, fold, 3 + fold) for fold, merit in enumerate(merits)]
    (event,) = ends(begun(layout), *parts)
    assert event.merit == pytest.approx(sum(merits) / len(merits))
    assert event.metrics["spread"] == pytest.approx(0.2 if layout is AFTER else 0.02**0.5)
    assert event.metrics["fold_2"] == 0.3
    assert event.epochs == (4 if layout is BESIDE else epochs)
    assert set(event.files) == {f"model_{fold}" for fold in range(layout.n_folds)}


def test_a_fold_without_a_number_fails_the_trial():
    (event,) = ends(begun(BESIDE), done(0.1), done(math.nan, 1))
    assert isinstance(event, Failed)
    assert event.kind == "nan"


def test_a_failed_fold_fails_the_trial_with_its_reason():
    failed = PartEnd("failed", 1, reason="no room", kind="infeasible")
    assert ends(begun(BESIDE), done(0.1), failed) == [Failed(1, 7, "no room", "infeasible")]


def test_the_end_of_a_long_reason_is_kept():
    (event,) = ends(begun(), PartEnd("failed", reason="x" * 10_000 + "ValueError: last"))
    assert len(event.reason) == MOST_OF_A_REASON
    assert event.reason.endswith("ValueError: last")


@pytest.mark.parametrize("verdict", ["stop", "pause", "suspend"])
def test_a_block_that_has_left_its_trial_is_idle(verdict):
    ledger = begun()
    ledger.take_away(1, 7, verdict)
    assert ends(ledger, PartEnd("left", reason=verdict)) == [Idle(1)]


def test_a_suspended_trial_that_is_done_has_finished():
    ledger = begun()
    ledger.take_away(1, 7, "suspend")
    assert isinstance(ends(ledger, done())[0], Finished)


@pytest.mark.parametrize("verdict", ["stop", "pause"])
def test_a_trial_that_was_taken_away_stays_so_though_it_is_done(verdict):
    ledger = begun()
    ledger.take_away(1, 7, verdict)
    assert ends(ledger, done()) == [Idle(1)]


def test_a_signal_that_ended_a_trial_ends_the_search():
    end = PartEnd("interrupted", reason="interruption (SIGTERM)")
    assert ends(begun(), end) == [Interrupted("interruption (SIGTERM)"), Idle(1)]


@pytest.mark.parametrize("parts", [(), (done(),)])
def test_a_trial_of_which_parts_are_missing_is_tried_again(parts):
    (event,) = ends(begun(BESIDE), *parts)
    assert isinstance(event, Failed)
    assert event.kind == "transient"


def test_the_seconds_of_all_attempts_add_up():
    ledger = begun(now=10.0)
    ledger.take_away(1, 7, "pause")
    ends(ledger, PartEnd("left"), now=13.0)
    ledger.start(Start(1, 7, {}, 2, 1, 9), 20.0)
    (event,) = ends(ledger, done(), attempt=2, now=24.0)
    assert event.seconds == 7.0


def test_a_forgotten_block_has_nothing():
    ledger = begun()
    ledger.forget(1)
    assert ledger.trial_of(1) is None
    assert says(ledger, 0, 1, 0.2) == []
    assert ends(ledger, done()) == [Idle(1)]
