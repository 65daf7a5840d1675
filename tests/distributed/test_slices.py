"""Masters that share the weights, over real ranks."""

import json
import signal

import numpy as np
import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.distributed

WORDS = ("--epochs", 4, "--batch", 20, "--synchronous")


def weights(folder, trial):
    with np.load(folder / "runs" / f"tiny-{trial}" / "weights.npz") as arrays:
        return np.concatenate([arrays[name].ravel() for name in arrays.files])


def test_shared_weights_end_as_those_of_one_master_bit_for_bit(train, tmp_path):
    for n_ranks, n_shards, trial in ((3, 1, "one"), (5, 3, "three")):
        ended = train(n_ranks, *WORDS, "--n-shards", n_shards, "--trial-name", trial)
        assert ended.code == 0, ended.output
    np.testing.assert_array_equal(weights(tmp_path, "one"), weights(tmp_path, "three"))


def test_a_checkpoint_of_three_masters_is_restored_by_two(train, tmp_path):
    saving = ("--checkpoint", "cp", "--checkpoint-interval", 1, *WORDS[2:])
    assert train(4, "--epochs", 2, "--n-shards", 3, *saving).code == 0
    ended = train(3, "--epochs", 4, "--n-shards", 2, *saving, "--restore", "cp")
    assert ended.code == 0, ended.output
    history = json.loads((tmp_path / "runs" / "tiny-train" / "history.json").read_text())
    losses = [row["val_loss"] for row in history["epochs"]]
    assert len(losses) == 4
    assert losses[3] < losses[2] < losses[1]


def test_ctrl_c_ends_them_with_a_checkpoint(start, tmp_path):
    run = start(4, "--epochs", 100_000, "--n-shards", 2, "--checkpoint", "cp")
    log = tmp_path / "runs" / "tiny-train" / "log.txt"
    run.until(lambda: log.is_file() and "epoch 1/" in log.read_text())
    run.process.send_signal(signal.SIGINT)
    assert run.ended(30).code == 130
    assert list((log.parent / "checkpoints").glob("cp-*.npz"))


def test_what_a_worker_raises_ends_all_masters(train, tmp_path):
    model = tmp_path / "bad.py"
    model.write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Bad(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.line, self.n = nn.Linear(64, 10), 0\n\n"
        "    def forward(self, x):\n        self.n += 1\n"
        "        if self.n > 9:\n            raise RuntimeError('no more')\n"
        "        return self.line(x.reshape(len(x), -1))\n\n\n"
        "def get_model():\n    return Bad()\n\n\n"
        "def get_loss():\n    return 'categorical_crossentropy'\n"
    )
    ended = train(4, "--model", model, "--epochs", 4, "--batch", 20, "--n-shards", 2)
    assert ended.code == 1, ended.output
    assert "RuntimeError: no more" in ended.output


def test_what_needs_the_whole_vector_is_refused(train):
    ended = train(3, *WORDS, "--n-shards", 2, "--clip-norm", 1.0)
    assert "leave out --clip-norm" in ended.output
