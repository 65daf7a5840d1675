"""Trees, rings and runs without a master, by real ranks."""

import json
import signal
import time

import numpy as np
import pytest

from nnlo.algo import Algo
from nnlo.data import H5Data, read_list
from nnlo.model import build_adapter, load_builder
from nnlo.simulate import simulate

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.distributed


def result(folder, trial="train"):
    """Weights and history of a run."""
    run = folder / "runs" / f"tiny-{trial}"
    with np.load(run / "weights.npz") as arrays:
        weights = np.concatenate([arrays[name].ravel() for name in arrays.files])
    return weights, json.loads((run / "history.json").read_text())


def samples(history):
    """Of each worker, over all epochs."""
    ranks = history["ranks"].items()
    return {int(rank): sum(row["samples"] for row in rows) for rank, rows in ranks}


def simulated(digits, algo, n_workers, *, dropout=0.1, **settings):
    """Weights of the same run by virtual workers."""
    torch.set_num_threads(1)  # as the ranks: the order of sums depends on it
    builder = load_builder(digits / "tiny.py", dropout=dropout)
    data = H5Data(50)
    data.set_files(read_list(digits / "train_digits.list"))
    return simulate(algo, build_adapter(builder, seed=0), data, n_workers, **settings).weights


# What comes out ----------------------------------------------------------------------------------


def test_ranks_alike_equal_the_simulated_ones(train, tmp_path, digits):
    ended = train(4, "--mode", "allreduce", "--optimizer", "sgd", "--epochs", 3, "--batch", 50)
    assert ended.code == 0, ended.output
    weights, history = result(tmp_path)
    expected = simulated(digits, Algo("sgd", mode="allreduce"), 4, num_epochs=3)
    # MPI may add four numbers in another order.
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)
    assert [row["samples"] for row in history["epochs"]] == [1500] * 3


@pytest.mark.parametrize(
    ("n_ranks", "words", "n_workers", "settings"),
    [
        (5, ("--n-processes", 2), 2, {"num_processes": 2}),
        (4, ("--n-masters", 2), 2, {"num_masters": 2}),
    ],
)
def test_together_rings_and_trees_equal_the_simulated_ones_bit_for_bit(
    train, tmp_path, digits, n_ranks, words, n_workers, settings
):
    ended = train(n_ranks, "--epochs", 2, "--batch", 50, "--synchronous", *words)
    assert ended.code == 0, ended.output
    expected = simulated(digits, Algo(), n_workers, num_epochs=2, synchronous=True, **settings)
    np.testing.assert_array_equal(result(tmp_path)[0], expected)


def test_a_tree_of_branches_learns_and_uses_every_sample(train, tmp_path):
    ended = train(5, "--n-masters", 3, "--root-mode", "diloco", "--epochs", 6, "--batch", 10)
    assert ended.code == 0, ended.output
    history = result(tmp_path)[1]
    assert samples(history) == dict.fromkeys((3, 4), 6 * 750)
    assert sum(row["samples"] for row in history["epochs"]) == 6 * 1500
    assert history["epochs"][-1]["val_accuracy"] > 0.6


def test_a_target_ends_a_tree(train, tmp_path):
    words = ("--n-masters", 2, "--mode", "easgd", "--batch", 10)
    ended = train(4, *words, "--epochs", 1000, "--target-metric", "val_acc,>,0.5")
    assert ended.code == 0, ended.output
    history = result(tmp_path)[1]
    assert history["stopped"] == "target reached: val_accuracy > 0.5"
    assert sum(samples(history).values()) == sum(row["samples"] for row in history["epochs"])


# Interruptions -----------------------------------------------------------------------------------


def interrupt(run, folder, trial):
    """Stop a run in order once it has an epoch behind it; return the seconds that it took."""
    log = folder / "runs" / f"tiny-{trial}" / "log.txt"
    run.until(lambda: log.is_file() and "epoch 1/" in log.read_text())
    before = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    stopped = run.ended(30)
    seconds = time.monotonic() - before
    assert stopped.code == 130, stopped.output
    assert "SIGUSR1" in json.loads((log.parent / "history.json").read_text())["stopped"]
    return seconds


@pytest.mark.alone
def test_ctrl_c_ends_a_tree_within_five_seconds(start, tmp_path):
    run = start(3, "--n-masters", 2, "--epochs", 100_000, "--trial-name", "c", "--batch", 50)
    assert interrupt(run, tmp_path, "c") < 5.0


def test_ranks_alike_go_on_from_a_checkpoint_as_if_never_stopped(start, train, tmp_path, digits):
    words = ("--mode", "allreduce", "--batch", 50, "--param", "dropout=0.0", "--checkpoint", "cp")
    run = start(2, "--epochs", 100_000, *words, "--trial-name", "cut")
    interrupt(run, tmp_path, "cut")
    n_epochs = result(tmp_path, "cut")[1]["epochs"][-1]["epoch"] + 1
    ended = train(2, "--epochs", n_epochs, *words, "--trial-name", "cut", "--restore", "cp")
    assert ended.code == 0, ended.output
    # Two numbers have one sum: in whatever order, the bits are the same.
    expected = simulated(digits, Algo(mode="allreduce"), 2, dropout=0.0, num_epochs=n_epochs)
    np.testing.assert_array_equal(result(tmp_path, "cut")[0], expected)


# Failures ----------------------------------------------------------------------------------------

RAISES = """
from nnlo.mpi import link
from tiny import get_loss
from tiny import get_model as tiny_model


def get_model(rank, call):
    model = tiny_model()
    forward, calls = model.forward, []

    def forward_or_raise(x):
        calls.append(x)
        if len(calls) == call and link.world().rank == rank:
            raise ValueError("a bad pixel")
        return forward(x)

    model.forward = forward_or_raise
    return model
"""


@pytest.mark.parametrize(
    ("n_ranks", "rank", "words"),
    [
        (2, 1, ("--mode", "allreduce")),
        (2, 0, ("--mode", "allreduce", "--timeline")),
        (3, 2, ("--n-processes", "2")),
        (3, 2, ("--n-masters", "2")),
    ],
)
def test_an_exception_on_any_rank_ends_all_with_rank_host_and_traceback(
    train, digits, tmp_path, n_ranks, rank, words
):
    (tmp_path / "tiny.py").write_text((digits / "tiny.py").read_text())
    (tmp_path / "raises.py").write_text(RAISES)
    params = ("--param", f"rank={rank}", "--param", "call=3", "--batch", 20)
    ended = train(n_ranks, "--model", tmp_path / "raises.py", *params, *words, limit_s=60)
    assert ended.code == 1
    assert f"rank {rank} on " in ended.errors[0]
    assert ended.output.count("ValueError: a bad pixel") == 1


def test_a_restored_tree_keeps_the_books_of_its_workers(train, tmp_path):
    words = ("--n-masters", 2, "--checkpoint", "cp", "--checkpoint-interval", 1)
    assert train(4, *words, "--epochs", 1).code == 0
    ended = train(4, *words, "--epochs", 2, "--restore", "cp")
    assert ended.code == 0, ended.output
    history = json.loads((tmp_path / "runs" / "tiny-train" / "history.json").read_text())
    # A checkpoint in mid-run has the book of the sub-master, 1, in place of its workers'.
    assert {"2", "3"} <= history["ranks"].keys() <= {"1", "2", "3"}
    assert sum(samples(history).values()) == sum(row["samples"] for row in history["epochs"])
