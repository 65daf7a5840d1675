"""Somebody who looks before each batch."""

import numpy as np
import pytest

from nnlo.data import Data
from nnlo.data.folds import FoldData, whole_data


class Small(Data):
    def load_data(self, file):
        return np.ones((10, 2), np.float32), np.ones(10, np.float32)


class Generated(Data):
    def generate_data(self):
        for _ in range(3):
            yield np.ones((4, 2), np.float32), np.ones(4, np.float32)


def watched(kind):
    calls = []
    data = kind(4)
    data.set_files(["a"])
    data.watch = lambda: calls.append(len(calls))
    return data, calls


@pytest.mark.parametrize("kind", [Small, Generated])
def test_it_looks_before_each_batch(kind):
    data, calls = watched(kind)
    for n, _ in enumerate(data.epoch(0), 1):
        assert len(calls) == n
    assert len(calls) == 3


@pytest.mark.parametrize("kind", [Small, Generated])
def test_what_it_raises_ends_the_epoch(kind):
    data, _ = watched(kind)

    def raise_it():
        raise MemoryError("too much")

    data.watch = raise_it
    with pytest.raises(MemoryError, match="too much"):
        next(data.epoch(0))


def test_counting_and_other_data_are_not_watched():
    data, calls = watched(Small)
    assert data.count() == [10]
    assert calls == []
    assert Small(4).watch is None


def test_folds_are_watched():
    data, calls = watched(Small)
    counts = tuple(whole_data(data, ["a"]).count())
    cut = FoldData(data, ["a"], counts, np.arange(10) < 3)
    cut.watch, data.watch = data.watch, None
    cut.set_files(FoldData.train_list)
    assert sum(len(y) for _, y in cut.epoch(0)) == 7
    assert len(calls) == 2
