"""Tables of trials, best first."""

import csv
import json

import numpy as np
import pytest

from nnlo.optimize.table import best_first, export, failures, pareto_front, to_csv, to_text
from nnlo.optimize.trials import Trial


def trial(number: int, *merits: float, **fields) -> Trial:
    merit = merits[0] if merits else None
    fields = {"state": "finished", "params": {"x": number / 10}} | fields
    return Trial(number, merit=merit, merits=merits if len(merits) > 1 else (), **fields)


def numbers(trials) -> list[int]:
    return [one.number for one in trials]


def test_the_best_is_first_and_failures_last():
    trials = [trial(0, 0.5), trial(1, state="failed"), trial(2, 0.0), trial(3, 0.5)]
    assert numbers(best_first(trials)) == [2, 0, 3, 1]


def test_the_pareto_front_is_first_where_there_are_several_merits():
    trials = [trial(0, 0.5, 0.5), trial(1, 0.6, 0.6), trial(2, 0.9, 0.1), trial(3, 0.55, 0.5)]
    assert numbers(pareto_front(trials)) == [0, 2]
    assert numbers(best_first(trials)) == [0, 2, 3, 1]


def test_equal_trials_are_both_in_the_front():
    assert numbers(pareto_front([trial(0, 0.5, 0.5), trial(1, 0.5, 0.5)])) == [0, 1]


def test_merits_of_fewer_epochs_come_behind_those_of_all():
    trials = [trial(0, 0.1, state="stopped"), trial(1, 0.5), trial(2, 0.2, state="paused")]
    assert numbers(best_first(trials)) == [1, 0, 2]


@pytest.mark.parametrize("n_merits", [2, 3])
def test_the_front_is_what_no_other_trial_beats(n_merits):
    merits = np.random.default_rng(0).integers(0, 9, (200, n_merits)).astype(float)
    trials = [trial(i, *some) for i, some in enumerate(merits)]
    beaten = [((merits <= one).all(1) & (merits < one).any(1)).any() for one in merits]
    assert numbers(pareto_front(trials)) == np.flatnonzero(~np.array(beaten)).tolist()


def test_csv_has_a_column_for_each_field_of_any_trial():
    table = to_csv(
        [
            trial(0, 0.5, params={"x": 1, "name": 'a,"b"'}, metrics={"loss": 0.25}),
            trial(1, state="failed", reason="no such\nlayer", kind="error"),
        ]
    )
    best, failed = csv.DictReader(table.splitlines(keepends=True))
    assert (best["merit"], best["param_name"], best["metric_loss"]) == ("0.5", 'a,"b"', "0.25")
    assert (failed["merit"], failed["reason"]) == ("", "no such\nlayer")


def test_both_files_hold_the_same_trials(tmp_path):
    export([trial(0, 0.5), trial(1, 0.25)], tmp_path)
    rows = json.loads((tmp_path / "trials.json").read_text())
    with (tmp_path / "trials.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["number"] for row in rows] == [int(row["number"]) for row in table] == [1, 0]


def test_the_text_shows_the_best_in_aligned_columns():
    text = to_text([trial(0, 0.5), trial(1, 0.25)], n=1)
    assert text.splitlines() == [
        "trial  state     merit  epochs  x",
        "1      finished  0.25   0       0.1",
    ]


def test_long_texts_are_cut_and_lines_joined():
    text = to_text([trial(0, 0.5, params={"kind": "a\nb " * 9})])
    assert text.splitlines()[1].endswith("  a b a b a b a b a b a b…")


def test_failures_are_grouped_by_what_they_say():
    reasons = ["no layer 7", "its merit was nan", "no such\nlayer 8"] + [
        "out of memory at 0.5 s"
    ] * 9
    trials = [trial(i, state="failed", reason=r, kind="error") for i, r in enumerate(reasons)]
    assert failures([*trials, trial(99, 0.5)]).splitlines() == [
        "9 failed (error), trial 3, 4, 5, 6, 7, 8, 9, 10 and 1 more: out of memory at 0.5 s",
        "1 failed (error), trial 0: no layer 7",
        "1 failed (error), trial 1: its merit was nan",
        "1 failed (error), trial 2: no such layer 8",
    ]
