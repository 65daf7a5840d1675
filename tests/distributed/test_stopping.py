"""Runs that are interrupted or killed, and go on from a checkpoint."""

import json
import signal
import time

import numpy as np
import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.distributed


def checkpoints(folder, trial):
    return sorted((folder / "runs" / f"tiny-{trial}" / "checkpoints").glob("cp-*.npz"))


def outcome(folder, trial):
    """Final weights, and the history without times."""
    run = folder / "runs" / f"tiny-{trial}"
    with np.load(run / "weights.npz") as arrays:
        weights = np.concatenate([arrays[name].ravel() for name in arrays.files])
    epochs = json.loads((run / "history.json").read_text())["epochs"]
    timeless = [
        {k: v for k, v in row.items() if k not in ("time_s", "samples_per_s")} for row in epochs
    ]
    return weights, timeless


def assert_same(folder, one, other):
    (weights, epochs), (same_weights, same_epochs) = outcome(folder, one), outcome(folder, other)
    np.testing.assert_array_equal(weights, same_weights)
    assert epochs == same_epochs


@pytest.mark.parametrize(
    ("n_ranks", "more", "how"),
    [
        (1, (), "interrupted"),
        (2, (), "killed"),
        (3, ("--synchronous",), "killed"),
        (3, ("--synchronous", "--sync-every", "3"), "interrupted"),
    ],
)
def test_a_run_that_was_stopped_and_restored_equals_one_that_was_not(
    train, start, tmp_path, n_ranks, more, how
):
    words = ("--batch", 25, "--seed", 3, *more)
    saving = ("--checkpoint", "cp", "--checkpoint-interval", 2, "--trial-name", "cut")
    run = start(n_ranks, "--epochs", 100_000, *words, *saving)
    run.until(lambda: len(checkpoints(tmp_path, "cut")) >= 2)
    run.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGINT)
    stopped = run.ended(30)
    assert stopped.code == (130 if how == "interrupted" else -signal.SIGKILL), stopped.output
    run.gone(60)  # it must write no more checkpoint
    newest = json.loads(str(np.load(checkpoints(tmp_path, "cut")[-1])["meta"]))
    words += ("--epochs", newest["epoch"] + 3)
    ended = train(n_ranks, *words, *saving, "--restore", "cp")
    assert ended.code == 0, ended.output
    assert train(n_ranks, *words, "--trial-name", "whole").code == 0
    assert_same(tmp_path, "whole", "cut")


def first_epoch_ended(log):
    return lambda: log.is_file() and "epoch 1/" in log.read_text()


@pytest.mark.alone
def test_ctrl_c_ends_all_ranks_in_time_with_a_checkpoint(start, tmp_path):
    run = start(3, "--epochs", 100_000, "--checkpoint", "cp", "--trial-name", "c")
    log = tmp_path / "runs" / "tiny-c" / "log.txt"
    run.until(first_epoch_ended(log))
    before = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    stopped = run.ended(30)
    assert time.monotonic() - before < 10.0  # 5 s where no other job takes the cores
    assert stopped.code == 130, stopped.output
    assert checkpoints(tmp_path, "c")
    assert "SIGUSR1" in json.loads((log.parent / "history.json").read_text())["stopped"]


def test_a_checkpoint_of_another_model_or_too_few_epochs_is_refused(train, digits, tmp_path):
    words = ("--checkpoint", "cp", "--checkpoint-interval", 1)
    assert train(1, "--epochs", 1, *words).code == 0
    again = train(1, "--epochs", 1, "--restore", "cp")
    assert again.code == 1
    assert "num_epochs must be above the 1 epochs" in again.output
    other = train(1, "--epochs", 2, "--restore", "cp", "--param", "width=8")
    assert other.code == 1
    assert "of the same manifest" in other.output
    missing = train(1, "--epochs", 2, "--restore", "dp")
    assert "a checkpoint must be at" in missing.output


def test_another_number_of_workers_goes_on_from_the_epoch_of_the_checkpoint(train, tmp_path):
    words = ("--batch", 20, "--checkpoint", "cp", "--checkpoint-interval", 1)
    assert train(3, "--epochs", 2, *words).code == 0
    ended = train(2, "--epochs", 4, *words, "--restore", "cp")
    assert ended.code == 0, ended.output
    assert "restored, going on in epoch 3" in ended.output
    assert "written by other ranks than these" in ended.output
    epochs = outcome(tmp_path, "train")[1]
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    assert epochs[-1]["val_loss"] < epochs[1]["val_loss"]


def test_no_process_outlives_a_killed_launcher(start, tmp_path):
    run = start(3, "--epochs", 100_000, "--trial-name", "k")
    run.until(first_epoch_ended(tmp_path / "runs" / "tiny-k" / "log.txt"))
    assert len(run.processes()) >= 5  # nnlorun, mpirun, three ranks
    run.process.kill()
    run.gone(15)
