"""Runs that cannot work: one message that names the remedy, a code that is not 0, no hang."""

import re
import sys

import h5py
import numpy as np
import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.distributed


def write_h5(path, n=60, features="features", value=None, classes=10):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 8, 8, 1)).astype(np.float32)
    labels = rng.integers(0, classes, n)
    with h5py.File(path, "w") as file:
        file[features] = x if value is None else np.full_like(x, value)
        file["labels"] = np.eye(classes, dtype=np.float32)[labels]


@pytest.fixture
def listed(tmp_path):
    """Write a data file and a list that names it between blank lines; return the list."""

    def make(**options):
        write_h5(tmp_path / "data.h5", **options)
        (tmp_path / "data.list").write_text("\n\ndata.h5\n\n")
        return tmp_path / "data.list"

    return make


def only_error(ended, code=1):
    """The one message of a run that failed as it should."""
    assert ended.code == code, ended.output
    assert len(ended.errors) == 1, ended.output
    assert "Traceback" not in ended.output
    return ended.errors[0]


def test_blank_lines_in_a_list_are_accepted(train, listed):
    ended = train(3, "--train-data", listed(), "--epochs", 1, "--batch", 10)
    assert ended.code == 0, ended.output


def test_a_missing_list_is_named_and_nothing_but_an_empty_folder_is_left(train, tmp_path):
    message = only_error(train(3, "--train-data", tmp_path / "no.list", "--epochs", 1))
    assert "no.list" in message
    assert "(rank 0)" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"features": "images"}, "--features-name"),
        ({"value": np.nan}, r"updates must be finite, .* from rank \d: .* in epoch 1, batch"),
        ({"classes": 3}, r"rank \d on .* labels of shape \(batch, 3\)"),
        ({"n": 2}, "4 of them for 2 samples; start at most 3 ranks"),
    ],
)
def test_data_that_cannot_be_used(train, listed, options, expected):
    n_ranks = 5 if "n" in options else 3
    message = only_error(train(n_ranks, "--train-data", listed(**options), "--epochs", 1))
    assert re.search(expected, message), message


def test_a_file_that_is_not_hdf5(train, tmp_path):
    (tmp_path / "junk.h5").write_text("this is no HDF5")
    (tmp_path / "data.list").write_text("junk.h5\n")
    message = only_error(train(3, "--train-data", tmp_path / "data.list"))
    assert "junk.h5" in message
    assert "readable HDF5" in message


def test_a_model_file_without_get_model(train, tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    message = only_error(train(3, "--model", tmp_path / "empty.py", "--loss", "mse"))
    assert "get_model" in message
    assert "(all ranks)" in message


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("--optimizer", "best"), 2, "invalid choice: 'best'"),
        (("--best-metric", "val_beauty"), 1, "metric must be one of"),
        (("--output", "/proc/nowhere"), 1, "folder that can be written"),
    ],
)
def test_options_that_cannot_be_used(train, words, code, expected):
    assert expected in only_error(train(3, "--epochs", 1, *words), code)


RAISES = """
from tiny import get_loss, get_model


def get_features():
    def feature(x):
        from mpi4py import MPI
        if MPI.COMM_WORLD.rank == 2:
            raise ValueError("a bad pixel")
        return x
    return "features", feature
"""


def test_an_exception_in_user_code_on_one_worker_shows_rank_host_and_traceback(
    train, digits, tmp_path
):
    (tmp_path / "tiny.py").write_text((digits / "tiny.py").read_text())
    (tmp_path / "raises.py").write_text(RAISES)
    ended = train(3, "--model", tmp_path / "raises.py")
    assert ended.code == 1
    assert ended.output.count("Traceback (most recent call last)") == 1
    assert "rank 2 on " in ended.errors[0]
    assert "ValueError: a bad pixel" in ended.output


EXITS = """
import sys

from nnlo.mpi import link
from tiny import get_loss
from tiny import get_model as tiny_model


def get_model():
    model = tiny_model()
    forward, calls, rank = model.forward, [], link.world().rank

    def forward_or_exit(x):
        calls.append(x)
        if len(calls) == 3 and rank == 1:
            sys.exit(3)
        return forward(x)

    model.forward = forward_or_exit
    return model
"""


def test_sys_exit_in_the_model_of_a_worker_does_not_hang(train, digits, tmp_path):
    (tmp_path / "tiny.py").write_text((digits / "tiny.py").read_text())
    (tmp_path / "exits.py").write_text(EXITS)
    ended = train(3, "--model", tmp_path / "exits.py")
    assert ended.code == 1
    assert "rank 1 on " in ended.errors[0]
    assert "SystemExit: 3" in ended.output


FROZEN = """
from tiny import get_loss
from tiny import get_model as tiny_model


def get_model():
    return tiny_model().requires_grad_(False)
"""


def test_a_model_without_a_trainable_weight(train, digits, tmp_path):
    (tmp_path / "tiny.py").write_text((digits / "tiny.py").read_text())
    (tmp_path / "frozen.py").write_text(FROZEN)
    message = only_error(train(3, "--model", tmp_path / "frozen.py"))
    assert "a weight that can be trained" in message


SCRIPT = """
import sys

from nnlo.mpi import link

comm = link.world()
if comm.rank == 1:
    sys.exit(4) if "exit" in sys.argv else [][0]
link.barrier(comm)
"""


@pytest.mark.parametrize(("word", "code"), [("exit", 4), ("raise", 1)])
def test_a_script_that_ends_on_one_rank_ends_on_all(launch, tmp_path, word, code):
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, "-m", "nnlo.cli.launch", "-n", 3, tmp_path / "script.py", word]
    ended = launch(words).ended()
    assert ended.code == code
    assert ("IndexError" in ended.output) == (word == "raise")
