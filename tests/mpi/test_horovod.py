"""Horovod as the engine: what it is asked for, and what is said where it is not installed."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from nnlo.algo.allreduce import Allreduce
from nnlo.errors import ConfigError
from nnlo.mpi import link
from nnlo.mpi.frame import Frame, Header, Kind
from nnlo.mpi.horovod import HorovodRing, find_horovod
from nnlo.mpi.reducer import make_reducer

torch = pytest.importorskip("torch")

BY_TORCH = Allreduce(engine="horovod")
TORCH = SimpleNamespace(suffix=".pt", manifest=SimpleNamespace(size=4))


@pytest.fixture
def horovod(monkeypatch):
    """One that finds another rank's gradients to be ones, and notes how it was called."""
    module = ModuleType("horovod.torch")
    module.calls = []
    module.Sum, module.is_initialized, module.size = "the sum", lambda: False, lambda: 2
    module.init = lambda comm: module.calls.append(comm)

    def allreduce_(tensor, name, op):
        module.calls.append((tensor.dtype, name, op))
        return tensor.add_(1.0)

    module.allreduce_ = allreduce_
    monkeypatch.setitem(sys.modules, "horovod", ModuleType("horovod"))
    monkeypatch.setitem(sys.modules, "horovod.torch", module)
    return module


def test_it_sums_the_vector_in_place_on_the_ranks_of_the_run(horovod, monkeypatch):
    votes = np.array([8.0, 0.0, 0.0, 0.0, 1.0, 0.5])
    monkeypatch.setattr(link, "add_up", lambda comm, sums, _=None: np.copyto(sums, votes))
    comm = SimpleNamespace(size=2, rank=0)
    end = make_reducer(BY_TORCH, TORCH, comm, comm)
    up = Frame(4, 3)
    up.vector[:] = 2.0
    up.header = Header(Kind.REDUCE, n_samples=3)
    end.exchange(up)
    assert horovod.calls == [comm, (torch.float32, "nnlo.gradient", "the sum")]
    np.testing.assert_allclose(up.vector, (3 * 2.0 + 1.0) / 8)
    assert up.tail[2] == 0.5


def test_it_is_initialised_once(horovod):
    horovod.is_initialized = lambda: True
    HorovodRing(SimpleNamespace(size=2), Frame(0), find_horovod(TORCH))
    assert horovod.calls == []


def test_ranks_that_it_does_not_run_on_are_refused(horovod):
    with pytest.raises(ConfigError, match="on the 3 ranks of this job, got 2"):
        HorovodRing(SimpleNamespace(size=3), Frame(0), find_horovod(TORCH))


def test_a_backend_that_it_does_not_serve_is_refused(horovod, monkeypatch):
    keras = SimpleNamespace(backend=SimpleNamespace(backend=lambda: "jax"))
    monkeypatch.setitem(sys.modules, "keras", keras)
    with pytest.raises(ConfigError, match="torch or tensorflow, got jax"):
        find_horovod(SimpleNamespace(suffix=".keras"))


def test_its_absence_is_told_before_the_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod", None)  # as if not installed
    with pytest.raises(
        ConfigError, match=r"engine horovod must find horovod.torch.*does not build"
    ):
        make_reducer(BY_TORCH, TORCH, None, None)


def test_on_tensorflow_the_sum_is_copied_back(monkeypatch):
    def allreduce(tensor, name, op):
        return SimpleNamespace(numpy=lambda: tensor + 1.0)

    horovod = SimpleNamespace(
        allreduce=allreduce,
        is_initialized=lambda: True,
        size=lambda: 2,
        Sum="the sum",
        __name__="horovod.tensorflow",
    )
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(convert_to_tensor=np.array))
    vector = np.full(4, 6.0, np.float32)
    HorovodRing(SimpleNamespace(size=2), Frame(0), horovod)._average(vector, 3, 19)
    np.testing.assert_array_equal(vector, 1.0)
