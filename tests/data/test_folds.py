"""The samples of one part of a fold, streamed."""

import copy
from itertools import chain

import h5py
import numpy as np
import pytest

from nnlo.data import Data, H5Data
from nnlo.data.folds import FoldData, read_classes
from nnlo.data.patience import Patience
from nnlo.data.source import Source
from nnlo.errors import ConfigError, DataError

UNEVEN = [7 * k % 41 for k in range(24)]


class Whole(Data):
    def load_data(self, file):
        with h5py.File(file) as opened:
            return opened["features"][:], opened["labels"][:]


def held_out_of(counts, share=0.3):
    return np.random.default_rng(0).random(sum(counts)) < share


def parts(files, counts, *, kind=H5Data, batch=17, shard=(0, 1), held_out=None, **how):
    """Data of the training part and of the validation part, as a training makes them."""
    if kind is H5Data:
        how = {"window_bytes": 2000, **how}
    held_out = held_out_of(counts) if held_out is None else held_out
    training = FoldData(kind(batch, **how), files, counts, held_out)
    validation = copy.copy(training)
    for data, names in ((training, training.train_list), (validation, training.val_list)):
        data.set_files(names)
        data.count()
        data.set_shard(*shard)
    return training, validation


def labels(data, epoch=0, skip=0):
    return [y.tolist() for _, y in data.epoch(epoch, skip)]


@pytest.mark.parametrize("kind", [H5Data, Whole])
@pytest.mark.parametrize("n_shards", [1, 7])
@pytest.mark.parametrize("counts", [[401], [100, 3, 298], UNEVEN], ids=["1", "3", "24"])
def test_each_sample_of_a_part_is_used_once_an_epoch(write_files, counts, n_shards, kind):
    both = parts(write_files(counts), counts, kind=kind)
    for validates, data in enumerate(both):
        for epoch in range(2):
            shards = []
            for k in range(n_shards):
                data.set_shard(k, n_shards)
                shards.append(labels(data, epoch))
            used = sorted(chain(*chain(*shards)))
            assert used == np.flatnonzero(held_out_of(counts) == validates).tolist()
            assert {len(batches) for batches in shards} == {data.n_batches(0)}


@pytest.mark.parametrize("kind", [H5Data, Whole])
def test_features_stay_with_their_labels(write_files, kind):
    files = write_files([50, 70], chunks=(9, 3), compression="gzip")
    for x, y in parts(files, [50, 70], kind=kind)[0].epoch(0):
        np.testing.assert_array_equal(x, np.repeat(y[:, None], 3, axis=1))


def test_seed_and_epoch_fix_the_order(write_files):
    files, counts = write_files([90, 60]), [90, 60]
    first, again = (parts(files, counts)[0] for _ in range(2))
    assert labels(first, 1) == labels(again, 1) != labels(again, 2)
    assert labels(first, 1) != labels(parts(files, counts, seed=1)[0], 1)
    in_order = list(chain(*labels(parts(files, counts, shuffle=False)[0])))
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("skip", [0, 1, 5, 100])
def test_skip_leaves_the_tail(write_files, skip):
    data, _ = parts(write_files([90, 60]), [90, 60], batch=8, shard=(1, 2))
    assert labels(data, 3, skip) == labels(data, 3)[skip:]


@pytest.fixture
def reads(monkeypatch):
    """(rows of the room, rows read) of each read from a file."""
    seen, read = [], Source.read

    def watched(self, start, stop, x, y, at):
        seen.append((len(y.arrays[0]), stop - start))
        read(self, start, stop, x, y, at)

    monkeypatch.setattr(Source, "read", watched)
    return seen


@pytest.mark.parametrize("validates", [False, True])
def test_pieces_are_bounded_and_no_row_is_read_more_than_twice(write_files, reads, validates):
    files = write_files([3000, 1500], chunks=(10, 3))
    list(parts(files, [3000, 1500], window_bytes=20 * 100)[validates].epoch(0))
    assert max(size for size, _ in reads) <= 100
    assert sum(rows for _, rows in reads) < 2 * 4500


def test_a_part_of_whole_files_reads_no_other_file(write_files, reads):
    held_out = np.repeat([False, True, False], 50)
    _, validation = parts(write_files([50] * 3), [50] * 3, held_out=held_out)
    assert sorted(chain(*labels(validation))) == list(range(50, 100))
    assert sum(rows for _, rows in reads) == 50


def test_a_stale_handle_is_met_with_patience(write_files, monkeypatch):
    files, read, failures = write_files([90, 60]), Source.read, [OSError(116, "stale")]

    def stale_once(self, *span):
        if failures:
            raise DataError("stale") from failures.pop()
        read(self, *span)

    monkeypatch.setattr(Source, "read", stale_once)
    monkeypatch.setattr(H5Data, "patience", Patience(sleep=lambda _: None))
    assert len(list(chain(*labels(parts(files, [90, 60])[0])))) == (~held_out_of([90, 60])).sum()


def test_adaptors_get_the_batches(write_files):
    how = {"labels_name": ("labels", lambda y: -y)}
    training, validation = parts(write_files([40]), [40], **how)
    used = chain(*labels(training), *labels(validation))
    assert sorted(used) == list(range(-39, 1))


def test_a_file_that_has_changed_is_refused(write_files):
    with pytest.raises(DataError, match=r"keep the 40 samples .* got 39 in .*piece_0"):
        parts(write_files([39, 41]), [40, 40])


def test_a_file_given_twice_is_refused(write_files):
    files = write_files([5, 5])
    with pytest.raises(ConfigError, match=r"each be there once, got .*piece_0\.h5 twice"):
        parts([*files, files[0]], [5, 5, 5])


def test_generated_batches_cannot_be_cut(write_files):
    class Generated(Data):
        def generate_data(self):
            yield np.zeros(3), np.zeros(3)

    with pytest.raises(ConfigError, match="Generated with a generate_data; override load_data"):
        parts([], [3], kind=Generated)


def test_other_lists_and_other_samples_are_refused(write_files):
    files = write_files([5])
    with pytest.raises(ConfigError, match="train_list or val_list"):
        parts(files, [5])[0].set_files(files)
    with pytest.raises(ConfigError, match=r"each of 5 samples, got \(4,\) bool"):
        parts(files, [5], held_out=np.zeros(4, bool))


def classes_of(tmp_path, *labels, kind=H5Data, **how):
    files = [str(tmp_path / f"{k}.h5") for k in range(len(labels))]
    for name, y in zip(files, labels, strict=True):
        with h5py.File(name, "w") as file:
            file["features"], file["labels"] = np.zeros((len(y), 2)), y
    data = kind(2, **({"window_bytes": 16, **how} if kind is H5Data else how))
    data.set_files(files)
    return read_classes(data)


@pytest.mark.parametrize("kind", [H5Data, Whole])
@pytest.mark.parametrize(
    "form", [np.array, np.float32, lambda y: np.eye(3)[y], lambda y: np.array(y)[:, None]]
)
def test_classes_are_found_in_any_form_of_label(tmp_path, form, kind):
    found = classes_of(tmp_path, form([2, 0, 1, 1, 2]), form([0, 2]), kind=kind)
    assert found.tolist() == [2, 0, 1, 1, 2, 0, 2]


@pytest.mark.parametrize(
    "other", [[0.5, 1.0], [np.nan, 1.0], [[1, 1], [0, 1]], [[0.5, 0.5]] * 2, np.zeros((2, 1, 1))]
)
def test_other_labels_have_no_classes(tmp_path, other):
    assert classes_of(tmp_path, np.asarray(other)) is None


def test_classes_are_those_that_the_model_sees_and_features_are_not_read(tmp_path, reads):
    how = {"labels_name": ("labels", lambda y: y % 2)}
    assert classes_of(tmp_path, np.arange(5), **how).tolist() == [0, 1, 0, 1, 0]
    assert max(size for size, _ in reads) == 2
