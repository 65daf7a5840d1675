import threading
from itertools import chain

import h5py
import numpy as np
import pytest

from nnlo.data import H5Data
from nnlo.data.source import Source
from nnlo.errors import ConfigError, DataError

UNEVEN = [7 * k % 41 for k in range(24)]


def h5data(files, batch=17, shard=(0, 1), **how):
    data = H5Data(batch, **{"window_bytes": 2000, **how})
    data.set_files(files)
    data.set_shard(*shard)
    return data


def labels(data, epoch=0, skip=0):
    return [y.tolist() for _, y in data.epoch(epoch, skip)]


@pytest.mark.parametrize("n_shards", [1, 2, 3, 5, 11, 30])
@pytest.mark.parametrize("counts", [[401], [100, 3, 298], UNEVEN], ids=["1", "3", "24"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_each_sample_is_used_once_per_epoch(write_files, counts, n_shards, prefetch):
    files = write_files(counts)
    for epoch in range(2):
        shards = [
            labels(h5data(files, shard=(k, n_shards), prefetch=prefetch), epoch)
            for k in range(n_shards)
        ]
        assert sorted(chain(*chain(*shards))) == list(range(sum(counts)))
        assert len({len(batches) for batches in shards}) == 1


def test_features_stay_with_their_labels(write_files):
    for x, y in h5data(write_files([50, 70], chunks=(9, 3), compression="gzip")).epoch(0):
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(x, np.repeat(y[:, None], 3, axis=1))


def test_seed_and_epoch_fix_the_order(write_files):
    files = write_files([90, 60])
    assert labels(h5data(files), 1) == labels(h5data(files), 1) != labels(h5data(files), 2)
    assert labels(h5data(files), 1) != labels(h5data(files, seed=1), 1)
    ordered = chain(*labels(h5data(files, shuffle=False), 1))
    assert list(ordered) == list(range(150))


@pytest.mark.parametrize("skip", [0, 1, 3, 8, 9, 100])
def test_skip_leaves_the_tail(write_files, skip):
    data = h5data(write_files([90, 60]), shard=(1, 2), batch=8)
    assert labels(data, 3, skip) == labels(data, 3)[skip:]


@pytest.fixture
def reads(monkeypatch):
    """(rows of the window, rows read) of each read."""
    seen, read = [], Source.read

    def watched(self, start, stop, x, y, at):
        seen.append((len(x.arrays[0]), stop - start))
        read(self, start, stop, x, y, at)

    monkeypatch.setattr(Source, "read", watched)
    return seen


def test_windows_are_bounded_and_each_row_is_read_once(write_files, reads):
    list(h5data(write_files([1000, 500]), window_bytes=20 * 100).epoch(0))
    assert max(size for size, _ in reads) <= 100
    assert sum(rows for _, rows in reads) == 1500


def test_reading_stays_ahead_by_no_more_than_its_windows(write_files, reads):
    batches = h5data(write_files([1000]), batch=10, window_bytes=20 * 50, prefetch=2).epoch(0)
    next(batches)
    threading.Event().wait(0.05)
    assert sum(rows for _, rows in reads) <= 3 * 50
    batches.close()


def test_skipped_windows_are_not_read(write_files, reads):
    list(h5data(write_files([1000]), batch=10, window_bytes=20 * 100).epoch(0, skip=75))
    assert sum(rows for _, rows in reads) == 300


def test_thread_ends_when_an_epoch_is_left(write_files):
    batches = h5data(write_files([1000])).epoch(0)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name == "nnlo-prefetch"]


def test_group_is_a_list_in_the_order_of_its_names(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["inputs/b"] = np.arange(20, dtype=np.uint8)
        file["inputs/a"] = np.arange(20.0)[:, None] * 2
        file["targets"] = np.arange(20, dtype=np.uint8)
    data = h5data([str(tmp_path / "a.h5")], features_name="inputs", labels_name="targets")
    for (a, b), y in data.epoch(0):
        assert (a.dtype, b.dtype, y.dtype) == (np.float32, np.float32, np.int32)
        np.testing.assert_array_equal(a[:, 0], 2 * y)
        np.testing.assert_array_equal(b, y)


def test_adaptors_get_the_arrays_of_a_batch(write_files):
    features = ("features", lambda x: [x[:, :1], x[:, 1:]])
    data = h5data(write_files([40]), features_name=features, labels_name=("labels", np.negative))
    for (one, two), y in data.epoch(0):
        assert (one.shape[1], two.shape[1]) == (1, 2)
        np.testing.assert_array_equal(one[:, 0], -y)


def test_pixels_are_divided_by_their_full_scale(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.array([[0], [51], [255]], np.uint8)
        file["features"].attrs["full_scale"] = 255
        file["labels"] = np.zeros((3, 2), np.float64)
    ((x, y),) = h5data([str(tmp_path / "a.h5")], shuffle=False).epoch(0)
    np.testing.assert_array_equal(x, np.float32([[0], [0.2], [1]]))
    assert y.dtype == np.float32


def test_override_of_load_data_is_used_in_place_of_streaming(write_files):
    class Shifted(H5Data):
        def load_data(self, file):
            x, y = super().load_data(file)
            return x, y + 1000

    data = Shifted(17)
    data.set_files(write_files([20, 30]))
    assert sorted(chain(*labels(data))) == list(range(1000, 1050))


def test_counts_of_another_rank_open_no_file():
    data = h5data(["not_there_1", "not_there_2"])
    data.set_counts([3, 4])
    assert data.n_samples == 7


def damaged(tmp_path, kind):
    path = tmp_path / "bad.h5"
    if kind == "text":
        path.write_text("x,y\n1,2\n" * 100)
    elif kind != "missing":
        with h5py.File(path, "w") as file:
            file["features"] = {"text in": ["a"] * 9}.get(
                kind, np.zeros((9, 4 - (kind != "wide")))
            )
            file["labels" if kind != "named" else "targets"] = np.zeros(8 + (kind != "short"), int)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"must exist, got .*bad\.h5"),
        ("text", r"readable HDF5, got .*bad\.h5"),
        ("named", r"'labels' must be in the file, got only features, targets in .*--labels-name"),
        ("short", r"equal length, got 9 and 8 in .*bad\.h5"),
        ("text in", r"array of numbers .* as /features in .*bad\.h5"),
        ("wide", r"one shape and type, got \(3,\) float32 in .*\(4,\) float32 in .*bad\.h5"),
    ],
)
def test_bad_file_is_an_error_of_count_that_names_it(write_files, tmp_path, kind, message):
    data = h5data([*write_files([5]), damaged(tmp_path, kind)])
    with pytest.raises(DataError, match=message):
        data.count()


def test_file_that_cannot_be_read_to_its_end_is_an_error_of_the_epoch(write_files):
    (name,) = write_files([5000], chunks=(500, 3), compression="gzip", shuffle=True)
    data = h5data([name])
    data.count()
    with h5py.File(name) as file:
        chunk = file["features"].id.get_chunk_info(3)
    with open(name, "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with pytest.raises(DataError, match=r"must be readable, got .*piece_0\.h5"):
        list(data.epoch(0))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"prefetch": -1}, "must not be negative"),
        ({"features_name": ("features", 3)}, "adaptor must be a function"),
        ({"copy_command": "cp {} {}"}, "with a cache folder"),
        ({"cache_dir": "c", "copy_command": "cp {}"}, "hold {} twice"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(how, message, monkeypatch):
    monkeypatch.delenv("DATA_CACHE", raising=False)
    with pytest.raises(ConfigError, match=message):
        H5Data(10, **how)
