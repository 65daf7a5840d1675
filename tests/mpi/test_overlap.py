"""Overlap: parts of the gradient are reduced, in one order, as soon as they are there."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from nnlo.algo import Algo
from nnlo.algo.allreduce import Allreduce
from nnlo.errors import ConfigError, ModelError
from nnlo.model import make_adapter
from nnlo.model.manifest import Manifest
from nnlo.mpi import link
from nnlo.mpi.frame import Frame, Header, Kind
from nnlo.mpi.overlap import EarlyRing, buckets
from nnlo.mpi.reducer import make_reducer
from tests.mpi.fakes import LinearModel

torch = pytest.importorskip("torch")

LAYERS = Manifest.pack([("a", (10,)), ("b", (4, 5)), ("c", (30,)), ("d", (2,))], [("s", (3,))])
CUTS = [slice(30, 62), slice(0, 30), slice(62, 65)]


class Unused(torch.nn.Module):
    """Has a weight that the output does not depend on, between two that it does."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.unused = torch.nn.Parameter(torch.ones(2))
        self.norm = torch.nn.BatchNorm1d(4)
        self.last = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


@pytest.fixture
def adapter():
    torch.manual_seed(0)
    return make_adapter(Unused(), "mean_squared_error")


@pytest.fixture
def ring(monkeypatch):
    """An end whose reductions are a list of what has begun; it takes those of one rank."""
    begun = []

    def begin(comm, numbers):
        begun.append(numbers)
        return SimpleNamespace(Test=lambda: True, Wait=lambda: True)

    monkeypatch.setattr(link, "begin_to_add_up", begin)
    end = EarlyRing(SimpleNamespace(rank=0), None, Frame(0), CUTS, LAYERS.n_trainable)
    return SimpleNamespace(end=end, begun=begun)


def batch(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)).astype(np.float32), np.zeros((n, 2), np.float32)


@pytest.mark.parametrize("limit", [1, 80, 128, 10**6])
def test_buckets_are_whole_tensors_from_the_end_then_the_state(limit):
    cuts = buckets(LAYERS, limit)
    assert cuts[-1] == slice(62, 65)
    assert cuts[-2].start == 0
    assert cuts[0].stop == 62
    assert all(after.stop == before.start for before, after in pairwise(cuts[:-1]))
    sizes = [4 * (cut.stop - cut.start) for cut in cuts[:-1]]
    assert all(size <= max(limit, 120) for size in sizes)  # c alone has 120 bytes
    assert buckets(LAYERS, 128) == CUTS


def test_the_gradient_sum_is_that_of_the_samples(adapter):
    size, n = adapter.manifest.size, adapter.manifest.n_trainable
    start, mean, total = np.empty((3, size), np.float32)
    adapter.get_flat(start)
    sums = adapter.gradient(batch(7), mean)
    adapter.set_flat(start)
    np.testing.assert_allclose(adapter.gradient_sum(batch(7), total, None, adds=False), sums)
    np.testing.assert_allclose(total[:n], 7 * mean[:n], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(total[n:], mean[n:])


def test_gradient_sums_add_up_over_batches(adapter):
    n = adapter.manifest.n_trainable
    first, second, total = np.empty((3, adapter.manifest.size), np.float32)
    adapter.gradient_sum(batch(7), first, None, adds=False)
    adapter.gradient_sum(batch(4, seed=1), second, None, adds=False)
    for part, adds in ((batch(7), False), (batch(0), True), (batch(4, seed=1), True)):
        adapter.gradient_sum(part, total, None, adds=adds)
    np.testing.assert_allclose(total[:n], first[:n] + second[:n], rtol=1e-5, atol=1e-6)


def test_each_part_is_said_to_be_ready_once_with_its_final_value(adapter):
    n, out = adapter.manifest.n_trainable, np.full(adapter.manifest.size, 9.0, np.float32)
    early, places = np.zeros(n, np.float32), []

    def ready(start, stop):
        early[start:stop] = out[start:stop]
        places.extend(range(start, stop))

    adapter.gradient_sum(batch(5), out, ready, adds=False)
    assert sorted(places) == list(range(n))
    assert places[0] > n // 2  # the last layer's come first
    np.testing.assert_array_equal(early, out[:n])
    assert out[n - 1] != 9.0


def test_a_gradient_that_comes_twice_is_an_error(adapter):
    first = adapter.model.first
    run = first.forward
    first.forward = lambda x: torch.utils.checkpoint.checkpoint(run, x, use_reentrant=True)
    forward = adapter.model.forward

    def twice(x):
        x = x.requires_grad_()
        return forward(x) + forward(x)

    adapter.model.forward = twice
    with pytest.raises(ModelError, match="leave overlap out"):
        adapter.gradient_sum(
            batch(5), np.empty(adapter.manifest.size, np.float32), None, adds=False
        )


def test_buckets_begin_in_order_whatever_comes_first(ring):
    vector = np.zeros(65, np.float32)
    for part in ((0, 10), (10, 30), (60, 62)):
        ring.end.ready(vector, *part)
        assert not ring.begun  # the bucket of a and b waits for that of c and d
    ring.end.ready(vector, 30, 60)
    assert [len(one) for one in ring.begun] == [32, 30]


@pytest.mark.parametrize("n_samples", [0, 4])
def test_what_has_not_begun_is_reduced_at_the_exchange(ring, monkeypatch, n_samples):
    votes = np.array([8.0, 0.0, 0.0, 0.0, 1.0, 0.5])  # four more samples elsewhere
    monkeypatch.setattr(link, "add_up", lambda comm, sums, _=None: np.copyto(sums, votes))
    up = Frame(65, 3)
    up.vector[:] = 16.0
    up.header = Header(Kind.REDUCE, n_samples=n_samples)
    ring.end.ready(up.vector, 0, 0)
    assert ring.end.exchange(up).header.n_samples == 8
    assert [len(one) for one in ring.begun] == [32, 30, 3]
    assert up.tail[2] == 0.5
    means = (0.0, 0.0) if n_samples == 0 else (2.0, 8.0)  # T came as a sum, S as a mean
    np.testing.assert_array_equal(up.vector, np.repeat(np.float32(means), (62, 3)))


def test_a_member_that_fails_joins_what_others_have_begun(ring, monkeypatch):
    votes = np.array([4.0, 0.0, 1.0, 0.0, 1.0, 0.5])
    monkeypatch.setattr(link, "add_up", lambda comm, sums, _=None: np.copyto(sums, votes))
    up = Frame(65, 3)
    up.header = Header(Kind.REDUCE, n_samples=4)
    ring.end._ring.gather = lambda message, root: None  # as on a rank that is not the first
    assert ring.end.exchange(up).header.kind is Kind.FINAL
    assert [len(one) for one in ring.begun] == [32, 30, 3]


def test_a_backend_without_it_is_refused_by_name_on_a_single_rank_too():
    with pytest.raises(ConfigError, match="overlap must come with a native torch model"):
        make_reducer(Allreduce(overlap=True), LinearModel(), None, None)


def test_overlap_is_a_switch_of_our_own_reductions():
    with pytest.raises(ConfigError, match="true or false"):
        Algo("sgd", mode="allreduce", overlap="often")
    with pytest.raises(ConfigError, match="engine mpi, got horovod"):
        Algo("sgd", mode="allreduce", overlap=True, engine="horovod")
