"""Early stopping: rules on merits, and whether they save epochs."""

import math

import numpy as np
import pytest

from nnlo.errors import ConfigError
from nnlo.optimize.events import Limits
from nnlo.optimize.pruning import PRUNERS, Asha, Curves, Median, Never, make_pruner
from nnlo.optimize.searcher import make_searcher
from nnlo.optimize.space import Space
from tests.optimize.simulated import Simulation


def curves(epoch: int, *merits: float) -> Curves:
    """Of trials 0, 1, ..."""
    table = Curves()
    for trial, merit in enumerate(merits):
        table.put(trial, epoch, merit)
    return table


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(27, (3, 9)), (9, (1, 3)), (81, (9, 27)), (2, (1,)), (1, ()), (10, (1, 3, 9))],
)
def test_rungs_start_at_a_ninth_and_grow_by_three(epochs, rungs):
    assert Asha(epochs).rungs == rungs


def test_a_trial_of_the_best_third_goes_on_and_others_pause():
    table = curves(1, 0.5, 0.4, 0.3)
    assert [Asha(9).judge(trial, 1, table) for trial in range(3)] == ["pause", "pause", "continue"]


def test_stopping_lets_the_first_go_on_and_stops_the_worse():
    asha = Asha(9, pauses=False)
    assert asha.judge(0, 1, curves(1, 0.5)) == "continue"
    assert asha.judge(1, 1, curves(1, 0.5, 0.6)) == "stop"


def test_the_highest_rung_is_promoted_first():
    table = curves(1, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
    for trial, merit in ((3, 0.2), (4, 0.3), (5, 0.4)):
        table.put(trial, 3, merit)
        table.pause(trial, 3)
    table.pause(2, 1)
    assert Asha(9).promoted(table, is_last=False) == 3


def test_a_paused_trial_is_promoted_once():
    table = curves(1, 0.5, 0.4, 0.3)
    for trial in range(3):
        table.pause(trial, 1)
    assert Asha(9).promoted(table, is_last=False) == 2
    table.resume(2, 1)
    assert Asha(9).promoted(table, is_last=False) is None


def test_every_tenth_trial_trains_to_the_end():
    asha = Asha(9)
    assert [asha.limit(trial, 0) for trial in range(11)] == [*[1] * 9, 9, 1]
    assert asha.judge(9, 1, curves(1, *[0.1] * 9, 0.9)) == "continue"


@pytest.mark.parametrize("n_trials", [1, 2, 4, 10])
def test_the_best_of_few_trials_still_reaches_the_end(n_trials):
    done = Simulation(2, n_trials, pruner=Asha(9, exempt=0)).run()
    finished = [one for one in done.coordinator.trials.rows if one.state == "finished"]
    paused = [one for one in done.coordinator.trials.rows if one.state == "paused"]
    assert finished
    assert min(one.merit for one in finished) <= min((one.merit for one in paused), default=1e9)


def test_asha_spends_less_than_half_of_the_epochs():
    full = Simulation(8, 200, pruner=Never(27)).run()
    halved = Simulation(8, 200, pruner=Asha(27)).run()
    assert sum(halved.trained.values()) < 0.5 * sum(full.trained.values())


def test_no_epoch_is_trained_twice_by_promotion():
    assert set(Simulation(8, 200, pruner=Asha(27)).run().trained.values()) == {1}


def test_the_median_rule_waits_for_others_and_then_stops_the_worse_half():
    rule = Median(9, n_trials=4)
    assert rule.judge(3, 2, curves(2, 0.1, 0.2, 0.3, 0.9)) == "continue"
    table = curves(2, 0.1, 0.2, 0.3, 0.4, 0.26, 0.24)
    assert [rule.judge(t, 2, table) for t in range(6)] == ["continue"] * 2 + ["stop"] * 2 + [
        "stop",
        "continue",
    ]
    assert rule.judge(3, 1, curves(1, 0.1, 0.2, 0.3, 0.9, 0.1)) == "continue"


@pytest.mark.parametrize("n", [2, 3, 6, 7])
def test_the_median_of_the_others_is_that_of_numpy(n):
    merits = np.random.default_rng(n).random(n)
    table = curves(1, *merits)
    for trial in range(n):
        assert table.median_of_others(trial, 1) == np.median(np.delete(merits, trial))


def test_a_merit_put_again_replaces_the_first():
    table = curves(1, 0.5, 0.4)
    table.put(0, 1, 0.3)
    assert (table.n_at(1), table.place(0, 1), table.place(1, 1)) == (2, 0, 1)


def test_every_rule_is_made_by_its_name():
    assert [make_pruner(name, 9).epochs for name in PRUNERS] == [9] * len(PRUNERS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_pruner("hyper", 9),
        lambda: Never(0),
        lambda: Asha(9, eta=1),
        lambda: Median(9, n_trials=0),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ConfigError, match=r"must (be|have)"):
        make()


SPACE = Space.from_tune(["rate=1e-4:1e-1:log", "width=16:256:log", "depth=1:5", "kind=a,b,c"])


def crossing(params, epoch: int) -> float:
    """A learning curve of a slow learner if the rate is small: those lead late."""
    off = math.log10(params["rate"]) + {"a": 2.8, "b": 1.6, "c": 3.2}[params["kind"]]
    final = 0.2 * off**2 + 0.05 * (math.log2(params["width"]) - 6.5) ** 2
    final += 0.06 * (params["depth"] - 3) ** 2 + {"a": 0.0, "b": 0.12, "c": 0.08}[params["kind"]]
    tau = 1.5 + 6 * max(0.0, 0.4 - off) + 0.6 * params["depth"]
    return final + 0.9 * math.exp(-epoch / tau)


def best_at(pruner, seed: int, share: float) -> float:
    """The best merit after a share of the time that 60 full trials take on 4 blocks."""
    end = 60 * 27 / 4 * share
    searcher = make_searcher("random", SPACE, seed)
    limits = Limits(10_000, deadline=end)
    done = Simulation(
        4, 10_000, seed=seed, searcher=searcher, pruner=pruner, limits=limits, merit=crossing
    ).run()
    return min(merit for time, _, merit in done.times if time <= end)


def test_promotion_beats_full_training_at_a_quarter_of_the_budget():
    full = [best_at(Never(27), seed, 0.25) for seed in range(10)]
    halved = [best_at(Asha(27), seed, 0.25) for seed in range(10)]
    assert np.median(halved) < 0.8 * np.median(full)


def test_curves_of_that_check_do_cross():
    fast = {"rate": 1e-1, "width": 90, "depth": 3, "kind": "b"}
    slow = {"rate": 1e-3, "width": 90, "depth": 3, "kind": "a"}
    assert crossing(fast, 3) < crossing(slow, 3)
    assert crossing(fast, 27) > crossing(slow, 27)
