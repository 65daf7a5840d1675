"""Merits of trials that had only some of their epochs, made comparable with the others'."""

import itertools
from collections.abc import Sequence
from statistics import median

from nnlo.optimize.searcher import Told
from nnlo.optimize.trials import Trial, Trials


def at_the_end(trials: Trials) -> Sequence[Told]:
    """What a searcher is told: the results in the order of the first of each trial.

    A merit usually falls with the epochs, so a trial that rests at a rung or was stopped looks
    worse than it is: its merit is told with the median change that the others had from there to
    the end, added up from rung to rung over the trials that reached both.
    """
    if not trials.resting:
        return trials.told
    gains = _gains(trials)
    return [
        told
        if told.merit is None or told.trial not in trials.resting
        else told._replace(merit=told.merit + gains[trials.resting[told.trial]])
        for told in trials.told
    ]


def _gains(trials: Trials) -> dict[int, float]:
    """By epoch at which trials rest: what merits change by from there to the end."""
    having = [one for one in trials.rows if one.curve]
    epochs = sorted(set(trials.resting.values()))
    columns = [{one.number: one.curve[e] for one in having if e in one.curve} for e in epochs]
    columns.append({one.number: _end(one) for one in having if one.state == "finished"})
    gains: dict[int, float] = {}
    gain = 0.0
    for epoch, (here, there) in reversed(
        list(zip(epochs, itertools.pairwise(columns), strict=True))
    ):
        changes = [there[number] - here[number] for number in here.keys() & there.keys()]
        gain += median(changes) if changes else 0.0
        gains[epoch] = gain
    return gains


def _end(trial: Trial) -> float:
    assert trial.merit is not None
    return trial.merit
