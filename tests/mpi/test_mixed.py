"""Numbers and a vector added up in one message."""

from types import SimpleNamespace

import numpy as np
import pytest

from nnlo.errors import WorkerFailed
from nnlo.mpi import link
from nnlo.mpi.failure import write_failure
from nnlo.mpi.frame import ERROR_BYTES, N_TIMES, Flag, Frame, Header, Kind
from nnlo.mpi.mixed import N_NUMBERS, MixedSum, _add
from nnlo.mpi.shortring import LONGEST, ShortRing, is_short

OTHERS = 4.0
"""Samples of the other members of a ring, whose mean vector is 3 and whose metrics are 0.5."""


def test_numbers_are_added_as_float64_and_weights_as_float32():
    one, other = MixedSum(3), MixedSum(3)
    one.numbers[:2], other.numbers[:2] = (1.0, 1e-12), (1.0, 1.0)
    one.vector[:], other.vector[:] = (1, 2, 3), (10, 20, 1e-9)
    _add(one._buffer.data, other._buffer.data, None)
    assert other.numbers[1] == 1.0 + 1e-12
    np.testing.assert_array_equal(other.vector, np.float32([11, 22, 3]))
    np.testing.assert_array_equal(one.vector, np.float32([1, 2, 3]))


@pytest.fixture
def ring(monkeypatch):
    """An end whose other members reduce, or say that they have failed by ``failed``."""
    end = ShortRing(SimpleNamespace(rank=0), Frame(2))
    end.failed = 0.0

    def begin(self, comm):
        self.numbers[[0, 2, 5]] += (OTHERS, end.failed, 0.5)
        self.vector += OTHERS * 3.0

    monkeypatch.setattr(MixedSum, "begin", begin)
    monkeypatch.setattr(MixedSum, "end", lambda self: None)
    monkeypatch.setattr(link, "wait", lambda request, meanwhile=None: None)
    return end


@pytest.mark.parametrize("n_samples", [0, 12])
def test_a_step_is_the_mean_over_all_samples(ring, n_samples):
    up = Frame(2, N_TIMES + 1)
    up.vector[:] = 7.0
    up.tail[N_TIMES] = 0.25
    up.header = Header(Kind.REDUCE, Flag(0), n_samples=n_samples)
    down = ring.exchange(up)
    assert down.header.n_samples == OTHERS + n_samples
    assert down.tail[N_TIMES] == 0.75
    np.testing.assert_allclose(down.vector, (3.0 * OTHERS + 7.0 * n_samples) / (4.0 + n_samples))


def test_a_failure_elsewhere_ends_the_run(ring):
    ring.failed = 1.0
    up = Frame(2, N_TIMES + 1, ERROR_BYTES)
    other = Frame(2, N_TIMES + 1, ERROR_BYTES)
    write_failure(other, 1, 0, "node", "ValueError: no")
    ring._ring.gather = lambda message, root: [message, other.message.tobytes()]
    up.header = Header(Kind.REDUCE, Flag(0), n_samples=3)
    with pytest.raises(WorkerFailed, match="ValueError: no"):
        ring.exchange(up)


def test_one_that_has_failed_adds_nothing_to_the_vector(ring):
    up = Frame(2, N_TIMES + 1, ERROR_BYTES)
    write_failure(up, 0, 0, "node", "ValueError: no")
    ring._ring.gather = lambda message, root: [message, None]
    with pytest.raises(WorkerFailed):
        ring.exchange(up)
    np.testing.assert_array_equal(ring._mixed.vector, np.float32([12.0, 12.0]))


@pytest.mark.parametrize(
    ("n_weights", "n_sums", "expected"),
    [(LONGEST, 3, True), (LONGEST + 1, 3, False), (10, N_NUMBERS - 4, False)],
)
def test_long_vectors_and_many_metrics_go_another_way(n_weights, n_sums, expected):
    assert is_short(n_weights, n_sums) is expected
