"""Each file of examples/ does what it says, for one short epoch."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from nnlo.data import read_list
from nnlo.data.fetch import write_dataset
from tests.program import run_here

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PROGRAMS = {
    *("train_with_callbacks", "own_data", "simulate_downpour"),
    *("own_particles", "sine_particles", "inverted_images"),
}
MODELS = {"example_mnist", "example_mnist_torch"}
SEARCHED = {"search_my_model"}

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with 200 + 50 real digits, blown up to the size of mnist's."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.kron(15 * digits.images[:250], np.ones((3, 3))).astype(np.uint8)
    x, y = np.pad(pixels, ((0, 0), (2, 2), (2, 2))), digits.target[:250].astype(np.uint8)
    folder = tmp_path_factory.mktemp("images")
    parts = {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}
    np.savez(folder / "blown_up.npz", **parts)
    write_dataset("mnist", folder, folder / "blown_up.npz", train_files=2, test_files=1)
    return folder


@pytest.fixture
def on_torch(monkeypatch):
    """Keras on a backend that is imported in half of the time; whichever works."""
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")


def test_no_example_is_left_out():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == PROGRAMS | MODELS | SEARCHED


def test_callbacks_run_and_write_their_files(on_torch, tmp_path):
    program = EXAMPLES / "train_with_callbacks.py"
    output = run_here(tmp_path, "nnlorun", "-n", "2", str(program), "--epochs", "1")
    assert "stopped by epochs in epoch 1" in output
    written = {path.name for path in (tmp_path / "runs/callbacks").iterdir()}
    assert written == {"history.json", "log.csv", "best.keras"}


def test_tables_of_ones_own_train_on_two_workers(on_torch, tmp_path):
    program = str(EXAMPLES / "own_data.py")
    output = run_here(tmp_path, "nnlorun", "-n", "3", program, "--epochs", "1")
    assert re.search(r"validation loss \d\.\d+ after epoch 1, the best", output), output
    files = sorted(str(path) for path in (tmp_path / "data").iterdir())
    assert len(files) == 5
    output = run_here(tmp_path, "python", program, *files, "--epochs", "1")
    assert "the best" in output


def test_the_simulation_prints_a_row_for_each_algorithm(on_torch, tmp_path):
    program = str(EXAMPLES / "simulate_downpour.py")
    output = run_here(
        tmp_path, "python", program, "--workers", "2", "--epochs", "1", "--batch", "100"
    )
    rows = re.findall(r"^ +2 +\d\.\d+ +(0\.\d{3})  \w", output, re.MULTILINE)
    assert len(rows) == 4, output


def test_particles_of_ones_own_walk_alike_on_any_ranks(tmp_path):
    pytest.importorskip("torch")
    program = (str(EXAMPLES / "own_particles.py"), "--particles", "3", "--steps", "200")
    outputs = [
        run_here(tmp_path, *start, *program) for start in (("python",), ("nnlorun", "-n", "3"))
    ]
    assert outputs[0] == outputs[1]
    assert len(re.findall(r"^ *-?\d\.\d( +-?\d\.\d+){3}$", outputs[0], re.MULTILINE)) == 13


def test_networks_of_a_sine_are_the_same_on_any_ranks(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    program = (str(EXAMPLES / "sine_particles.py"), "--epochs", "20", "--particles", "2", "4")
    outputs = [
        run_here(tmp_path, *start, *program, "--plots", "figures")
        for start in (("python",), ("nnlorun", "-n", "3"))
    ]
    assert outputs[0] == outputs[1]
    assert len(re.findall(r"^ +[24] +0\.\d{4} +\d+\.\d%", outputs[0], re.MULTILINE)) == 2
    assert (tmp_path / "figures/ensemble_4.png").is_file()


@pytest.mark.parametrize("kind", ["inverted", "shuffled"])
def test_changed_images_keep_their_pixels(kind, images, tmp_path):
    words = [str(images / "test_mnist.list"), *(["--shuffle"] if kind == "shuffled" else [])]
    run_here(tmp_path, "python", str(EXAMPLES / "inverted_images.py"), *words)
    found = []
    for name in (images / "test_mnist.list", tmp_path / f"{kind}.list"):
        with h5py.File(read_list(name)[0]) as file:
            found.append(file["features"][:] / file["features"].attrs["full_scale"])
    known, new = found
    assert np.abs(new - known).max() > 0.5
    new = 1.0 - new if kind == "inverted" else np.sort(new, axis=None)
    np.testing.assert_allclose(new, known if kind == "inverted" else np.sort(known, axis=None))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_files_train_by_their_command_line(name, images):
    pytest.importorskip("torch" if "torch" in name else "tensorflow")
    program = ("nnlorun", "-n", "2", "TrainingDriver", "--model", str(EXAMPLES / f"{name}.py"))
    run_here(images, *program, "--epochs", "1", "--batch", "50")
    history = json.loads((images / "runs" / f"{name}-train" / "history.json").read_text())
    assert [record["epoch"] for record in history["epochs"]] == [1]
    assert "val_accuracy" in history["epochs"][0]


def test_a_model_file_is_searched_by_its_command_line(on_torch, tmp_path):
    file = str(EXAMPLES / "search_my_model.py")
    run_here(
        tmp_path, "python", "OptimizationDriver", "--model", file, "--epochs", "1", "--num", "2"
    )
    folder = tmp_path / "runs" / "search_my_model-search"
    (*trials,) = json.loads((folder / "trials.json").read_text())
    assert [trial["state"] for trial in trials] == ["finished"] * 2
    assert (folder / "best" / "best.keras").is_file()
