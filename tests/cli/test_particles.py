"""TrainingDriver with particles, in one process."""

import json
import logging

import pytest

from nnlo.bayes.ensemble import DeepEnsemble
from nnlo.bayes.methods import METHODS
from nnlo.bayes.particles import Particles
from nnlo.cli.options import parse
from nnlo.cli.particles import method_of
from nnlo.cli.train import main
from nnlo.cli.train_options import TrainOptions
from nnlo.errors import CheckpointError, ConfigError


def options(*words):
    return parse("TrainingDriver", TrainOptions, "", ["--model", "digits", *words])


@pytest.mark.parametrize("mode", METHODS)
def test_every_method_is_a_mode(mode):
    assert type(method_of(options("--mode", mode))) is METHODS[mode]


def test_numbers_come_from_options_and_mode_params():
    words = ("--mode", "ensemble", "--optimizer", "sgd", "--learning-rate", "0.1")
    method = method_of(options(*words, "--mode-params", "weight_decay=0.01"))
    assert method == DeepEnsemble("sgd", 0.1, 0.01)


@pytest.mark.parametrize(
    "words",
    [
        ("--synchronous",),
        ("--n-masters", "3"),
        ("--worker-optimizer", "sgd"),
        ("--early-stopping", "val_loss,~<,4"),
        ("--callbacks", "warmup:batches=5"),
        ("--timeline",),
        ("--spares", "1"),
    ],
)
def test_what_particles_lack_is_refused(words):
    with pytest.raises(ConfigError, match=f"{words[0]} must go with a mode of masters"):
        options("--mode", "svgd", *words)


@pytest.mark.parametrize("words", [("--particles", "4"), ("--bootstrap",)])
def test_what_only_particles_have_is_refused_without_them(words):
    with pytest.raises(ConfigError, match=f"{words[0]} must go with --mode ensemble or"):
        options(*words)


@pytest.mark.parametrize("name", ["particles", "ranks-per-particle"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"--{name} must be at least 1, got 0"):
        options("--mode", "ensemble", f"--{name}", "0")


def test_unknown_numbers_are_refused():
    with pytest.raises(ConfigError, match="ensemble must be given numbers it has, got rank"):
        method_of(options("--mode", "ensemble", "--mode-params", "rank=3"))


def full(*_args):
    raise CheckpointError("the disk is full")


@pytest.fixture(autouse=True)
def logger():
    """The log files of runs are closed."""
    yield
    logger = logging.getLogger("nnlo")
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


def test_history_is_there_where_particles_do_not_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Particles, "save", full)
    assert main(small_run(tmp_path, monkeypatch)) == 1
    assert capsys.readouterr().err.endswith("error: the disk is full\n")
    assert (tmp_path / "runs" / "net-train" / "history.json").exists()


def small_run(tmp_path, monkeypatch):
    """Options of a run of 3 particles."""
    pytest.importorskip("torch")
    from nnlo.data.fetch import write_dataset

    monkeypatch.chdir(tmp_path)
    write_dataset("digits", tmp_path, train_files=2, test_files=1)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def get_model():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "def get_loss():\n"
        "    return 'categorical_crossentropy'\n"
    )
    words = "--model net.py --train-data train_digits.list --val-data test_digits.list --epochs 2"
    return [*words.split(), "--mode", "ensemble", "--particles", "3"]


def test_a_run_leaves_its_particles_history_and_options(tmp_path, monkeypatch):
    assert main(small_run(tmp_path, monkeypatch)) == 0
    folder = tmp_path / "runs" / "net-train"
    assert len(list((folder / "posterior").glob("particle-*.npz"))) == 3
    history = json.loads((folder / "history.json").read_text())
    assert list(history["particles"]) == ["0", "1", "2"]
    assert {"val_loss", "val_accuracy"} <= set(history["epochs"][-1])
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["particles"] == 3
    assert config["algorithm"].startswith("DeepEnsemble(")
