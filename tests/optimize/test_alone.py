"""Whole searches in one process, on trials that are acted."""

import json
import math
import os
import signal
from collections import Counter
from functools import partial

import pytest

from nnlo.errors import CheckpointError, ConfigError
from nnlo.optimize.conductor import Conductor
from nnlo.optimize.dimensions import Integer
from nnlo.optimize.fold_race import FoldRace
from nnlo.optimize.pruning import Asha, Median
from nnlo.optimize.searcher import make_searcher
from nnlo.optimize.space import Space
from nnlo.optimize.study import unlike
from nnlo.optimize.table import best_first, pareto_front
from nnlo.optimize.wire import PartEnd
from tests.optimize.acted import SPACE, Actor, events, fall, params_of, prepared, searched, states


def fails(*trials, kind="error", reason="ValueError: no"):
    """The code of a model that fails in those trials."""

    def at(part, epoch):
        if part.trial in trials or not trials:
            return PartEnd("failed", part.fold or 0, reason=reason, kind=kind)
        return None

    return at


def signals(trial, epoch, number=signal.SIGUSR1):
    """A signal comes while a trial is in an epoch."""

    def at(part, now):
        if (part.trial, now) == (trial, epoch):
            os.kill(os.getpid(), number)

    return at


def timed(monkeypatch, now):
    """The search looks at ``now[0]`` in place of a clock."""
    made = partial(Conductor, clock=lambda: now[0])
    monkeypatch.setattr("nnlo.optimize.search.Conductor", made)


# One search -----------------------------------------------------------------------------------


def test_every_trial_is_trained_once_and_the_best_comes_first(tmp_path):
    actor = Actor()
    search = searched(tmp_path, actor)
    assert states(search) == ["finished"] * 6
    assert set(actor.trained) == {(trial, None, e) for trial in range(6) for e in (1, 2, 3)}
    assert actor.n_repeated() == 0
    best = best_first(search.trials.rows)[0]
    assert best.merit == min(fall(params, 3)[0] for params in params_of(search))
    assert search.reason == "all trials are done"


def test_the_same_seed_gives_the_same_search_and_another_one_not(tmp_path):
    found = [
        params_of(searched(tmp_path / f"{i}", Actor(), seed=seed, searcher="bayesian"))
        for i, seed in enumerate((5, 5, 6))
    ]
    assert found[0] == found[1] != found[2]


def test_every_proposal_can_be_proposed_again_from_the_log(tmp_path):
    search = searched(tmp_path, Actor(), 12, searcher="bayesian", pruner=Asha(3))
    assert unlike(search.records(), make_searcher("bayesian", SPACE, 0)) == []


def test_curves_and_checkpoints_are_in_the_table(tmp_path):
    trial = searched(tmp_path, Actor(), 1).trials[0]
    assert trial.curve == {epoch: fall(trial.params, epoch)[0] for epoch in (1, 2, 3)}
    assert trial.saved_epoch == 3
    assert trial.files == {"model": "f"}


def test_a_finite_space_ends_the_search(tmp_path):
    space = Space((Integer("x", 1, 4),))
    search = searched(tmp_path, Actor(), 10, space=space)
    assert sorted(params["x"] for params in params_of(search)) == [1, 2, 3, 4]
    assert search.reason == "the space is exhausted"


def test_a_search_is_told_record_by_record(tmp_path):
    heard = []
    search = searched(tmp_path, Actor(), 2, hear=lambda record, _: heard.append(record))
    assert heard == events(search)[1:]  # the header is there before


# What goes wrong ------------------------------------------------------------------------------


def test_a_failed_trial_does_not_end_the_search(tmp_path):
    search = searched(tmp_path, Actor(at=fails(1, 3)))
    assert Counter(states(search)) == {"finished": 4, "failed": 2}
    assert (search.trials[1].kind, search.trials[1].reason) == ("error", "ValueError: no")


def test_three_errors_in_a_row_end_the_search_with_their_reason(tmp_path):
    search = searched(tmp_path, Actor(at=fails()))
    assert states(search) == ["failed"] * 3
    assert "3 trials in a row failed by an error" in search.reason
    assert "ValueError: no" in search.reason


def test_infeasible_parameters_end_it_after_ten(tmp_path):
    search = searched(tmp_path, Actor(at=fails(kind="infeasible")), 40)
    assert states(search) == ["failed"] * 10


def test_a_total_of_failures_may_end_it_before(tmp_path):
    search = searched(tmp_path, Actor(at=fails(0, 2)), limits={"max_failures": 2})
    assert states(search) == ["failed", "finished", "failed"]


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_merit_that_is_no_number_fails_the_trial_at_once(tmp_path, epoch):
    def merit(params, now, fold):
        return (math.nan,) if now >= epoch else fall(params, now)

    actor = Actor(merit=merit)
    search = searched(tmp_path, actor, 2)
    assert {trial.kind for trial in search.trials.rows} == {"nan"}
    assert actor.trained.total() == 2 * epoch


def test_a_trial_that_takes_too_long_is_failed_and_left(tmp_path, monkeypatch):
    now = [0.0]

    def at(part, epoch):
        now[0] += 10.0 if part.trial == 0 else 0.1

    actor = Actor(epochs=5, at=at)
    search = prepared(tmp_path, actor, 2, limits={"trial_s": 15.0})
    timed(monkeypatch, now)
    search.run()
    assert states(search) == ["failed", "finished"]
    assert search.trials[0].kind == "timeout"
    assert actor.trained[0, None, 3] == 0


def test_the_last_trial_may_take_too_long(tmp_path, monkeypatch):
    now = [0.0]

    def at(part, epoch):
        now[0] += 10.0 if part.trial == 1 else 0.1

    search = prepared(tmp_path, Actor(epochs=5, at=at), 2, limits={"trial_s": 15.0})
    timed(monkeypatch, now)
    search.run()
    assert states(search) == ["finished", "failed"]
    assert [record["event"] for record in events(search)][-2:] == ["failed", "ended"]


def test_the_disk_of_the_log_may_be_full(tmp_path, monkeypatch):
    search = prepared(tmp_path, Actor())

    def append(self, *records):
        raise CheckpointError("the log must be written, got a full disk; free space")

    monkeypatch.setattr("nnlo.optimize.study.Study.append", append)
    with pytest.raises(CheckpointError):
        search.run()


def test_a_second_search_in_a_folder_is_refused(tmp_path):
    searched(tmp_path, Actor(), 1)
    with pytest.raises(ConfigError, match="opt-restore"):
        searched(tmp_path, Actor(), 1)


# Limits ---------------------------------------------------------------------------------------


def test_a_target_ends_the_search(tmp_path):
    actor = Actor(merit=lambda params, epoch, fold: (0.5,))
    search = searched(tmp_path, actor, limits={"target": 0.5})
    assert states(search) == ["finished"]
    assert "reached the target" in search.reason


def test_the_time_of_a_search_suspends_what_runs(tmp_path, monkeypatch):
    now = [0.0]

    def at(part, epoch):
        now[0] += 1.0

    search = prepared(tmp_path, Actor(at=at), limits={"deadline": 4.5})
    timed(monkeypatch, now)
    search.run()
    assert states(search) == ["finished", "waiting"]
    assert search.trials[1].saved_epoch == 2
    assert search.interrupted == ""


def test_a_trial_whose_last_epoch_is_over_is_not_suspended(tmp_path, monkeypatch):
    now = [0.0]

    def at(part, epoch):
        now[0] += 1.0

    search = prepared(tmp_path, Actor(at=at), limits={"deadline": 3.0})
    timed(monkeypatch, now)
    search.run()
    assert states(search) == ["finished"]
    assert search.reason == "the time for the search is over"


# Early ends -----------------------------------------------------------------------------------


def test_a_promoted_trial_goes_on_from_its_checkpoint(tmp_path):
    actor = Actor(epochs=9)
    search = searched(tmp_path, actor, 12, pruner=Asha(9, exempt=0))
    again = [(trial, start) for trial, start in actor.began if start]
    assert again
    assert {start for _, start in again} <= {1, 3}
    assert actor.n_repeated() == 0
    assert "finished" in states(search)
    assert actor.trained.total() < 0.5 * 9 * 12


def test_paused_trials_keep_their_state_at_the_end(tmp_path):
    search = searched(tmp_path, Actor(epochs=9), 12, pruner=Asha(9, exempt=0))
    assert set(states(search)) == {"finished", "paused"}
    assert {t.epochs for t in search.trials.rows if t.state == "paused"} <= {1, 3}


def test_trials_below_the_median_are_stopped(tmp_path):
    actor = Actor(epochs=4)
    search = searched(tmp_path, actor, 30, pruner=Median(4))
    assert Counter(states(search)).keys() == {"finished", "stopped"}
    stopped = [one.merit for one in search.trials.rows if one.state == "stopped"]
    best = best_first(search.trials.rows)[0]
    assert min(stopped) > best.merit


def test_a_trial_that_has_all_its_epochs_is_not_stopped(tmp_path):
    def cross(params, epoch, fold):
        return (params["x"] if epoch == 4 else -params["x"],)

    search = searched(tmp_path, Actor(4, cross), 30, pruner=Median(4))
    assert {one.epochs for one in search.trials.rows if one.state == "stopped"} <= {2, 3}


# Several merits, the best once more -----------------------------------------------------------


def test_several_merits_have_a_front(tmp_path):
    actor = Actor(merit=lambda params, epoch, fold: (params["x"], 1.0 - params["x"]))
    search = searched(tmp_path, actor, merit_names=("one", "two"))
    assert len(pareto_front(search.trials.rows)) == 6
    assert search.trials[0].merits == (params_of(search)[0]["x"], 1 - params_of(search)[0]["x"])


def test_the_best_is_trained_once_more(tmp_path):
    actor = Actor()
    search = searched(tmp_path, actor, refit_epochs=lambda trial: 10 + trial.number)
    best = best_first(search.trials.rows)[0]
    assert actor.refits == [10 + best.number]
    assert search.refit == PartEnd("done", epochs=10 + best.number, files={"model": "refit"})


def test_a_signal_in_the_last_training_is_known_and_that_is_done_later(tmp_path):
    def at(part, epoch):
        return PartEnd("interrupted", reason="interruption (SIGTERM)") if epoch == 0 else None

    actor = Actor(at=at)
    how = {"n_trials": 2, "refit_epochs": lambda trial: 5}
    assert searched(tmp_path, actor, **how).interrupted == "interruption (SIGTERM)"
    actor.at = lambda part, epoch: None
    search = searched(tmp_path, actor, restores=True, **how)
    assert search.refit.state == "done"
    assert (actor.refits, actor.n_repeated()) == ([5, 5], 0)


def test_nothing_is_trained_once_more_where_all_failed(tmp_path):
    search = searched(tmp_path, Actor(at=fails()), refit_epochs=lambda trial: 1)
    assert search.refit is None


# Folds one after another ----------------------------------------------------------------------


def test_folds_run_one_after_another_and_are_joined(tmp_path):
    actor = Actor()
    trial = searched(tmp_path, actor, 1, n_folds=3, pruner=FoldRace(3)).trials[0]
    merits = [fall(trial.params, 3, fold)[0] for fold in range(3)]
    assert [trial.metrics[f"fold_{i}"] for i in (1, 2, 3)] == pytest.approx(merits)
    assert trial.merit == pytest.approx(sum(merits) / 3)
    assert trial.curve[2] == pytest.approx(sum(merits[:2]) / 2)
    assert actor.trained.total() == 3 * 3


def test_a_failed_fold_ends_its_trial(tmp_path):
    def at(part, epoch):
        return fails(0)(part, epoch) if part.fold == 1 else None

    actor = Actor(at=at)
    search = searched(tmp_path, actor, 2, n_folds=3, pruner=FoldRace(3))
    assert states(search) == ["failed", "finished"]
    assert actor.trained[0, 2, 1] == 0


def test_hopeless_trials_are_left_after_some_folds(tmp_path):
    def merit(params, epoch, fold):
        return (params["x"] + 0.001 * fold,)

    actor = Actor(merit=merit)
    search = searched(tmp_path, actor, 10, n_folds=4, pruner=FoldRace(4))
    assert "stopped" in states(search)
    best = best_first(search.trials.rows)[0]
    assert best.params["x"] == min(params["x"] for params in params_of(search))
    assert actor.trained.total() < 10 * 4 * 3


# Interruption and restore ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_suspends_what_runs(tmp_path, number):
    before = signal.getsignal(number)
    actor = Actor(at=signals(2, 2, number))
    search = searched(tmp_path, actor, refit_epochs=lambda trial: 1)
    assert states(search) == ["finished", "finished", "waiting"]
    assert search.interrupted == search.reason == f"interruption ({number.name})"
    assert search.refit is None
    assert signal.getsignal(number) is before


def test_a_signal_that_the_training_has_caught_is_known_to_the_search(tmp_path):
    def at(part, epoch):
        if part.trial == 1:
            return PartEnd("interrupted", reason="interruption (SIGTERM)")
        return None

    search = searched(tmp_path, Actor(at=at), refit_epochs=lambda trial: 1)
    assert states(search) == ["finished", "waiting"]
    assert search.interrupted == "interruption (SIGTERM)"
    assert search.refit is None


@pytest.mark.parametrize("pruner", [None, Asha(3), Median(3)])
@pytest.mark.parametrize("searcher", ["random", "bayesian"])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path, searcher, pruner):
    how = {"n_trials": 8, "searcher": searcher, "pruner": pruner}
    whole = searched(tmp_path / "a", Actor(), **how)
    actor = Actor(at=signals(3, 1))
    searched(tmp_path / "b", actor, **how)
    actor.at = lambda part, epoch: None
    search = searched(tmp_path / "b", actor, restores=True, **how)
    assert params_of(search) == params_of(whole)
    assert states(search) == states(whole)
    assert actor.n_repeated() == 0


def test_a_trial_that_is_done_when_the_signal_comes_has_finished(tmp_path):
    search = searched(tmp_path, Actor(at=signals(1, 3)))
    assert states(search) == ["finished", "finished"]


def test_more_trials_may_be_asked_for(tmp_path):
    actor = Actor()
    searched(tmp_path, actor, 3)
    search = searched(tmp_path, actor, 5, restores=True)
    assert states(search) == ["finished"] * 5
    assert actor.n_repeated() == 0


class Kill(BaseException):
    """Of the process."""


@pytest.mark.parametrize("pruner", [None, Asha(3, exempt=0)])
def test_a_search_killed_at_any_record_goes_on(tmp_path, pruner):
    how = {"n_trials": 5, "searcher": "bayesian", "pruner": pruner}
    whole = searched(tmp_path / "whole", Actor(), **how)
    log = (tmp_path / "whole" / "study.log").read_bytes().splitlines(keepends=True)
    for n in range(len(log)):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "study.log").write_bytes(b"".join(log[:n]))
        over = {one["trial"] for one in map(json.loads, log[:n]) if one["event"] == "finished"}
        actor = Actor()
        search = searched(folder, actor, restores=True, **how)
        assert over.isdisjoint(trial for trial, _ in actor.began)
        assert params_of(search) == params_of(whole)
        assert states(search) == states(whole)


def test_a_search_killed_in_any_epoch_goes_on_from_its_checkpoint(tmp_path):
    whole = searched(tmp_path / "whole", Actor(), 3)
    for trial in range(3):
        for epoch in (1, 2, 3):
            folder, actor = tmp_path / f"{trial}-{epoch}", Actor(at=killed(trial, epoch))
            with pytest.raises(Kill):
                searched(folder, actor, 3)
            actor.at = lambda part, epoch: None
            search = searched(folder, actor, 3, restores=True)
            assert params_of(search) == params_of(whole)
            assert actor.n_repeated() == 1  # the epoch in which it was killed


def killed(trial, epoch):
    def at(part, now):
        if (part.trial, now) == (trial, epoch):
            raise Kill

    return at


def test_folds_that_were_done_are_not_lost_by_a_signal(tmp_path):
    how = {"n_trials": 2, "n_folds": 3, "pruner": FoldRace(3)}
    whole = searched(tmp_path / "a", Actor(), **how)

    def at(part, epoch):
        if (part.trial, part.fold, epoch) == (0, 1, 2):
            os.kill(os.getpid(), signal.SIGTERM)

    actor = Actor(at=at)
    searched(tmp_path / "b", actor, **how)
    actor.at = lambda part, epoch: None
    search = searched(tmp_path / "b", actor, restores=True, **how)
    assert [one.merit for one in search.trials.rows] == [one.merit for one in whole.trials.rows]
    assert actor.n_repeated() == 0
