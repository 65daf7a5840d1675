"""One line an event of a search."""

import logging

import pytest

from nnlo.cli.search_log import SearchLog, in_words
from nnlo.optimize.trials import Trials

ASKED = {"event": "asked", "trial": 0, "params": {"n": 3, "rate": 0.001234}}
STARTED = {
    **{"event": "started", "trial": 0, "block": 2, "attempt": 1},
    **{"from_epoch": 0, "to_epoch": 9},
}
REPORTED = {
    **{"event": "reported", "trial": 0, "epoch": 2, "merit": 0.25, "metrics": {}},
    **{"saved": True, "verdict": "continue", "to_epoch": 9},
}
FINISHED = {
    **{"event": "finished", "trial": 0, "merit": 0.25, "merits": [], "metrics": {}},
    **{"epochs": 9, "seconds": 3.25, "files": {}},
}


def said(caplog, *records, n_trials=4, level=logging.INFO):
    """What the log says of the last record, with those before it heard too."""
    told, trials = SearchLog(n_trials), Trials()
    with caplog.at_level(level, "nnlo"):
        for record in records:
            caplog.clear()
            trials.apply(record)
            told(record, trials)
    return [record.getMessage() for record in caplog.records]


def test_the_beginning_of_a_trial_tells_its_parameters(caplog):
    (line,) = said(caplog, ASKED, STARTED)
    assert line == "trial 0 begins on block 2: n=3, rate=0.001234"


def test_another_attempt_tells_from_where(caplog):
    (line,) = said(caplog, ASKED, STARTED | {"attempt": 2, "from_epoch": 3})
    assert "on block 2, attempt 2 from epoch 3: n=3" in line


@pytest.mark.parametrize(
    ("verdict", "lines"),
    [
        ("continue", []),
        ("pause", ["trial 0: 0.25 after 2: paused"]),
        ("stop", ["trial 0: 0.25 after 2: stopped"]),
        ("suspend", ["trial 0: 0.25 after 2: suspended"]),
    ],
)
def test_of_reports_only_verdicts_are_shown(caplog, verdict, lines):
    assert said(caplog, ASKED, STARTED, REPORTED | {"verdict": verdict}) == lines


def test_every_report_is_there_for_those_who_debug(caplog):
    lines = said(caplog, ASKED, STARTED, REPORTED, level=logging.DEBUG)
    assert lines == ["trial 0: 0.25 after 2"]


def test_a_result_is_shown_beside_the_best(caplog):
    second = ASKED | {"trial": 1}, FINISHED | {"trial": 1, "merit": 0.5}
    (line,) = said(caplog, ASKED, FINISHED, *second)
    assert line == "trial 1: 0.5 after 9 epochs, 3.2 s; best 0.25 (trial 0); 2 of 4 over"


def test_the_best_may_be_of_the_search_before_it_was_restored(caplog):
    trials = Trials([ASKED, FINISHED, ASKED | {"trial": 1}])
    record = FINISHED | {"trial": 1, "merit": 0.5}
    trials.apply(record)
    with caplog.at_level(logging.INFO, "nnlo"):
        SearchLog(4)(record, trials)
    assert "best 0.25 (trial 0)" in caplog.text


def test_several_merits_and_the_spread_of_folds_are_shown(caplog):
    (line,) = said(caplog, ASKED, FINISHED | {"merits": [0.25, 7.0]})
    assert line.startswith("trial 0: 0.25, 7 after")
    (line,) = said(caplog, ASKED, FINISHED | {"metrics": {"spread": 0.0123}})
    assert line.startswith("trial 0: 0.25 +- 0.012 after")


def test_a_failure_is_shown_by_the_error_in_its_reason(caplog):
    trace = 'Traceback (most recent call last):\n  File "x"\nValueError: no\n'
    failed = {"event": "failed", "trial": 0, "reason": trace, "kind": "error", "attempt": 1}
    assert said(caplog, ASKED, failed) == ["trial 0 failed (error): ValueError: no"]
    assert said(caplog, ASKED, failed | {"reason": " "})[0].endswith("no reason given")


@pytest.mark.parametrize(
    ("event", "line"),
    [("lost", "trial 0 lost block 2: it died"), ("suspended", "trial 0 suspended: it died")],
)
def test_losses_and_suspensions_are_shown_with_their_reason(caplog, event, line):
    record = {"event": event, "trial": 0, "block": 2, "reason": "it died"}
    assert said(caplog, ASKED, STARTED, record) == [line]


@pytest.mark.parametrize("record", [ASKED, {"event": "restored"}, {"event": "ended"}])
def test_other_events_are_not_shown(caplog, record):
    assert said(caplog, record, level=logging.DEBUG) == []


def test_a_record_of_a_trial_that_is_not_there_yet_is_passed_over():
    SearchLog(4)({"event": "ordered", "trial": 5}, Trials())


def test_parameters_in_words():
    params = {"width": 32, "rate": 0.00123456, "kind": "a", "on": True}
    assert in_words(params) == "width=32, rate=0.001235, kind=a, on=True"
