"""What a search leaves: the best trial ready for use, tables, and a folder that stays small."""

import errno
import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from nnlo.cli import search_results
from nnlo.cli.config_file import pairs
from nnlo.cli.options import parse
from nnlo.cli.search_results import SearchResults
from nnlo.cli.train_options import TrainOptions
from nnlo.errors import ConfigError
from nnlo.optimize.block import part_folder
from nnlo.optimize.trials import Trial, Trials
from tests.report.test_search_plots import results as course_of

MODELS = (
    "model.keras",
    "model-generator.keras",
    "model-critic.weights.h5",
    "best.keras",
    "best.pt",
    "weights.npz",
    "best.weights.npz",
)
KILL = KeyboardInterrupt


def table(*rows: Trial) -> Trials:
    trials = Trials()
    trials.rows.extend(rows)
    return trials


def trial(root: Path, number: int, *merits: float, state="finished", folds=0, **fields) -> Trial:
    """A trial and its files, each of which holds its number."""
    for part in [f"fold-{k}" for k in range(1, folds + 1)] or ["."]:
        folder = part_folder(root, number) / part
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "CP-00001.npz").touch()
        for name in (*MODELS, "history.json", "log.txt", ".lock"):
            (folder / name).write_text(str(number))
    merit = merits[0] if merits else None
    given = {"params": {"width": number}, "merit": merit, "state": state, "epochs": 3} | fields
    return Trial(number, merits=merits if len(merits) > 1 else (), **given)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def having_models(root: Path) -> list[int]:
    return [int(path.parent.name[-4:]) for path in sorted(root.glob("trials/*/best.keras"))]


def of(root: Path, **options) -> SearchResults:
    return SearchResults(root, {"model": "digits"}, **options)


def full(*_args, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


LEFT = {"history.json", "log.txt", ".lock"}


def test_checkpoints_go_and_models_of_the_best_stay(tmp_path):
    trials = table(*(trial(tmp_path, i, merit) for i, merit in enumerate((0.5, 0.1, 0.3, 0.2))))
    of(tmp_path, keep=2).tidy(trials)
    assert having_models(tmp_path) == [1, 3]
    assert files(part_folder(tmp_path, 0)) == LEFT
    assert files(part_folder(tmp_path, 1)) == {*LEFT, *MODELS}
    assert not list(tmp_path.glob("trials/*/checkpoints"))


def test_a_better_trial_takes_the_place_of_a_worse_one(tmp_path):
    results, trials, kept = of(tmp_path, keep=2), table(), []
    for number, merit in enumerate((0.5, 0.4, 0.6, 0.3, 0.4)):
        trials.rows.append(trial(tmp_path, number, merit))
        results.tidy(trials)
        kept.append(having_models(tmp_path))
    assert kept == [[0], [0, 1], [0, 1], [1, 3], [1, 3]]


@pytest.mark.parametrize("seed", range(5))
def test_tidied_by_and_by_or_at_once_the_same_stays(tmp_path, seed):
    merits = np.random.default_rng(seed).integers(0, 9, (30, 2)).tolist()
    for root in (tmp_path / "steps", tmp_path / "once"):
        trials, results = table(), of(root, keep=3)
        for number, pair in enumerate(merits):
            trials.rows.append(trial(root, number, *pair))
            if root.name == "steps":
                results.tidy(trials)
        of(root, keep=3).tidy(trials)
    assert having_models(tmp_path / "steps") == having_models(tmp_path / "once")


def test_the_whole_pareto_front_keeps_its_models(tmp_path):
    merits = ((0.1, 0.9), (0.5, 0.5), (0.9, 0.1), (0.6, 0.6), (0.9, 0.9))
    of(tmp_path, keep=1).tidy(table(*(trial(tmp_path, i, *m) for i, m in enumerate(merits))))
    assert having_models(tmp_path) == [0, 1, 2]


def test_folds_are_tidied_up_too(tmp_path):
    of(tmp_path, keep=1).tidy(
        table(trial(tmp_path, 0, 0.5, folds=2), trial(tmp_path, 1, 0.1, folds=2))
    )
    folds = ("fold-1", "fold-2")
    assert files(part_folder(tmp_path, 0)) == {f"{k}/{name}" for k in folds for name in LEFT}
    best = files(part_folder(tmp_path, 1))
    assert best == {f"{k}/{name}" for k in folds for name in (*LEFT, *MODELS)}


@pytest.mark.parametrize("state", ["running", "waiting", "paused"])
def test_a_trial_that_may_go_on_keeps_all(tmp_path, state):
    trials = table(trial(tmp_path, 0, 0.5, state=state))
    before = files(tmp_path)
    of(tmp_path).finish(trials)
    assert before <= files(tmp_path)


def test_a_stopped_trial_is_left_alone_while_its_block_may_still_write(tmp_path):
    stopped = trial(tmp_path, 0, 0.5, state="stopped", block=3)
    results, before = of(tmp_path), files(part_folder(tmp_path, 0))
    results.tidy(table(stopped))
    assert files(part_folder(tmp_path, 0)) == before
    results.tidy(table(stopped, Trial(1, {}, "running", block=3)))
    assert files(part_folder(tmp_path, 0)) == LEFT


def test_at_the_end_failed_and_stopped_trials_are_bare(tmp_path):
    states = ("stopped", "failed")
    of(tmp_path).finish(table(*(trial(tmp_path, i, state=s) for i, s in enumerate(states))))
    assert files(tmp_path / "trials") == {f"trial-000{i}/{name}" for i in (0, 1) for name in LEFT}


def test_what_cannot_be_removed_is_a_warning(tmp_path, monkeypatch, caplog):
    trials = table(trial(tmp_path, 0, 0.5), trial(tmp_path, 1, 0.1))
    monkeypatch.setattr("shutil.rmtree", full)
    of(tmp_path).tidy(trials)
    assert caplog.text.count("cannot be removed: [Errno 28]") == 2


def test_a_folder_that_is_not_there_is_nothing_to_tidy(tmp_path, caplog):
    of(tmp_path).tidy(table(Trial(0, {}, "failed"), Trial(1, {}, "finished", 0.5)))
    assert caplog.text == ""


def test_a_thousand_trials_are_tidied_with_a_look_or_two_at_each(tmp_path, monkeypatch):
    looks, trials, results = [], table(), of(tmp_path, keep=5)
    monkeypatch.setattr(search_results, "clear", lambda folder, **_: looks.append(folder))
    merits = np.random.default_rng(0).random((1000, 2)).tolist()
    begin = time.process_time()
    for number, pair in enumerate(merits):
        trials.rows.append(Trial(number, {}, "finished", pair[0], tuple(pair)))
        results.tidy(trials)
    assert time.process_time() - begin < 2.0
    assert 1000 <= len(looks) < 1100


def test_the_best_is_a_copy_with_what_it_is(tmp_path):
    trials = table(trial(tmp_path, 0, 0.5), trial(tmp_path, 1, 0.1, metrics={"val_acc": 0.9}))
    best = of(tmp_path).write_best(trials)
    assert best == tmp_path / "best"
    assert files(best) == {*MODELS, "history.json", "config.yaml", "trial.json"}
    about = json.loads((best / "trial.json").read_text())
    assert (about["number"], about["params"], about["merit"]) == (1, {"width": 1}, 0.1)
    assert (about["metrics"], about["epochs"]) == ({"val_acc": 0.9}, 3)
    assert (best / "best.keras").read_text() == "1"
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_best_of_folds_has_all_folds(tmp_path):
    best = of(tmp_path).write_best(table(trial(tmp_path, 0, 0.5, folds=3)))
    assert {f"fold-{k}/best.keras" for k in (1, 2, 3)} <= files(best)


def test_only_a_finished_trial_is_the_best(tmp_path):
    trials = table(trial(tmp_path, 0, 0.1, state="stopped"))
    assert of(tmp_path).write_best(trials) is None
    trials.rows.append(trial(tmp_path, 1, 0.5))
    best = of(tmp_path).write_best(trials)
    assert json.loads((best / "trial.json").read_text())["number"] == 1


def test_of_several_merits_the_best_is_on_the_front(tmp_path):
    merits = ((0.1, 0.9), (0.1, 0.5), (0.9, 0.1))
    best = of(tmp_path).write_best(table(*(trial(tmp_path, i, *m) for i, m in enumerate(merits))))
    assert json.loads((best / "trial.json").read_text())["merits"] == [0.1, 0.5]


def test_the_best_is_written_only_when_it_has_changed(tmp_path):
    results, trials = of(tmp_path), table(trial(tmp_path, 0, 0.5))
    results.write_best(trials)
    first = (tmp_path / "best").stat().st_ino
    trials.rows.append(trial(tmp_path, 1, 0.9))
    of(tmp_path).write_best(trials)
    assert (tmp_path / "best").stat().st_ino == first
    trials.rows.append(trial(tmp_path, 2, 0.1))
    results.write_best(trials)
    assert (tmp_path / "best" / "model.keras").read_text() == "2"


@pytest.mark.parametrize("when", range(20))
def test_a_kill_at_any_step_leaves_one_trial_or_none(tmp_path, monkeypatch, when):
    results, trials = of(tmp_path), table(trial(tmp_path, 0, 0.5))
    results.write_best(trials)
    trials.rows.append(trial(tmp_path, 1, 0.1))
    with monkeypatch.context() as patch:
        dies_at(patch, when)
        try:
            results.write_best(trials)
        except KILL:
            seen = {path.read_text() for path in (tmp_path / "best").glob("[bmw]*.*")}
            assert seen in ({"0"}, {"1"}, set())
    results.write_best(trials)
    assert {path.read_text() for path in (tmp_path / "best").glob("[bmw]*.*")} == {"1"}
    assert {path.name for path in tmp_path.iterdir()} == {"trials", "best"}


def dies_at(patch, when: int) -> None:
    """From the ``when``-th change of a name on the process is dead: nothing is done any more."""
    n_done = 0

    def dying(function):
        def step(*args, **options):
            nonlocal n_done
            n_done += 1
            if n_done > when:
                raise KILL
            return function(*args, **options)

        return step

    for name in ("rename", "replace"):
        patch.setattr(Path, name, dying(getattr(Path, name)))
    patch.setattr("shutil.rmtree", dying(shutil.rmtree))


def test_a_full_disk_leaves_the_old_best(tmp_path, monkeypatch):
    results, trials = of(tmp_path), table(trial(tmp_path, 0, 0.5))
    results.write_best(trials)
    trials.rows.append(trial(tmp_path, 1, 0.1))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        results.write_best(trials)
    assert (tmp_path / "best" / "model.keras").read_text() == "0"
    assert {path.name for path in tmp_path.iterdir()} == {"trials", "best"}


def test_a_folder_that_cannot_be_renamed_leaves_the_old_best(tmp_path, monkeypatch):
    results, trials = of(tmp_path), table(trial(tmp_path, 0, 0.5))
    results.write_best(trials)
    trials.rows.append(trial(tmp_path, 1, 0.1))
    put, rename = [], Path.rename

    def fails_once(self, target):
        put.append(target)
        return full() if len(put) == 2 else rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(OSError, match="No space left"):
        results.write_best(trials)
    assert (tmp_path / "best" / "model.keras").read_text() == "0"


def test_the_config_trains_with_exactly_the_parameters(tmp_path):
    options = {"model": "digits", "epochs": 7, "param": ("width=8", "depth=2"), "output": "out"}
    options |= {"checkpoint": "CP", "checkpoint_interval": 1, "restore": "CP", "block_size": 3}
    params = {"width": 3, "rate": 1e-05, "kind": "adam", "flag": True, "batch": 32, "how": "gem"}
    names = {"batch": "batch", "how": "mode"}
    results = SearchResults(tmp_path, options, lambda _: names, "found by a search")
    best = results.write_best(table(trial(tmp_path, 0, 0.5, params=params)))
    told = parse("TrainingDriver", TrainOptions, "", ["--config", str(best / "config.yaml")])
    assert (told.model, told.epochs, told.batch, told.mode) == ("digits", 7, 32, "gem")
    assert pairs("--param", told.param) == {
        "depth": 2, "width": 3, "rate": 1e-05, "kind": "adam", "flag": True
    }  # fmt: skip
    assert (told.output, told.trial_name) == ("out", "search-best")
    assert (told.checkpoint, told.checkpoint_interval, told.restore) == (None, 5, None)
    assert (best / "config.yaml").read_text().startswith("# found by a search\n")


def test_a_training_by_the_config_has_a_folder_of_its_own(tmp_path):
    results = SearchResults(tmp_path, {"model": "digits", "trial_name": "n3"})
    best = results.write_best(table(trial(tmp_path, 0, 0.5)))
    told = parse("TrainingDriver", TrainOptions, "", ["--config", str(best / "config.yaml")])
    assert told.trial_name == "n3-best"


def test_parameters_that_no_file_can_hold_are_a_warning(tmp_path, caplog):
    results, trials = of(tmp_path), table(trial(tmp_path, 0, 0.5, params={"kind": "1e3"}))
    best = results.write_best(trials)
    assert "trial 0 gets no config.yaml: a text in --param must not read as a" in caplog.text
    assert files(best) == {*MODELS, "history.json", "trial.json"}
    assert json.loads((best / "trial.json").read_text())["params"] == {"kind": "1e3"}
    assert "TrainingDriver" not in results.text(trials)


def test_after_each_trial_all_is_up_to_date(tmp_path):
    results, trials = of(tmp_path, keep=1), table(trial(tmp_path, 0, 0.5))
    results.update(trials)
    assert {path.name for path in tmp_path.iterdir()} == {
        "best", "trials", "trials.csv", "trials.json"
    }  # fmt: skip
    trials.rows.append(trial(tmp_path, 1, 0.1))
    results.update(trials)
    assert having_models(tmp_path) == [1]
    assert json.loads((tmp_path / "best" / "trial.json").read_text())["number"] == 1


def test_tables_of_long_searches_take_a_small_share_of_the_time(tmp_path, monkeypatch):
    results, clock, written = of(tmp_path), [0.0], []

    def write(_rows, _folder):
        written.append(clock[0])
        clock[0] += 0.05

    monkeypatch.setattr(search_results, "export", write)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    for second in range(100):
        clock[0] = max(clock[0], float(second))
        results.update(table())
    assert len(written) == 17  # 0.05 s each, 100 times as long apart


def test_a_full_disk_while_it_lasts_is_a_warning(tmp_path, monkeypatch, caplog):
    trials = table(trial(tmp_path, 0, 0.5), trial(tmp_path, 1, 0.1))
    monkeypatch.setattr("os.fsync", full)
    of(tmp_path, keep=1).update(trials)
    assert caplog.text.count("results cannot be written to") == 2
    assert having_models(tmp_path) == [1]


def test_at_the_end_each_step_is_tried_and_the_disk_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "trials.csv").mkdir()  # in the way
    records = course_of(0.5, 0.25).records
    trials = Trials(records)
    with pytest.raises(ConfigError, match=r"results must be written .*trials\.csv.*free space"):
        of(tmp_path).finish(trials, records, tensorboard=True)
    assert (tmp_path / "best" / "config.yaml").exists()
    assert (tmp_path / "plots" / "convergence.png").exists()
    assert (tmp_path / "tensorboard" / "trial-0001").is_dir()


def test_without_matplotlib_only_the_figures_are_missing(tmp_path, monkeypatch, caplog):
    records = course_of(0.5).records
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert "1 trial: 1 finished" in of(tmp_path).finish(Trials(records), records)
    assert "figures need matplotlib" in caplog.text
    assert not (tmp_path / "plots").exists()


def test_figures_and_events_are_written_only_if_asked_for(tmp_path):
    of(tmp_path).finish(Trials(course_of(0.5).records))
    assert {path.name for path in tmp_path.iterdir()} == {"best", "trials.csv", "trials.json"}


def test_the_text_tells_counts_best_reasons_and_what_to_type(tmp_path):
    root = tmp_path / "a b"
    rows = [trial(root, 0, 0.5), trial(root, 1, 0.125)]
    for number, reason in ((2, "no layer 7"), (3, "no layer 8"), (4, "its merit was nan")):
        kind = "nan" if number == 4 else "error"
        rows.append(trial(root, number, state="failed", reason=reason, kind=kind))
    text = of(root).finish(table(*rows))
    assert text.startswith("5 trials: 3 failed, 2 finished\n\ntrial  state     merit")
    assert "2 failed (error), trial 2, 3: no layer 7\n1 failed (nan), trial 4: its merit" in text
    assert f"best model, of trial 1: {root}/best/best.keras\n" in text
    assert text.endswith(f"parameters: TrainingDriver --config '{root}/best/config.yaml'")


def test_the_text_names_the_pareto_front(tmp_path):
    rows = [trial(tmp_path, 0, 0.9, 0.1), trial(tmp_path, 1, 0.1, 0.9), trial(tmp_path, 2, 1, 1)]
    assert "no other trial beats 0, 1 in all merits" in of(tmp_path).finish(table(*rows))


def test_a_search_without_a_finished_trial_says_so(tmp_path):
    text = of(tmp_path).finish(table())
    assert text == "0 trials: none asked\n\nno trial has finished, so there is no best model"


def test_at_least_one_model_is_kept(tmp_path):
    with pytest.raises(ConfigError, match="at least 1 trial must be kept, got 0"):
        of(tmp_path, keep=0)


@pytest.fixture(autouse=True)
def _logs(caplog):
    caplog.set_level(logging.WARNING)
