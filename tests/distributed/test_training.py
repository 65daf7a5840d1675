"""Runs that work: what comes out is right, complete and usable without NNLO."""

import json
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nnlo.algo import Algo
from nnlo.data import H5Data, read_list
from nnlo.model import build_adapter, load_builder
from nnlo.simulate import simulate
from tests.distributed.conftest import Run, command

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.distributed


def weights_of(folder: Path) -> np.ndarray:
    with np.load(folder / "weights.npz") as arrays:
        return np.concatenate([arrays[name].ravel() for name in arrays.files])


def history_of(folder: Path) -> dict:
    return json.loads((folder / "history.json").read_text())


def simulated(digits, n_workers, **settings):
    torch.set_num_threads(1)  # as the ranks: the order of sums depends on it
    builder = load_builder(digits / "tiny.py")
    adapter = build_adapter(builder, seed=0)
    data = H5Data(50)
    data.set_files(read_list(digits / "train_digits.list"))
    algo = settings.pop("algo", Algo())
    return simulate(algo, adapter, data, n_workers, num_epochs=3, **settings)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """The folder of an asynchronous run on 3 ranks."""
    folder = tmp_path_factory.mktemp("trained")
    lists = ("--train-data", digits / "train_digits.list", "--val-data")
    words = ("--model", digits / "tiny.py", *lists, digits / "test_digits.list")
    words += ("--epochs", 8, "--batch", 20, "--timeline", "--tensorboard", "--output", folder)
    run = Run(command(3, *words), folder)
    try:
        ended = run.ended()
    finally:
        run.close()
    assert ended.code == 0, ended.output
    return folder / "tiny-train"


def test_asynchronous_training_learns_digits_and_leaves_a_complete_folder(trained):
    history = history_of(trained)
    assert history["epochs"][-1]["val_accuracy"] > 0.9
    assert sum(row["samples"] for row in history["epochs"]) == 8 * 1500
    assert {rank: sum(r["samples"] for r in rows) for rank, rows in history["ranks"].items()} == {
        "1": 8 * 750,
        "2": 8 * 750,
    }
    assert all(
        later["version"] > sooner["version"] for sooner, later in pairwise(history["epochs"])
    )
    names = {path.name for path in trained.iterdir()}
    assert names >= {"config.json", "history.json", "model.pt", "best.pt", "weights.npz"}
    assert names >= {"log.txt", "timeline.json", "tensorboard"}
    rows = {e["pid"] for e in json.loads((trained / "timeline.json").read_text())["traceEvents"]}
    assert rows == {0, 1, 2}


def test_the_best_torch_model_gives_the_reported_accuracy_without_nnlo(trained, digits):
    model = load_builder(digits / "tiny.py").build_model()
    model.load_state_dict(torch.load(trained / "best.pt", weights_only=True))
    model.eval()
    data = H5Data(1000, shuffle=False)
    data.set_files(read_list(digits / "test_digits.list"))
    ((x, y),) = data.epoch(0)
    with torch.no_grad():
        right = model(torch.from_numpy(x)).argmax(1).numpy() == y.argmax(1)
    best = history_of(trained)["best"]
    reported = history_of(trained)["epochs"][best["epoch"] - 1]["val_accuracy"]
    assert right.mean() == pytest.approx(reported, abs=1e-6)


def test_one_rank_and_one_worker_under_mpi_give_the_same_bits(train, tmp_path):
    for n_ranks in (1, 2):
        assert train(n_ranks, "--epochs", 2, "--trial-name", f"on{n_ranks}").code == 0
    runs = tmp_path / "runs"
    np.testing.assert_array_equal(weights_of(runs / "tiny-on1"), weights_of(runs / "tiny-on2"))


def test_synchronous_ranks_equal_the_simulated_ones_bit_for_bit(train, tmp_path, digits):
    ended = train(5, "--epochs", 3, "--batch", 50, "--synchronous")
    assert ended.code == 0, ended.output
    expected = simulated(digits, 4, synchronous=True).weights
    np.testing.assert_array_equal(weights_of(tmp_path / "runs" / "tiny-train"), expected)


def test_seven_ranks_with_local_steps_use_every_sample_in_every_epoch(train, tmp_path):
    ended = train(7, "--epochs", 8, "--batch", 16, "--sync-every", 4)
    assert ended.code == 0, ended.output
    history = history_of(tmp_path / "runs" / "tiny-train")
    by_epoch = [0] * 8
    for rows in history["ranks"].values():
        for row in rows:
            by_epoch[row["epoch"] - 1] += row["samples"]
    # An exchange may reach over the end of an epoch; in total nothing is lost or used twice.
    assert sum(by_epoch) == 8 * 1500
    assert history["epochs"][-1]["val_accuracy"] > 0.8


def test_early_stopping_ends_all_ranks(train, tmp_path):
    ended = train(3, "--epochs", 1000, "--batch", 50, "--early", "val_loss,~>,2")
    assert ended.code == 0, ended.output
    history = history_of(tmp_path / "runs" / "tiny-train")
    assert history["stopped"].startswith("early stopping: val_loss")
    assert len(history["epochs"]) <= 6


KERAS_BATCHNORM = """
import keras
from keras import layers


def get_model():
    return keras.Sequential([
        keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(32), layers.BatchNormalization(),
        layers.ReLU(), layers.Dense(10, activation="softmax"),
    ])
"""


@pytest.mark.parametrize(("backend", "n_ranks"), [("tensorflow", 2), ("torch", 3), ("jax", 2)])
def test_a_keras_model_with_batchnorm_validates_as_reported(
    train, tmp_path, digits, backend, n_ranks
):
    keras = pytest.importorskip("keras")
    pytest.importorskip(backend)
    (tmp_path / "bn.py").write_text(KERAS_BATCHNORM)
    words = ("--model", tmp_path / "bn.py", "--loss", "categorical_crossentropy", "--epochs", 3)
    ended = train(n_ranks, *words, "--batch", 50, KERAS_BACKEND=backend)
    assert ended.code == 0, ended.output
    folder = tmp_path / "runs" / "bn-train"
    data = H5Data(1000, shuffle=False)
    data.set_files(read_list(digits / "test_digits.list"))
    ((x, y),) = data.epoch(0)
    with warnings.catch_warnings(action="ignore"):
        model = keras.models.load_model(folder / "model.keras")
        model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
        loss, accuracy = model.evaluate(x, y, verbose=0)
    last = history_of(folder)["epochs"][-1]
    assert loss == pytest.approx(last["val_loss"], rel=1e-4)
    assert accuracy == pytest.approx(last["val_accuracy"], abs=1e-6)


def test_a_json_architecture_trains(train, tmp_path):
    keras = pytest.importorskip("keras")
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    (tmp_path / "line.json").write_text(model.to_json())
    words = ("--model", tmp_path / "line.json", "--loss", "categorical_crossentropy")
    words += ("--epochs", 5, "--batch", 20, "--synchronous", "--optimizer", "sgd")
    ended = train(3, *words, KERAS_BACKEND="torch")
    assert ended.code == 0, ended.output
    epochs = history_of(tmp_path / "runs" / "line-train")["epochs"]
    assert epochs[-1]["val_loss"] < epochs[0]["val_loss"]


MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist.npz"


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_file(), reason="the mnist images are not beside the checkout")
def test_real_mnist_reaches_96_5_percent_in_three_epochs(train, tmp_path):
    from nnlo.cli.getdata import main

    assert main(["mnist", "--source", str(MNIST), "--out", str(tmp_path)]) == 0
    lists = ("--train-data", tmp_path / "train_mnist.list", "--val-data")
    words = ("--model", "mnist", "--epochs", 3, "--loss", "categorical_crossentropy")
    ended = train(3, *words, *lists, tmp_path / "test_mnist.list", limit_s=280)
    assert ended.code == 0, ended.output
    assert history_of(tmp_path / "runs" / "mnist-train")["epochs"][-1]["val_accuracy"] >= 0.965
