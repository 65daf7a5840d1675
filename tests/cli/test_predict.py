"""PredictDriver on runs that TrainingDriver has left; over ranks: tests/distributed."""

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("torch")

from nnlo.bayes.variational import Point
from nnlo.cli.options import parse
from nnlo.cli.past_run import PastRun
from nnlo.cli.predict_options import PredictOptions
from nnlo.cli.rundir import weight_names
from nnlo.errors import CheckpointError, ConfigError
from nnlo.model.manifest import Manifest
from tests.program import run_here

MODEL = """
from torch import nn


def get_model(width=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def get_loss():
    return "categorical_crossentropy"
"""
LISTS = ("--train-data", "train_digits.list", "--val-data", "test_digits.list")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a plain run, one of two particles, and digits without labels."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.py").write_text(MODEL)
    run_here(folder, "GetData", "digits", "--train-files", "2", "--test-files", "2")
    common = ("TrainingDriver", "--model", "tiny.py", *LISTS, "--epochs", "3")
    run_here(folder, *common, "--trial-name", "plain")
    run_here(folder, *common, "--trial-name", "two", "--mode", "ensemble", "--particles", "2")
    with h5py.File(folder / "noise.h5", "w") as file:
        file["features"] = np.random.default_rng(0).uniform(size=(30, 8, 8, 1))
    (folder / "noise.list").write_text("noise.h5\n")
    return folder


def predicted(runs, tmp_path, *words):
    """metrics.json and the columns of predictions.npz."""
    run_here(runs, "PredictDriver", *words, "--output", str(tmp_path / "out"))
    with np.load(tmp_path / "out/predictions.npz") as columns:
        return json.loads((tmp_path / "out/metrics.json").read_text()), dict(columns)


def test_a_plain_run_is_judged_as_its_validation_was(runs, tmp_path):
    report, columns = predicted(runs, tmp_path, "runs/tiny-plain", "--weights", "last")
    last = json.loads((runs / "runs/tiny-plain/history.json").read_text())["epochs"][-1]
    assert report["metrics"]["nll"] == pytest.approx(last["val_loss"], rel=1e-5)
    assert report["metrics"]["accuracy"] == pytest.approx(last["val_accuracy"], abs=1e-9)
    assert (report["posterior"], report["n_draws"], report["n_points"]) == ("point", 1, 297)
    with open(tmp_path / "out/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_array_equal([int(row["label"]) for row in rows], columns["label"])
    np.testing.assert_allclose([float(row["nll"]) for row in rows], columns["nll"], rtol=1e-7)


def test_particles_all_count_and_noise_is_told_from_digits(runs, tmp_path):
    words = ("runs/tiny-two", "--ood", "noise.list", "--keep-draws")
    report, columns = predicted(runs, tmp_path, *words)
    assert (report["posterior"], report["n_draws"]) == ("ensemble", 2)
    assert columns["draws"].shape == (297, 2, 10)
    assert report["metrics"]["nll"] < report["metrics"]["nll_of_one"]
    assert set(report["ood"]) == {"total", "epistemic", "confidence"}
    with np.load(tmp_path / "out/ood.npz") as outside:
        assert len(outside["total"]) == 30
        assert "label" not in outside.files


def test_figures_and_data_without_labels(runs, tmp_path):
    pytest.importorskip("matplotlib", reason="pip install matplotlib")
    words = ("runs/tiny-plain", "--data", "noise.list", "--plots", "--batch", "7")
    report, columns = predicted(runs, tmp_path, *words)
    assert set(report["metrics"]) == {"total", "aleatoric", "epistemic"}
    assert len(columns["prediction"]) == 30
    assert [file.name for file in (tmp_path / "out/plots").iterdir()] == ["uncertainty.png"]


@pytest.fixture
def copied(runs, tmp_path, monkeypatch) -> Path:
    """The plain run, to be damaged."""
    monkeypatch.chdir(runs)
    return Path(shutil.copytree(runs / "runs/tiny-plain", tmp_path / "run"))


def test_a_folder_that_is_no_run_is_refused(copied):
    with pytest.raises(ConfigError, match="RUN must be the folder of a run"):
        PastRun.open(copied / "checkpoints")
    for text in ("{", "[]", '{"options": {"epochs": 0, "model": "tiny.py"}}', '{"options": 3}'):
        (copied / "config.json").write_text(text)
        with pytest.raises(ConfigError):
            PastRun.open(copied)


def test_weights_of_another_model_are_refused(copied):
    content = json.loads((copied / "config.json").read_text())
    content["options"]["param"] = ["width=17"]
    (copied / "config.json").write_text(json.dumps(content))
    run = PastRun.open(copied)
    with pytest.raises(CheckpointError, match=r"no model/1.weight \(17, 64\)"):
        run.weights(run.build())


def test_particles_of_another_model_are_refused(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(runs)
    copy = Path(shutil.copytree(runs / "runs/tiny-two", tmp_path / "run"))
    content = json.loads((copy / "config.json").read_text())
    content["options"]["param"] = ["width=17"]
    (copy / "config.json").write_text(json.dumps(content))
    run = PastRun.open(copy)
    with pytest.raises(CheckpointError, match="another layout"):
        run.posterior(run.build())


def test_weights_are_the_best_unless_told_or_missing(copied):
    run = PastRun.open(copied)
    adapter = run.build()
    np.testing.assert_array_equal(run.weights(adapter), run.weights(adapter, "best"))
    assert isinstance(run.posterior(adapter), Point)
    (copied / "best.weights.npz").unlink()
    np.testing.assert_array_equal(run.weights(adapter), run.weights(adapter, "last"))
    (copied / "weights.npz").write_bytes(b"PK damaged")
    with pytest.raises(CheckpointError, match="readable"):
        run.weights(adapter)
    (copied / "weights.npz").unlink()
    with pytest.raises(ConfigError, match="left its weights"):
        run.weights(adapter)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "a run must be named"),
        (("run", "--samples", "0"), "--samples"),
        (("run", "--batch", "0"), "--batch"),
        (("run", "--seed", "-1"), "--seed"),
    ],
)
def test_wishes_that_cannot_be_are_refused(words, says):
    with pytest.raises(ConfigError, match=says):
        parse("PredictDriver", PredictOptions, "", words)


def test_variables_of_equal_names_are_numbered_in_files():
    manifest = Manifest.pack([("w", (2,)), ("b", (1,)), ("w", (2,))], [("w", (1,))])
    assert weight_names(manifest) == ["model/w", "model/b", "model/w#2", "model/w#3"]
