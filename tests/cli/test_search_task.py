"""Trials trained for real, by the options of a search: a tiny model, in one process."""

import json
import logging
from dataclasses import replace

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nnlo.cli.config_file import pairs  # noqa: E402
from nnlo.cli.optimize_options import OptimizeOptions  # noqa: E402
from nnlo.cli.search_plan import make_folds, make_measure, make_space  # noqa: E402
from nnlo.cli.search_task import (  # noqa: E402
    PAUSE,
    Logged,
    Measure,
    TrialTask,
    training_options,
)
from nnlo.errors import ConfigError  # noqa: E402
from nnlo.history import History  # noqa: E402
from nnlo.log import set_up  # noqa: E402
from nnlo.model import load_builder  # noqa: E402
from nnlo.optimize.attempt import Attempt, Part  # noqa: E402
from tests.optimize.test_attempt import Voice  # noqa: E402

MODEL = """
from skopt.space import Integer
from torch import nn

def get_model(width=4):
    if width == 13:
        raise ValueError("thirteen")
    if width == 14:
        raise MemoryError("fourteen")
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

get_model.parameter_range = [Integer(2, 16, name="width")]

def get_loss():
    return "categorical_crossentropy"
"""
N_FILES, N_SAMPLES = 3, 20


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Files to train on, and one to validate on."""
    folder, files = tmp_path_factory.mktemp("data"), []
    for number in range(N_FILES + 1):
        rng = np.random.default_rng(number)
        x = rng.normal(size=(N_SAMPLES, 3)).astype(np.float32)
        files.append(str(folder / f"{number}.h5"))
        with h5py.File(files[-1], "w") as file:
            file["features"] = x
            file["labels"] = np.eye(2, dtype=np.float32)[(x[:, 0] > 0).astype(int)]
    return files[:N_FILES], files[N_FILES:]


def made(tmp_path, lists, *, has_val=True, **options):
    """The task of a search."""
    file = tmp_path / "tiny.py"
    file.write_text(MODEL)
    batch = {} if "tune" in options else {"batch": 10}
    chosen = OptimizeOptions(model=str(file), **{"epochs": 3} | batch | options)
    builder = load_builder(file, **pairs("--param", chosen.param))
    lists = lists if has_val else (lists[0], ())
    folds = make_folds(chosen, builder, lists[0])
    measure, _ = make_measure(chosen, builder, has_val=bool(lists[1]))
    _, tuned = make_space(chosen, builder)
    return TrialTask(chosen, builder, tmp_path, tuned, lists, folds, measure)


def train(task, voice=None, params=None, **part):
    """The end of a part, and its folder."""
    about = {"trial": 3, "params": params or {"width": 4}, "comm": None} | part
    folder = task.root / "trials" / "trial-0003"
    part = Part(**{"folder": folder} | about)
    return Attempt(task)(part, voice or Voice()), part.folder


def test_a_trial_leaves_a_run_folder_with_its_parameters(tmp_path, lists):
    end, folder = train(made(tmp_path, lists))
    assert (end.state, end.epochs) == ("done", 3)
    assert end.files == {"model": "trials/trial-0003/best.pt"}
    assert json.loads((folder / "params.json").read_text()) == {"trial": 3, "params": {"width": 4}}
    names = {path.name for path in folder.iterdir()}
    assert names >= {"history.json", "model.pt", "best.pt", "weights.npz", "outcome.json"}
    assert "checkpoints" not in names


def test_parameters_are_arguments_of_the_model_or_options(tmp_path, lists):
    task = made(tmp_path, lists, tune=("batch=5,15", "learning_rate=0.1,0.2"))
    params = {"width": 7, "batch": 15, "learning_rate": 0.2}
    manager = task.make_manager(Part(0, params, None, tmp_path / "t"), ())
    manager.prepare()
    assert manager.adapter.manifest.n_trainable == 3 * 7 + 7 + 7 * 2 + 2
    assert manager.algo.learning_rate == 0.2
    assert next(manager._job.data.epoch(0))[0].shape == (15, 3)


def test_a_fixed_argument_goes_to_every_trial(tmp_path, lists):
    task = made(tmp_path, lists, param=("width=9",), tune=("batch=5,15",))
    manager = task.make_manager(Part(0, {"batch": 5}, None, tmp_path / "t"), ())
    manager.prepare()
    assert manager.adapter.manifest.n_trainable == 3 * 9 + 9 + 9 * 2 + 2


def test_the_merit_is_that_of_the_history_on_disk(tmp_path, lists):
    end, folder = train(made(tmp_path, lists))
    epochs = json.loads((folder / "history.json").read_text())["epochs"]
    assert end.merits == (pytest.approx(min(1 - one["val_accuracy"] for one in epochs)),)


def test_the_size_of_a_model_may_be_a_merit(tmp_path, lists):
    end, _ = train(made(tmp_path, lists, merit="val_loss,n_weights"), params={"width": 4})
    assert end.merits[1] == 3 * 4 + 4 + 4 * 2 + 2


@pytest.mark.parametrize("pruning", ["asha", "none"])
def test_only_what_may_be_paused_or_is_asked_for_leaves_checkpoints(tmp_path, lists, pruning):
    task = made(tmp_path, lists, pruning=pruning)
    _, folder = train(task, Voice("pause", 8))
    assert (folder / "checkpoints").exists() == (pruning == "asha") == task.is_saved(1)
    if pruning == "asha":
        assert all(path.name.startswith(PAUSE) for path in (folder / "checkpoints").iterdir())


def test_checkpoints_are_written_where_the_options_say(tmp_path, lists):
    task = made(tmp_path, lists, checkpoint="CP", checkpoint_interval=2, epochs=4)
    _, folder = train(task)
    assert [task.is_saved(epoch) for epoch in (1, 2, 3, 4)] == [False, True, False, True]
    assert all(path.name.startswith("CP") for path in (folder / "checkpoints").iterdir())


def test_a_file_of_the_name_of_the_checkpoints_does_not_join_the_trials(
    tmp_path, lists, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CP").write_text("of the user")
    _, folder = train(made(tmp_path, lists, checkpoint="CP", checkpoint_interval=1))
    assert (folder / "checkpoints").exists()
    assert [path.name for path in tmp_path.glob("CP*")] == ["CP"]


@pytest.mark.parametrize("options", [{"pruning": "asha"}, {"checkpoint": "CP"}])
def test_a_paused_trial_ends_as_if_it_had_not_been_paused(tmp_path, lists, options):
    task = made(tmp_path, lists, **options)
    whole, _ = train(task, folder=tmp_path / "whole")
    voice = Voice("pause", 8)
    assert train(task, voice)[0].state == "left"
    again = Voice()
    end, _ = train(task, again, from_epoch=1)
    assert (voice.epochs, again.epochs) == ([1], [2, 3])
    assert end.merits == whole.merits
    assert {**end.metrics, **TIMES} == {**whole.metrics, **TIMES}


TIMES = {"time_s": 0.0, "samples_per_s": 0.0}


def test_validation_may_be_rarer_than_epochs(tmp_path, lists):
    voice = Voice()
    end, _ = train(made(tmp_path, lists, validate_every=2, epochs=5), voice)
    assert (end.state, voice.epochs) == ("done", [2, 4, 5])


@pytest.mark.parametrize("fold_by", ["samples", "files"])
def test_a_fold_is_trained_on_the_others_and_judged_on_its_own(tmp_path, lists, fold_by):
    task = made(tmp_path, lists, n_fold=3, fold_by=fold_by, has_val=False)
    ends = [train(task, fold=fold, folder=tmp_path / f"fold-{fold + 1}")[0] for fold in range(3)]
    assert [end.fold for end in ends] == [0, 1, 2]
    assert [end.files for end in ends] == [{f"model_{n}": f"fold-{n}/best.pt"} for n in (1, 2, 3)]
    counts = [json.loads((tmp_path / f"fold-{n}" / "history.json").read_text()) for n in (1, 2, 3)]
    assert all(one["epochs"][0]["samples"] == 40 for one in counts)
    assert len({end.merits for end in ends}) > 1 or ends[0].merits[0] < 0.1


def test_a_refit_takes_all_files_and_asks_for_no_validation(tmp_path, lists):
    task = made(tmp_path, lists, target_metric="val_loss,<,1e9", pruning="asha", checkpoint="CP")
    end, folder = train(task, refit_epochs=2, folder=tmp_path / "refit")
    history = json.loads((folder / "history.json").read_text())
    assert (end.state, len(history["epochs"])) == ("done", 2)
    assert history["epochs"][0]["samples"] == (N_FILES + 1) * N_SAMPLES
    assert "val_loss" not in history["epochs"][0]
    assert end.files == {"model": "refit/model.pt"}
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("width", "kind", "reason"),
    [(13, "error", "ValueError: thirteen"), (14, "infeasible", "fourteen")],
)
def test_a_model_that_cannot_be_made_is_a_failure_with_its_reason(
    tmp_path, lists, width, kind, reason
):
    end, _ = train(made(tmp_path, lists), params={"width": width})
    assert (end.state, end.kind) == ("failed", kind)
    assert reason in end.reason


def test_a_trial_that_takes_too_much_memory_is_infeasible(tmp_path, lists):
    end, _ = train(made(tmp_path, lists, trial_memory=0.001))
    assert (end.state, end.kind) == ("failed", "infeasible")
    assert "--trial-memory 0.001 GiB" in end.reason


def test_data_that_is_gone_is_an_error_of_the_trial(tmp_path, lists):
    task = made(tmp_path, lists)
    task = replace(task, lists=(["/none.h5"], ()))
    end, _ = train(task)
    assert (end.state, end.kind) == ("failed", "error")
    assert "/none.h5" in end.reason


def test_options_that_do_not_go_together_in_a_trial_are_told(tmp_path, lists):
    task = made(tmp_path, lists, tune=("batch=5,15",))
    with pytest.raises(ConfigError, match="--batch must be at least 1"):
        training_options(task.options, {"batch": 0}, task.tuned)


def test_the_log_of_a_trial_is_in_its_folder(tmp_path, lists):
    set_up("search", shown="error")
    attempt = Logged(Attempt(made(tmp_path, lists)), "block 1, rank 1")
    folder = tmp_path / "t"
    attempt(Part(0, {"width": 13}, None, folder), Voice())
    text = (folder / "log.txt").read_text()
    assert "[block 1, rank 1] INFO failed (error): Traceback" in text
    assert "ValueError: thirteen" in text
    logging.getLogger("nnlo").handlers.clear()


def test_a_figure_of_merit_has_as_many_names_as_numbers(tmp_path):
    measure = Measure(None, lambda history: (1.0, 2.0), ("figure_of_merit",))
    with pytest.raises(ConfigError, match=r"as many numbers as it has names, .* got 2"):
        measure(History(), None)


def test_trials_are_of_the_model_that_the_search_began_with(tmp_path, lists):
    task = made(tmp_path, lists)
    task.builder.module  # noqa: B018 (runs the file)
    (tmp_path / "tiny.py").write_text("raise ValueError('half written')")
    end, _ = train(task)
    assert end.state == "done"


def test_callbacks_that_watch_a_validation_are_not_of_a_training_on_all_data(tmp_path, lists):
    task = made(tmp_path, lists, callbacks=("early_stopping:patience=2",))
    end, _ = train(task, refit_epochs=1)
    assert (end.state, end.reason) == ("done", "")


def test_a_folder_that_cannot_be_made_is_a_failed_trial(tmp_path, lists):
    (tmp_path / "trials").touch()
    attempt = Logged(Attempt(made(tmp_path, lists)), "search")
    end = attempt(Part(0, {"width": 3}, None, tmp_path / "trials" / "t"), Voice())
    assert end.state == "failed"
    assert "trials" in end.reason
