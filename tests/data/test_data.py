from itertools import chain

import numpy as np
import pytest

from nnlo.data import Data
from nnlo.errors import ConfigError, DataError

FILES = {"a": range(0, 23), "b": range(23, 23), "c": range(23, 60), "d": range(60, 64)}


class Loads(Data):
    """Three arrays a file: x a list of two, y one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loaded = []
        self.set_files(list(FILES))

    def load_data(self, file):
        self.loaded.append(file)
        y = np.array(FILES[file], dtype=np.int64)
        return [y[:, None] * 1.0, -y], y


class Generates(Data):
    closed = False

    def generate_data(self):
        try:
            for k in range(10):
                y = np.arange(3 * k, 3 * k + 3)
                yield y * 1.0, y
        finally:
            self.closed = True


class Streamed(Loads):
    def generate_data(self):
        for x, y in super().generate_data():
            yield x, y + 1000


class StreamedPart(Streamed):
    shards_itself = True


def labels(data, epoch=0, skip=0):
    return [y.tolist() for _, y in data.epoch(epoch, skip)]


def of_all(data, n_shards, epoch=0):
    found = []
    for k in range(n_shards):
        data.set_shard(k, n_shards)
        found += chain(*labels(data, epoch))
    return sorted(found)


@pytest.mark.parametrize("n_shards", [1, 2, 3, 5, 11])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Loads, range(64)),
        (Generates, range(30)),
        (Streamed, range(1000, 1064)),
        (StreamedPart, range(1000, 1064)),
    ],
)
def test_each_sample_is_used_once_per_epoch(kind, expected, n_shards):
    assert of_all(kind(5), n_shards) == list(expected)
    assert kind(5).n_samples == len(expected)


@pytest.mark.parametrize("kind", [Loads, Generates, Streamed, StreamedPart])
def test_skip_leaves_the_tail(kind):
    data = kind(5)
    data.set_shard(1, 2)
    for skip in range(9):
        assert labels(data, 1, skip) == labels(data, 1)[skip:]


def test_load_data_keeps_inputs_together_and_makes_floats_float32():
    for x, y in Loads(5).epoch(0):
        assert x[0].dtype == np.float32
        np.testing.assert_array_equal(x[0][:, 0], y)
        np.testing.assert_array_equal(x[1], -y)


def test_load_data_loads_each_file_of_a_shard_once_and_no_other():
    data = Loads(5)
    data.set_counts([23, 0, 37, 4])
    data.set_shard(0, 4)
    list(data.epoch(0))
    assert len(data.loaded) == len(set(data.loaded)) <= 3


def test_only_the_last_batch_is_partial_and_epochs_differ():
    data = Loads(5)
    assert [len(y) for y in labels(data)] == [5] * 12 + [4]
    assert labels(data, 0) == labels(data, 0) != labels(data, 1)
    ordered = Loads(5, shuffle=False)
    assert [*chain(*labels(ordered, 1))] == list(range(64))


def test_closing_an_epoch_closes_the_hook_of_the_user():
    data = Generates(3)
    batches = data.epoch(0)
    next(batches)
    batches.close()
    assert data.closed


def test_exception_of_a_hook_comes_up_unchanged():
    class Fails(Data):
        def generate_data(self):
            yield np.zeros(2), np.zeros(2)
            raise ZeroDivisionError("planted")

    with pytest.raises(ZeroDivisionError, match="planted"):
        list(Fails(2).epoch(0))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((np.zeros(3), np.zeros(2)), "got 3 and 2 in batch 0 of epoch 0 of Yields"),
        (([np.zeros(3), np.zeros(2)], np.zeros(3)), r"got \[3, 2\] and 3"),
        (np.zeros(3), r"pair \(x, y\), got ndarray"),
    ],
)
def test_uneven_batch_is_an_error(batch, message):
    class Yields(Data):
        def generate_data(self):
            yield batch

    with pytest.raises(DataError, match=message):
        list(Yields(3).epoch(0))


def test_file_that_changes_its_length_is_an_error_that_names_it():
    data = Loads(5)
    data.set_counts([23, 0, 38, 4])
    with pytest.raises(DataError, match=r"must return the 38 samples.*got 37 in c"):
        list(data.epoch(0))


def test_data_without_samples_is_an_error():
    data = Loads(5)
    data.set_files(["b"])
    with pytest.raises(DataError, match="at least one sample, got 0 in b"):
        data.count()
    with pytest.raises(DataError, match="one a file, got 2 for 1 files"):
        data.set_counts([1, 2])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Data(0), "batch_size must be at least 1, got 0"),
        (lambda: Data(1, seed=-1), "seed must not be negative"),
        (lambda: Data(1).set_shard(3, 3), "got 3 of 3"),
        (lambda: Data(1).set_files("train.list"), "list of names"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(act, message):
    with pytest.raises(ConfigError, match=message):
        act()


def test_class_without_a_hook_says_which_to_write():
    data = Data(1)
    data.set_files(["a"])
    with pytest.raises(NotImplementedError, match=r"Data must override load_data\(file\)"):
        data.count()


class FixedParts(Data):
    """Each worker makes as many batches of its own."""

    shards_itself = True

    def generate_data(self):
        for _ in range(4):
            yield np.zeros((5, 2), np.float32), np.full(5, self.shard_index)


def test_a_class_that_shards_itself_is_counted_over_all_shards():
    data = FixedParts(5)
    data.set_shard(0, 3)
    assert data.count() == [60]
    assert (data.shard_index, data.n_shards) == (0, 3)
