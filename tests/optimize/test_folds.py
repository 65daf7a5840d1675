"""Which samples are held out in which fold, and what becomes of the merits of folds."""

import math
import pickle

import numpy as np
import pytest

from nnlo.errors import ConfigError, TrainingError
from nnlo.optimize.folds import Folds, is_hopeless, joined

COUNTS = (40, 0, 1, 62)


def sizes(folds: Folds) -> np.ndarray:
    return np.array([folds.held_out(fold).sum() for fold in range(folds.n_folds)])


@pytest.mark.parametrize("n_folds", [2, 3, 10, 103])
def test_each_sample_is_held_out_once_in_folds_of_equal_size(n_folds):
    folds = Folds.over_samples(COUNTS, n_folds)
    held_out = sum(folds.held_out(fold).astype(int) for fold in range(n_folds))
    assert (held_out == 1).all()
    assert np.ptp(sizes(folds)) <= 1


@pytest.mark.parametrize("n_folds", [2, 3, 7])
def test_stratified_folds_are_even_in_all_and_in_each_class(n_folds):
    classes = np.random.default_rng(0).choice([-1, 4, 7, 9], 103, p=[0.6, 0.3, 0.07, 0.03])
    folds = Folds.over_samples(COUNTS, n_folds, classes=classes)
    assert np.ptp(sizes(folds)) <= 1
    for one in np.unique(classes):
        in_class = np.bincount(folds.fold_of[classes == one], minlength=n_folds)
        assert np.ptp(in_class) <= 1


def test_unstratified_folds_may_be_uneven_in_a_class():
    classes = np.arange(103) % 2
    folds = Folds.over_samples(COUNTS, 5)
    assert max(np.ptp(np.bincount(folds.fold_of[classes == one])) for one in (0, 1)) > 1


@pytest.mark.parametrize("make", [Folds.over_samples, Folds.over_files])
def test_the_seed_alone_fixes_the_folds(make):
    counts = [5] * 40
    first = make(counts, 4, seed=1).fold_of
    assert np.array_equal(first, make(counts, 4, seed=1).fold_of)
    assert not np.array_equal(first, make(counts, 4, seed=2).fold_of)


def test_neighbours_do_not_share_a_fold():
    fold_of = Folds.over_samples([1000], 2).fold_of
    assert 400 < np.count_nonzero(np.diff(fold_of.astype(int))) < 600


def test_files_stay_whole_and_each_fold_gets_samples():
    folds = Folds.over_files([5, 0, 7, 1, 0, 2], 4)
    ends = np.cumsum([5, 0, 7, 1, 0, 2])
    of_files = [set(part) for part in np.split(folds.fold_of, ends[:-1]) if len(part)]
    assert sorted(fold for part in of_files for fold in part) == [0, 1, 2, 3]


@pytest.mark.parametrize("n_folds", [-1, 0, 1, 104])
def test_samples_limit_the_folds(n_folds):
    with pytest.raises(ConfigError, match=f"at most the 103 samples, got {n_folds};"):
        Folds.over_samples(COUNTS, n_folds)


def test_files_limit_the_folds():
    with pytest.raises(ConfigError, match=r"at most the 3 files with samples, got 4; .*--n-fold"):
        Folds.over_files(COUNTS, 4)


def test_classes_of_other_data_are_refused():
    with pytest.raises(ConfigError, match=r"one a sample, got \(102,\) for 103"):
        Folds.over_samples(COUNTS, 2, classes=np.zeros(102, np.int64))


@pytest.mark.parametrize("fold", [-1, 3])
def test_a_fold_that_is_not_there_is_refused(fold):
    with pytest.raises(ConfigError, match=rf"\[0, 3\), got {fold}"):
        Folds.over_samples(COUNTS, 3).held_out(fold)


def test_folds_travel_as_one_byte_a_sample():
    assert len(pickle.dumps(Folds.over_samples([100_000], 255))) < 101_000
    assert len(np.unique(Folds.over_samples([1000], 257).fold_of)) == 257


def test_a_trial_has_mean_spread_and_values_and_nought_is_a_value():
    assert joined([0.0, 1.0, 2.0], 3) == (1.0, 1.0, (0.0, 1.0, 2.0))
    assert joined([0.0, 0.0], 2) == (0.0, 0.0, (0.0, 0.0))


@pytest.mark.parametrize("values", [[], [0.1], [0.1, None], [math.nan, 0.1], [0.1, math.inf]])
def test_a_fold_without_merit_fails_the_trial(values):
    with pytest.raises(TrainingError, match="finite merit from each of its 2 folds, got"):
        joined(values, 2)


@pytest.mark.parametrize(
    ("values", "best", "known", "answer"),
    [
        ([0.9], None, [[0.1, 0.11]], False),  # nothing to be worse than
        ([], 0.1, [[0.1, 0.11]], False),
        ([0.9], 0.1, [], False),  # the spread is not known
        ([0.9], 0.1, [[0.1]], False),
        ([0.9], 0.1, [[0.10, 0.11, 0.12]], True),
        ([0.12], 0.11, [[0.10, 0.11, 0.12]], False),  # within the spread
        ([0.9, 0.91, 0.9], 0.1, [], True),  # its own spread is enough
        ([0.1, 0.9], 0.2, [], False),
        ([0.0, 0.0, 0.01], 0.1, [[0.1, 0.2]], False),
    ],
)
def test_a_trial_is_hopeless_where_it_is_worse_by_more_than_the_spread(
    values, best, known, answer
):
    assert is_hopeless(values, 5, best, known) is answer


def test_hand_computed_bound():
    # Pooled variance 0.01 of 2 degrees, t 4.302653, 1 of 3 done: 4.302653 * 0.1 * sqrt(2 / 3).
    known = [[0.1, 0.2, 0.3]]
    assert is_hopeless([0.6514], 3, 0.3, known)
    assert not is_hopeless([0.6512], 3, 0.3, known)


def test_few_trials_that_would_have_won_are_given_up_and_many_folds_are_saved():
    rng = np.random.default_rng(0)
    known = rng.normal(0.5, 0.1, (5, 5)).tolist()
    trials = rng.normal(rng.uniform(0.3, 1.0, (4000, 1)), 0.1, (4000, 5))
    stops = [
        next((m for m in range(1, 5) if is_hopeless(trial[:m], 5, 0.45, known)), 5)
        for trial in trials.tolist()
    ]
    would_win = trials.mean(axis=1) < 0.45
    assert np.mean(np.array(stops)[would_win] < 5) < 0.025
    assert np.mean(stops) < 3
