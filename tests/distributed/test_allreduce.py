"""Runs without a master by real ranks: overlap, Horovod's place, scaled rates, equal replicas."""

import numpy as np
import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.distributed

NET = '''
"""Digits by a torch network with a state, and a weight that is not used."""
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.mean.lerp_(x.mean(0), 0.1)
        return self.last(torch.relu(self.first(x - self.mean)))


def get_model(rank=-1, call=0):
    model, calls = Net(), []
    forward = model.forward

    def forward_or_raise(x):
        from nnlo.mpi import link

        calls.append(x)
        if len(calls) == call and link.world().rank == rank:
            raise ValueError("a bad pixel")
        return forward(x)

    model.forward = forward_or_raise
    return model


def get_loss():
    return "categorical_crossentropy"
'''

ASTRAY = '''
"""On one rank, every update adds a little too much to one weight."""
from net import get_loss, get_model as whole
from nnlo.algo.allreduce import AllreduceMaster
from nnlo.mpi import link


def get_model(rank=1):
    apply = AllreduceMaster.apply

    def apply_too_much(self, weights, updates, out):
        apply(self, weights, updates, out)
        out[5] += 1e-6

    if link.world().rank == rank:
        AllreduceMaster.apply = apply_too_much
    return whole()
'''

HOROVOD = '''
"""Does with MPI what Horovod is asked for."""
from mpi4py import MPI

Sum = "sum"
_ring = None


def is_initialized():
    return _ring is not None


def init(comm):
    global _ring
    _ring = comm


def size():
    return _ring.size


def allreduce_(tensor, name, op):
    assert op is Sum and name
    _ring.Allreduce(MPI.IN_PLACE, tensor.numpy())
    return tensor
'''

ALLREDUCE = ("--mode", "allreduce", "--epochs", 2, "--optimizer", "sgd", "--learning-rate", 0.05)


@pytest.fixture
def net(tmp_path):
    for name, text in (("net", NET), ("astray", ASTRAY)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path / "net.py"


@pytest.fixture
def weights(train, net, tmp_path):
    """What a run leaves behind: its flat vector."""

    def run(name, n_ranks, *words, mode=ALLREDUCE, **env):
        where = ("--output", tmp_path / name, "--trial-name", "one")
        ended = train(n_ranks, "--model", net, *where, *mode, *words, **env)
        assert ended.code == 0, ended.output
        (file,) = (tmp_path / name).rglob("weights.npz")
        with np.load(file) as arrays:
            return np.concatenate([arrays[one].ravel() for one in arrays.files])

    return run


@pytest.mark.parametrize("sync_every", [1, 3])
def test_overlap_changes_nothing_but_the_time(weights, sync_every):
    # 1437 samples on 2 ranks: one has batches of 359, 359 and 1, the other of 359 and 359.
    words = ("--batch", 359, "--sync-every", sync_every, "--epochs", 4)
    flat = weights("flat", 2, *words)
    early = weights("early", 2, *words, "--mode-params", "overlap=true")
    np.testing.assert_allclose(early, flat, rtol=1e-6, atol=1e-6)


def test_accumulated_batches_are_one_large_batch(weights, digits):
    tiny = ("--model", digits / "tiny.py", "--param", "dropout=0.0")
    small = weights("small", 2, *tiny, "--batch", 20, "--sync-every", 3)
    large = weights("large", 2, *tiny, "--batch", 60)
    np.testing.assert_allclose(small, large, rtol=1e-4, atol=1e-6)


def test_the_rate_is_that_of_one_rank_times_their_number(weights):
    numbers = ("--mode-params", "scaling=linear", "warmup=0", "--learning-rate", 0.02)
    scaled = weights("scaled", 2, *numbers)
    plain = weights("plain", 2, "--learning-rate", 0.04)
    np.testing.assert_allclose(scaled, plain, rtol=1e-6, atol=1e-6)


def test_an_exception_while_others_reduce_ends_all(train, net):
    params = ("--param", "rank=1", "--param", "call=3", "--mode-params", "overlap=true")
    ended = train(3, "--model", net, *ALLREDUCE, *params, limit_s=60)
    assert ended.code == 1
    assert "rank 1 on " in ended.errors[0]
    assert ended.output.count("ValueError: a bad pixel") == 1


def test_a_replica_that_has_gone_astray_is_named(train, net):
    ended = train(3, "--model", net.with_name("astray.py"), *ALLREDUCE, limit_s=60)
    assert ended.code == 1
    assert "must hold the same weights, got others on rank 1 than on rank 0" in ended.errors[0]


def test_horovod_reduces_where_it_is_installed(weights, tmp_path, monkeypatch):
    package = tmp_path / "fake" / "horovod"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "torch.py").write_text(HOROVOD)
    ours = weights("ours", 2)
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=":")
    theirs = weights("theirs", 2, "--mode-params", "engine=horovod")
    np.testing.assert_array_equal(theirs, ours)


def test_without_horovod_its_engine_is_refused_with_a_reason(train, net):
    ended = train(2, "--model", net, *ALLREDUCE, "--mode-params", "engine=horovod", limit_s=60)
    assert ended.code == 1
    assert "engine horovod must find horovod.torch" in ended.errors[0]
