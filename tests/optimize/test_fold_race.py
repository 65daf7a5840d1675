"""Folds one after another: who is given up, and who must not be."""

import numpy as np

from nnlo.optimize.fold_race import FoldRace
from nnlo.optimize.pruning import Curves


def race(merits):
    """Run trials one after another, rows of ``merits``; who was stopped, how many folds ran."""
    rule, curves = FoldRace(merits.shape[1]), Curves()
    stopped, n_trained = set(), 0
    for trial, folds in enumerate(merits):
        for m in range(1, len(folds) + 1):
            curves.put(trial, m, float(np.mean(folds[:m])))
            n_trained += 1
            if rule.judge(trial, m, curves) == "stop":
                stopped.add(trial)
                break
    return stopped, n_trained


def draw(seed, n_trials=12, n_folds=5, noise=0.02):
    """Merits of folds: trials differ by more than folds of one trial do."""
    rng = np.random.default_rng(seed)
    return 0.3 + 0.1 * rng.random((n_trials, 1)) + noise * rng.normal(size=(n_trials, n_folds))


def test_hopeless_trials_are_stopped_and_the_best_is_not():
    rng = np.random.default_rng(1)
    qualities = rng.permutation([0.1] + [0.5 + 0.05 * i for i in range(19)])
    merits = qualities[:, None] + 0.02 * rng.normal(size=(20, 5))
    stopped, n_trained = race(merits)
    best = int(np.argmin(qualities))
    assert best not in stopped
    assert len(stopped) >= len(qualities) - best - 1
    assert n_trained < 0.5 * merits.size


def test_the_trial_that_would_have_won_is_seldom_given_up():
    draws = [draw(seed) for seed in range(200)]
    n_lost = sum(int(np.argmin(one.mean(axis=1))) in race(one)[0] for one in draws)
    assert n_lost <= 0.05 * 200


def test_a_third_of_the_folds_is_saved():
    draws = [draw(seed) for seed in range(50)]
    n_trained = sum(race(one)[1] for one in draws)
    assert n_trained < 2 / 3 * sum(one.size for one in draws)


def test_the_first_trial_and_the_last_fold_are_never_stopped():
    rule, curves = FoldRace(2), Curves()
    for trial, merit in enumerate((0.1, 0.1, 9.0)):
        curves.put(trial, 1, merit)
        curves.put(trial, 2, merit)
    assert rule.judge(0, 1, curves) == "continue"
    assert rule.judge(2, 2, curves) == "continue"
    assert rule.promoted(curves, is_last=True) is None
    assert rule.limit(2, 1) == 2


def test_folds_are_told_apart_from_their_means():
    rule, curves = FoldRace(4), Curves()
    for fold, mean in enumerate((1.0, 1.5, 2.0, 2.5), 1):  # folds 1, 2, 3, 4
        curves.put(0, fold, mean)
    curves.put(1, 1, 4.0)  # within the spread of the first trial's folds
    assert rule.judge(1, 1, curves) == "continue"
    curves.put(1, 1, 40.0)
    assert rule.judge(1, 1, curves) == "stop"
