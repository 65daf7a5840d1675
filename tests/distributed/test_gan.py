"""Two networks with a train_step of their own, killed and restored: ``gan_digits`` under EASGD."""

import json
import signal

import numpy as np
import pytest

pytest.importorskip("torch")

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

EPOCHS = 2
WORDS = ("--model", "gan_digits", "--param", "width=16", "latent=4", "--mode", "easgd")
WORDS += ("--synchronous",)
WORDS += ("--worker-optimizer", "rmsprop", "--sync-every", 3, "--batch", 100, "--seed", 3)
ENV = {"KERAS_BACKEND": "torch"}  # it is imported sooner than TensorFlow


def folder_of(tmp_path, trial):
    return tmp_path / "runs" / f"gan_digits-{trial}"


def checkpoints(tmp_path, trial):
    return sorted((folder_of(tmp_path, trial) / "checkpoints").glob("cp-*.npz"))


def epochs_of(tmp_path, trial):
    """The history without times."""
    text = (folder_of(tmp_path, trial) / "history.json").read_text()
    times = ("time_s", "samples_per_s")
    return [{k: v for k, v in row.items() if k not in times} for row in json.loads(text)["epochs"]]


def weights_of(tmp_path, trial):
    with np.load(folder_of(tmp_path, trial) / "weights.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_a_gan_that_was_killed_and_restored_equals_one_that_was_not(train, start, tmp_path):
    saving = ("--checkpoint", "cp", "--checkpoint-interval", 1, "--trial-name", "cut")
    run = start(3, *WORDS, "--epochs", 100_000, *saving, **ENV)
    run.until(lambda: len(checkpoints(tmp_path, "cut")) >= 2)
    run.process.send_signal(signal.SIGKILL)
    assert run.ended(30).code == -signal.SIGKILL
    run.gone(60)  # it must write no more checkpoint
    newest = json.loads(str(np.load(checkpoints(tmp_path, "cut")[-1])["meta"]))["epoch"]
    words = (*WORDS, "--epochs", newest + EPOCHS)
    ended = train(3, *words, *saving, "--restore", "cp", **ENV)
    assert ended.code == 0, ended.output
    assert train(3, *words, "--trial-name", "whole", **ENV).code == 0
    epochs = epochs_of(tmp_path, "whole")
    assert len(epochs) == newest + EPOCHS
    assert {"discriminator/loss", "generator/loss", "val_generator/loss"} <= epochs[-1].keys()
    assert epochs_of(tmp_path, "cut") == epochs
    np.testing.assert_equal(weights_of(tmp_path, "cut"), weights_of(tmp_path, "whole"))
