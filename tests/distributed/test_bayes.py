"""Variational training by real ranks: what is sent, what is told, what is refused."""

import json
from itertools import pairwise

import h5py
import numpy as np
import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.distributed

NET = '''
"""A small Bayesian network that notes what has been sent before each training step."""
import json
from collections import Counter

from torch import nn

from nnlo.bayes.torch_layers import LinearFlipout, LinearReparameterization
from nnlo.mpi import link
from nnlo.mpi.mixed import MixedSum

VERBS = (
    "send_parts", "receive_parts", "send_bytes", "receive_bytes", "send_word", "await_word",
    "broadcast", "broadcast_long", "add_up", "add_up_long", "barrier",
)
sent, steps = Counter(), []


def counted(name):
    verb = getattr(link, name)

    def call(comm, *arguments, **named):
        long = name == "add_up_long"
        sent[f"{name} {arguments[0].size}" if long else name] += 1
        return verb(comm, *arguments, **named)

    return call


def counted_sum(begin):
    def call(self, comm):
        sent[f"sum of {self.vector.size}"] += 1
        return begin(self, comm)

    return call


class Net(nn.Sequential):
    def forward(self, x):
        if self.training:
            steps.append(dict(sent))
            with open(f"sent-{link.world().rank}.json", "w") as file:
                json.dump(steps, file)
        return super().forward(x)


def get_model(bayesian=True, count=False):
    if count:
        for name in VERBS:
            setattr(link, name, counted(name))
        MixedSum.begin = counted_sum(MixedSum.begin)
    first = LinearFlipout(784, 4) if bayesian else nn.Linear(784, 4)
    last = LinearReparameterization(4, 10) if bayesian else nn.Linear(4, 10)
    return Net(nn.Flatten(), first, nn.ReLU(), last)


def get_loss():
    return "categorical_crossentropy"
'''
SIZE = 2 * 784 * 4 + 4 + 2 * 4 * 10 + 10 + 2  # loc, rho, biases, kl_weights
N_SAMPLES = 240


@pytest.fixture
def images(tmp_path):
    """Options for a few noisy images in the shape of MNIST's."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(10, 28, 28, 1))
    words: list[object] = ["--batch", 20, "--trial-name", "one"]
    for name, n in (("train", N_SAMPLES), ("val", 60)):
        classes = rng.integers(0, 10, n)
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            noise = rng.normal(size=(n, 28, 28, 1))
            file["features"] = (patterns[classes] + 0.3 * noise).astype(np.float32)
            file["labels"] = np.eye(10, dtype=np.float32)[classes]
        (tmp_path / f"{name}.list").write_text(f"{tmp_path / name}.h5\n")
        words += [f"--{name}-data", tmp_path / f"{name}.list"]
    return words


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def history_of(folder):
    (file,) = (folder / "runs").rglob("history.json")
    return json.loads(file.read_text()), file.parent


def test_a_step_is_one_allreduce_and_no_other_message(train, images, net, tmp_path):
    words = ("--model", net, "--param", "count=True", *images, "--mode", "allreduce")
    ended = train(2, *words, "--epochs", 1)
    assert ended.code == 0, ended.output
    for rank in range(2):
        steps = json.loads((tmp_path / f"sent-{rank}.json").read_text())
        made = [
            {name: n for name in after if (n := after[name] - before.get(name, 0))}
            for before, after in pairwise(steps[1:])
        ]
        assert made == [{f"sum of {SIZE}": 1}] * (N_SAMPLES // 2 // 20 - 2)


@pytest.mark.parametrize("mode", ["allreduce", "downpour"])
def test_the_zoo_learns_in_a_mode_and_tells_the_parts_of_its_loss(train, images, tmp_path, mode):
    pytest.importorskip("tensorflow")
    best = ("--best-metric", "val_nll", "--early-stopping", "val_nll,~<,4")
    words = ("--model", "bnn_fc_flip", *images, "--mode", mode, "--epochs", 4, *best)
    ended = train(3, *words, "--kl-schedule", "linear:epochs=2", "--posterior-every", 3)
    assert ended.code == 0, ended.output
    history, folder = history_of(tmp_path)
    epochs = [one for one in history["epochs"] if one["epoch"] <= 4]
    expected = np.array([0.5, 1, 1, 1]) / N_SAMPLES
    np.testing.assert_allclose([one["kl_weight"] for one in epochs], expected, rtol=1e-5)
    assert epochs[-1]["val_nll"] < epochs[0]["val_nll"]
    last = epochs[-1]
    parts = last["val_nll"] + last["kl_weight"] * last["val_kl"]
    assert last["val_loss"] == pytest.approx(parts, rel=1e-3)
    assert last["loss"] == pytest.approx(last["nll"] + last["kl_weight"] * last["kl"], rel=1e-3)
    assert history["best"]["metric"] == "val_nll"
    trace = json.loads((folder / "posterior_trace.json").read_text())
    assert [one["version"] % 3 for one in trace["records"]] == [0] * len(trace["records"])


def test_a_schedule_goes_on_where_a_checkpoint_was_taken(train, images, net, tmp_path):
    words = ["--model", net, *images, "--kl-schedule", "linear:epochs=8", "--worker-optimizer"]
    words += ["sgd", "--checkpoint", "cp", "--checkpoint-interval", 2]
    assert train(3, *words, "--epochs", 2).code == 0
    ended = train(3, *words, "--epochs", 4, "--restore", "cp")
    assert ended.code == 0, ended.output
    epochs = history_of(tmp_path)[0]["epochs"][:4]
    told = [N_SAMPLES * one["kl_weight"] for one in epochs]
    assert told == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8])
    used = [N_SAMPLES * (one["val_loss"] - one["val_nll"]) / one["val_kl"] for one in epochs]
    # that of the last step, merged with what other workers had used
    assert used == pytest.approx(told, abs=0.06)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--kl-schedule", "linear:epochs=2"), "must go with a model that has variational layers"),
        (("--posterior-every", "5"), "must go with a model that has variational layers"),
        (("--kl-schedule", "linear"), "say how many epochs"),
        (("--best-metric", "val_nll"), "must be one of loss, accuracy"),
    ],
)
def test_options_without_effect_or_meaning_are_refused(train, images, net, option, says):
    ended = train(2, "--model", net, "--param", "bayesian=False", *images, *option)
    assert ended.code == 1
    assert len(ended.errors) == 1
    assert says in ended.errors[0]
