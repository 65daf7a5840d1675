"""Merits of unfinished trials, as a searcher is told of them."""

import pytest

from nnlo.optimize.fidelity import at_the_end
from nnlo.optimize.pruning import Asha, Median
from nnlo.optimize.trials import Trials
from tests.optimize.simulated import Faults, Simulation


def table(*curves: tuple[float, ...]) -> Trials:
    """A trial for each curve of reports at epochs 1, 3 and 9; those with 9 are finished."""
    trials = Trials()
    for number, curve in enumerate(curves):
        trials.apply({"event": "asked", "trial": number, "params": {"x": number}})
        for epoch, merit in zip((1, 3), curve, strict=False):
            verdict = "pause" if len(curve) == {1: 1, 3: 2}[epoch] else "continue"
            about = {"trial": number, "epoch": epoch, "merit": merit, "metrics": {}}
            about |= {"saved": True, "verdict": verdict, "to_epoch": epoch}
            trials.apply({"event": "reported", **about})
        if len(curve) == 3:
            about = {"trial": number, "merit": curve[2], "merits": [], "metrics": {}}
            about |= {"epochs": 9, "seconds": 0.0, "files": {}}
            trials.apply({"event": "finished", **about})
    return trials


def merits(trials: Trials) -> list[float | None]:
    return [told.merit for told in at_the_end(trials)]


def test_a_resting_trial_is_told_with_the_gain_of_the_others():
    trials = table((0.9, 0.5, 0.3), (0.8, 0.6, 0.2), (0.7, 0.5), (0.9,))
    # From 3 to 9 epochs -0.2 and -0.4; from 1 to 3 epochs -0.4, -0.2 and -0.2.
    assert merits(trials) == pytest.approx([0.3, 0.2, 0.5 - 0.3, 0.9 - 0.3 - 0.2])


def test_without_any_that_got_further_merits_stay():
    assert merits(table((0.9,), (0.7,))) == [0.9, 0.7]


def test_whole_trials_are_told_as_they_are():
    trials = table((0.9, 0.5, 0.3))
    assert at_the_end(trials) is trials.told


@pytest.mark.parametrize("pruner", [Asha(9), Asha(9, pauses=False), Median(9)])
def test_order_and_failures_stay(pruner):
    trials = Simulation(4, 60, pruner=pruner, faults=Faults(nan=0.2)).run().coordinator.trials
    told = at_the_end(trials)
    assert [one.trial for one in told] == [one.trial for one in trials.told]
    assert [one.merit is None for one in told] == [one.merit is None for one in trials.told]
