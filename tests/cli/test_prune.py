"""PruneDriver on runs of variational models, and what can be done with what it leaves."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from nnlo.bayes.gaussians import draw, find_gaussians
from nnlo.bayes.prune import pruned_share
from nnlo.bayes.sparse import read_sparse
from nnlo.cli.options import parse
from nnlo.cli.past_run import PastRun
from nnlo.cli.prune import main
from nnlo.cli.prune_options import PruneOptions
from nnlo.errors import ConfigError
from tests.program import run_here

MODELS = {
    "bnn_torch": """
from torch import nn
from nnlo.bayes.torch_layers import LinearFlipout


def get_model(width=16):
    return nn.Sequential(nn.Flatten(), LinearFlipout(64, width), nn.ReLU(), nn.Linear(width, 10))


def get_loss():
    return "categorical_crossentropy"
""",
    "bnn_keras": """
import keras
from nnlo.bayes.keras_layers import DenseFlipout


def get_model(width=16):
    return keras.Sequential([
        keras.Input((8, 8, 1)),
        keras.layers.Flatten(),
        DenseFlipout(width, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ])


def get_loss():
    return "categorical_crossentropy"
""",
    "plain": """
from torch import nn


def get_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def get_loss():
    return "categorical_crossentropy"
""",
}
LISTS = ("--train-data", "train_digits.list", "--val-data", "test_digits.list")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Digits and the model files."""
    folder = tmp_path_factory.mktemp("prune")
    run_here(folder, "GetData", "digits", "--train-files", "2", "--test-files", "1")
    for name, text in MODELS.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module", params=["bnn_torch", "bnn_keras"])
def pruned(request, folder) -> tuple[Path, str]:
    """A run of a variational model, pruned with --keep 0.75; and the file that is its model."""
    name = request.param
    if name == "bnn_keras":
        pytest.importorskip("keras")
    run_here(folder, "TrainingDriver", "--model", f"{name}.py", *LISTS, "--epochs", "4")
    run = f"runs/{name}-train"
    shares = ("--fractions", "0", "0.75", "1")
    run_here(folder, "PruneDriver", run, *shares, "--keep", "0.75", "--samples", "5")
    file = "model.py" if name == "bnn_torch" else "model.keras"
    return folder / run / "pruning", str(folder / run / "pruning" / file)


def vector_of(folder: Path) -> tuple[object, np.ndarray]:
    """The layout and the last weights of a run."""
    run = PastRun.open(folder)
    adapter = run.build()
    return adapter.manifest, run.weights(adapter, "last")


def test_the_curve_has_a_row_for_each_share(pruned):
    curve = json.loads((pruned[0] / "curve.json").read_text())["curve"]
    assert [row["fraction"] for row in curve] == [0.0, 0.75, 1.0]
    assert [row["n_left"] for row in curve] == [1024, 256, 0]
    assert {"accuracy", "nll", "ece"} <= set(curve[0]["metrics"])
    assert curve[0]["metrics"]["accuracy"] > curve[2]["metrics"]["accuracy"]


def test_the_pruned_model_can_be_asked(pruned, folder, tmp_path):
    out = tmp_path / "out"
    words = ("--samples", "5", "--output", str(out))
    run_here(folder, "PredictDriver", str(pruned[0]), *words)
    curve = json.loads((pruned[0] / "curve.json").read_text())["curve"]
    report = json.loads((out / "metrics.json").read_text())
    for name in ("accuracy", "nll"):
        assert report["metrics"][name] == pytest.approx(curve[1]["metrics"][name], rel=1e-4)


def test_the_sparse_file_holds_the_same_weights(pruned):
    manifest, vector = vector_of(pruned[0])
    np.testing.assert_array_equal(read_sparse(pruned[0] / "sparse.npz", manifest), vector)


def test_training_goes_on_with_the_masks(pruned, folder, tmp_path):
    words = ("--model", pruned[1], *LISTS, "--epochs", "2", "--output", str(tmp_path))
    words += ("--loss", "categorical_crossentropy")  # a .keras file names none
    run_here(folder, "TrainingDriver", *words, "--mode", "easgd", "--trial-name", "fine")
    (run,) = tmp_path.glob("*-fine")
    manifest, before = vector_of(pruned[0])
    again, after = vector_of(run)
    gaussians, moved = find_gaussians(manifest), find_gaussians(again)
    assert pruned_share(moved, after) == pruned_share(gaussians, before) == 0.75
    for one, other in zip(gaussians, moved, strict=True):
        np.testing.assert_array_equal(one.masks(before), other.masks(after))
        kept = one.masks(before) == 1.0
        assert not np.array_equal(one.means(before)[kept], other.means(after)[kept])
        drawn = np.empty_like(after)
        draw(moved, after, np.random.default_rng(0), drawn)
        assert (other.means(drawn)[~kept] == 0.0).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "a run must be named"),
        (("run", "--fractions", "0.5", "1.5"), "--fractions must be from 0 to 1, got 1.5"),
        (("run", "--keep", "-0.1"), "--keep must be from 0 to 1, got -0.1"),
        (("run", "--samples", "0"), "--samples must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        parse("PruneDriver", PruneOptions, "", words)


def test_a_run_without_variational_layers_is_refused(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    run_here(folder, "TrainingDriver", "--model", "plain.py", *LISTS, "--epochs", "1")
    assert main(["runs/plain-train"]) == 1
    assert "must be of a model with variational layers, got plain" in capsys.readouterr().err
