"""The memory of a process, and an end to a training that takes too much."""

import numpy as np
import pytest

from nnlo.cli import memory
from nnlo.cli.memory import MemoryLimit, resident_bytes


def test_the_memory_of_this_process_is_known():
    before = resident_bytes()
    block = np.ones(1 << 23)  # 64 MiB
    grown = resident_bytes() - before
    assert 0.8 * block.nbytes < grown < 2 * block.nbytes


def test_memory_below_the_limit_is_no_error():
    MemoryLimit(1.1 * resident_bytes() / 2**30 + 1.0)()


def test_memory_above_the_limit_is_an_error_that_says_so():
    with pytest.raises(MemoryError, match=r"within --trial-memory 0.001 GiB, got \d"):
        MemoryLimit(0.001)()


def test_a_system_that_does_not_tell_sets_no_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATM", tmp_path / "none")
    assert resident_bytes() == 0
    MemoryLimit(1e-9)()
