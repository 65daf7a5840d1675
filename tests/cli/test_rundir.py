"""The folder of a run: names, what is written, and disks that refuse."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnlo.cli.options import parse
from nnlo.cli.rundir import RunDirectory
from nnlo.cli.train_options import TrainOptions
from nnlo.errors import ConfigError
from nnlo.history import History
from tests.mpi.fakes import LinearModel


def finished(best=True):
    """What a manager holds after a run."""
    weights = np.float32([1, 2, 3, 4])
    history = History([{"epoch": 1, "loss": 0.5}], stopped="epochs")
    return SimpleNamespace(
        adapter=LinearModel(),
        history=history,
        weights=weights,
        best=weights + 1 if best else None,
        timeline={},
    )


def test_the_folder_is_named_after_model_and_trial(tmp_path):
    folder = RunDirectory(str(tmp_path / "runs"), "digits", "n3")
    assert folder.path == tmp_path / "runs" / "digits-n3"
    assert not (tmp_path / "runs").exists()
    folder.create()
    folder.create()
    assert [path.name for path in folder.path.iterdir()] == [".lock"]
    assert folder.log == folder.path / "log.txt"


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "/etc", "a\0b", "a\nb", "\ud800"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(ConfigError, match="--trial-name must give a name for a folder"):
        RunDirectory("runs", "digits", name)
    with pytest.raises(ConfigError, match="--model must give a name for a folder"):
        RunDirectory("runs", name, "train")


def test_an_output_that_cannot_be_written_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--output must be a folder that can be written, got"):
        RunDirectory(str(tmp_path / "file"), "digits", "train").create()
    (tmp_path / "digits-train").write_text("")
    with pytest.raises(ConfigError, match="name another folder"):
        RunDirectory(str(tmp_path), "digits", "train").create()


def test_a_full_disk_is_seen_before_the_run(tmp_path, monkeypatch):
    def fail(_number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    folder = RunDirectory(str(tmp_path), "digits", "train")
    with pytest.raises(ConfigError, match="No space left"):
        folder.create()
    assert [path.name for path in folder.path.iterdir()] == [".lock"]


def test_a_second_run_in_the_folder_is_refused_until_the_first_has_ended(tmp_path):
    first, second = (RunDirectory(str(tmp_path), "digits", "train") for _ in range(2))
    first.create()
    with pytest.raises(ConfigError, match=r"folder to itself, got .*digits-train, which process"):
        second.create(patience=0.2)
    RunDirectory(str(tmp_path), "digits", "other").create()
    first.close()
    second.create()
    second.close()


def test_what_a_killed_run_was_about_to_write_is_removed(tmp_path):
    folder = RunDirectory(str(tmp_path), "digits", "train")
    (folder.path / "checkpoints").mkdir(parents=True)
    (folder.path / "checkpoints" / ".CP-00001.npz.abcdefgh.part").touch()
    (folder.path / ".model.keras.abcdefgh.part").mkdir()
    (folder.path / ".model.keras.abcdefgh.part" / "model.keras").touch()
    (folder.path / "checkpoints" / "CP-00001.npz").touch()
    folder.create()
    found = sorted(path.name for path in folder.path.rglob("*"))
    assert found == [".lock", "CP-00001.npz", "checkpoints"]
    folder.close()


@pytest.mark.parametrize("name", ["/", "", ".", "a\0b"])
def test_a_checkpoint_without_a_name_is_refused(name):
    with pytest.raises(ConfigError, match="must be a name or a path"):
        RunDirectory("runs", "digits", "train").checkpoint(name)


def test_checkpoints_are_in_the_run_unless_a_path_says_otherwise(tmp_path):
    folder = RunDirectory(str(tmp_path), "digits", "train")
    assert folder.checkpoint(None) is None
    assert folder.checkpoint("CP") == folder.path / "checkpoints" / "CP"
    assert folder.checkpoint("./CP/x") == Path("CP/x")
    assert folder.checkpoint("/scratch/CP") == Path("/scratch/CP")


def test_the_config_says_what_was_asked_and_on_what_it_ran(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["TrainingDriver", "--model", "digits"])
    options = TrainOptions(model="digits", epochs=3, param=("a=1",))
    folder = RunDirectory(str(tmp_path), "digits", "train")
    folder.write_config(options, {"n_ranks": 3})
    content = json.loads((folder.path / "config.json").read_text())
    assert content["options"]["epochs"] == 3
    assert content["options"]["seed"] == 0
    assert content["command"] == ["TrainingDriver", "--model", "digits"]
    assert content["n_ranks"] == 3
    assert {"numpy", "keras", "mpi4py"} <= set(content["libraries"])
    again = parse("x", TrainOptions, "", ["--config", str(folder.path / "config.json")])
    assert again == options


@pytest.mark.parametrize("best", [True, False])
def test_the_results_are_the_history_and_the_models(best, tmp_path):
    folder = RunDirectory(str(tmp_path), "digits", "train")
    folder.create()
    manager = finished(best)
    file = folder.write_results(manager)
    assert file == folder.path / ("best.fake" if best else "model.fake")
    names = {".lock", "history.json", "model.fake", "weights.npz"}
    names |= {"best.fake", "best.weights.npz"} if best else set()
    assert {path.name for path in folder.path.iterdir()} == names
    assert History.from_json((folder.path / "history.json").read_text()) == manager.history
    assert (folder.path / "model.fake").read_bytes() == manager.weights.tobytes()


def test_the_weights_are_arrays_by_the_names_of_the_variables(tmp_path):
    folder = RunDirectory(str(tmp_path), "digits", "train")
    folder.create()
    folder.write_results(finished())
    with np.load(folder.path / "weights.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["model/mean", "model/w"]
        np.testing.assert_array_equal(archive["model/w"], [1, 2, 3])
    with np.load(folder.path / "best.weights.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["model/mean"], [5])


def test_a_disk_that_is_full_at_the_end_is_a_config_error(tmp_path, monkeypatch):
    folder = RunDirectory(str(tmp_path), "digits", "train")
    folder.create()

    def fail(_number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ConfigError, match=r"results must be written to .*; free space"):
        folder.write_results(finished())
    written = {path.name for path in folder.path.iterdir()}
    assert written == {".lock", "model.fake", "best.fake"}  # which the fake does not flush


def test_what_the_disk_takes_is_written_whatever_became_of_the_rest(tmp_path):
    folder = RunDirectory(str(tmp_path), "digits", "train")
    folder.create()
    (folder.path / "history.json").mkdir()  # in the way
    with pytest.raises(ConfigError, match=r"results must be written .*history\.json"):
        folder.write_results(finished())
    names = {path.name for path in folder.path.iterdir()}
    assert {"model.fake", "best.fake", "weights.npz", "best.weights.npz"} <= names
