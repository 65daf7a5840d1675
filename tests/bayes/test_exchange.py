"""How particles on several ranks meet: the same numbers wherever they are."""

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from threading import Barrier

import numpy as np
import pytest

from nnlo.bayes.exchange import Gathered, Transposed, meet
from nnlo.bayes.method import Setting
from nnlo.bayes.placement import Placement
from nnlo.bayes.stein import part_of
from nnlo.bayes.svgd import SVGD
from nnlo.model.manifest import Manifest

D = 13


class Threads:
    """What the exchanges use of a communicator, for ranks that are threads."""

    def __init__(self, size):
        self.size, self.barrier = size, Barrier(size, timeout=30)
        self.slots = [None] * size

    def rank_of(self, rank):
        return FakeComm(self, rank)


class FakeComm:
    def __init__(self, ranks, rank):
        self.ranks, self.rank, self.size = ranks, rank, ranks.size
        self.n_bytes = 0  # received of others

    def allgather(self, value):
        self.ranks.slots[self.rank] = value
        self.ranks.barrier.wait()
        values = list(self.ranks.slots)
        self.ranks.barrier.wait()
        return values

    def Allgatherv(self, own, spec):
        out, counts = spec
        parts = [part.reshape(-1) for part in self.allgather(own.copy())]
        assert [part.size for part in parts] == counts
        out.reshape(-1)[:] = np.concatenate(parts)
        self.n_bytes += out.nbytes - own.nbytes

    def Alltoallv(self, sent, received):
        data, counts = sent
        cuts = np.split(data.reshape(-1).copy(), list(accumulate(counts))[:-1])
        parts = [cuts_of[self.rank] for cuts_of in self.allgather(cuts)]
        assert [part.size for part in parts] == received[1]
        received[0].reshape(-1)[:] = np.concatenate(parts)
        self.n_bytes += received[0].nbytes - parts[self.rank].nbytes

    def Allreduce(self, _, numbers):
        numbers[:] = np.sum(self.allgather(numbers.copy()), axis=0)


def on_ranks(counts, work):
    """What ``work(comm, rows)`` returns on each of the ranks, which hold ``counts`` rows."""
    ranks, ends = Threads(len(counts)), list(accumulate(counts))
    jobs = [
        (ranks.rank_of(i) if len(counts) > 1 else None, slice(end - n, end))
        for i, (n, end) in enumerate(zip(counts, ends, strict=True))
    ]
    with ThreadPoolExecutor(len(counts)) as pool:
        return list(pool.map(lambda job: work(*job), jobs))


def trained(n_ranks, exchange, groups="global"):
    """Eight particles after 30 steps towards N(1, 1/5) on so many ranks."""
    start = np.random.default_rng(3).normal(size=(8, D)).astype(np.float32)
    manifest = Manifest.pack([("a/w", (4,)), ("a/b", (1,)), ("b/w", (D - 5,))], [])
    placement = Placement(8, n_ranks)

    def work(comm, rows):
        weights = start[rows].copy()
        method = SVGD(learning_rate=0.05, groups=groups, exchange=exchange)
        stepper = method.start(Setting(manifest, range(8)[rows], 8, 4, 1, 30, 0, comm))
        for _ in range(30):
            stepper.step(weights, weights - np.float32(1.25))
        return weights

    counts = [len(placement.pids(rank)) for rank in range(n_ranks)]
    return np.concatenate(on_ranks(counts, work))


@pytest.mark.parametrize("groups", ["global", "layer"])
@pytest.mark.parametrize("exchange", ["allgather", "transpose"])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4, 8])
def test_ranks_times_particles_move_as_one_process_does(n_ranks, exchange, groups):
    alone = trained(1, "auto", groups)
    np.testing.assert_allclose(trained(n_ranks, exchange, groups), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("counts", [[5, 1, 2], [1, 7], [1] * 8], ids=str)
@pytest.mark.parametrize("exchange", ["allgather", "transpose"])
@pytest.mark.parametrize("size", [2, D])
def test_uneven_ranks_with_fewer_columns_than_ranks_find_one_direction(counts, exchange, size):
    start = np.random.default_rng(3).normal(size=(8, size)).astype(np.float32)
    groups = [slice(0, 1), slice(1, size)]

    def descend(comm, rows):
        own, out = start[rows].copy(), np.empty_like(start[rows])
        meet(comm, counts, groups, 2.0, exchange).descend(own, -own, out)
        return out

    alone = np.empty_like(start)
    meet(None, [8], groups, 2.0).descend(start, -start, alone)
    np.testing.assert_allclose(np.concatenate(on_ranks(counts, descend)), alone, rtol=1e-5)


@pytest.mark.parametrize(("size", "kind"), [(26_000, Gathered), (27_000, Transposed)])
def test_the_way_follows_from_the_bytes_of_all_particles(size, kind):
    """2 x 5 floats a column against 1 MB."""
    meeting = meet(FakeComm(Threads(2), 1), [3, 2], [slice(0, size)])
    assert type(meeting) is kind


@pytest.mark.parametrize(("exchange", "floats"), [("allgather", 2 * 7), ("transpose", 3 * 7 / 8)])
def test_a_rank_receives_what_the_way_promises(exchange, floats):
    """Of 8 ranks with a particle each, in floats per weight, beside the kernels."""

    def count(comm, rows):
        own = np.ones((1, 800), np.float32)
        meet(comm, [1] * 8, [slice(0, 800)], None, exchange).descend(own, own, own.copy())
        return comm.n_bytes / 4 / 800

    assert on_ranks([1] * 8, count) == [pytest.approx(floats)] * 8


def test_a_rank_alone_in_its_communicator_sends_nothing():
    alone = FakeComm(Threads(1), 0)
    assert isinstance(meet(alone, [3], [slice(0, D)], None, "transpose"), Gathered)


def test_groups_are_cut_where_a_slice_of_the_columns_begins_and_ends():
    groups = [slice(0, 5), slice(5, 6), slice(6, 13)]
    assert part_of(groups, 3, 9) == [slice(0, 2), slice(2, 3), slice(3, 6)]
    assert [s.stop - s.start for s in part_of(groups, 0, 4)] == [4, 0, 0]
