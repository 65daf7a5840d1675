"""Files that vanish, shrink, break or fail for a moment: a DataError that names them, in time."""

import errno
import os
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from nnlo.data import Data, H5Data, source
from nnlo.data.patience import Patience
from nnlo.errors import DataError

PAUSES = (0.1, 0.2, 0.4)


@pytest.fixture
def slept():
    """The pauses that have been made."""
    return []


@pytest.fixture
def counted(write_files, slept):
    """Data of three files of 40 samples, counted, in windows of 5."""

    def make(kind=H5Data, prefetch=0, **how):
        data = kind(5, prefetch=prefetch, window_bytes=80)
        data.patience = Patience(PAUSES, slept.append)
        data.set_files(write_files([40, 40, 40], **how))
        data.count()
        return data

    return make


def n_threads():
    return sum(thread.name == "nnlo-prefetch" for thread in threading.enumerate())


class Flaky:
    """Raises ``error`` the first ``times`` times, then does what ``function`` does."""

    def __init__(self, function, error, times):
        self.function, self.error, self.times = function, error, times

    def __call__(self, *args, **options):
        if self.times > 0:
            self.times -= 1
            raise self.error
        return self.function(*args, **options)


def system_error(number):
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOENT, errno.ETIMEDOUT])
def test_opening_that_fails_for_a_moment_is_tried_again(counted, slept, monkeypatch, number):
    data = counted()
    monkeypatch.setattr(source.h5py, "File", Flaky(h5py.File, system_error(number), 2))
    assert sum(len(y) for _, y in data.epoch(0)) == 120
    assert slept == [0.1, 0.2]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_reading_that_fails_for_a_moment_opens_the_file_again(
    counted, slept, monkeypatch, caplog, number
):
    data = counted()
    batches = data.epoch(0)
    first = next(batches)
    read = Flaky(source.h5py.Dataset.read_direct, system_error(number), 2)
    monkeypatch.setattr(source.h5py.Dataset, "read_direct", lambda *args: read(*args))
    seen = [first[1], *(y for _, y in batches)]
    assert sorted(np.concatenate(seen)) == list(range(120))
    assert slept == [0.1, 0.2]
    assert len(caplog.records) == 1
    assert os.strerror(number) in caplog.text


def test_patience_ends_with_what_was_tried(counted, slept, monkeypatch):
    data = counted()
    monkeypatch.setattr(source.h5py, "File", Flaky(h5py.File, system_error(errno.EIO), 99))
    with pytest.raises(DataError, match=r"piece_\d\.h5.* 4 times in 0 s; check the file"):
        list(data.epoch(0))
    assert slept == list(PAUSES)


def test_a_missing_file_is_told_at_once_before_the_run(counted, slept):
    data = counted()
    data.set_files([*data.files, "/no/such/file.h5"])
    with pytest.raises(DataError, match=r"must exist, got /no/such/file\.h5; correct the list"):
        data.count()
    assert slept == []


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_file_that_vanishes_in_mid_run_is_an_error_that_names_it(counted, slept, prefetch):
    data = counted(prefetch=prefetch)
    batches = data.epoch(0)
    next(batches)
    for file in data.files:
        os.unlink(file)
    with pytest.raises(DataError, match=r"must exist, got .*piece_\d\.h5.* 4 times"):
        list(batches)
    assert slept == list(PAUSES)
    assert n_threads() == 0


@pytest.mark.parametrize("count", [39, 41, 0])
def test_a_file_that_changed_its_length_since_it_was_counted_is_an_error(
    counted, write_files, count
):
    data = counted()
    write_files([40, count, 40])
    with pytest.raises(DataError, match=rf"keep the 40 rows .* got {count} in .*piece_1\.h5"):
        list(data.epoch(0))


def test_a_file_that_changed_its_form_is_an_error(counted):
    data = counted()
    with h5py.File(data.files[1], "w") as file:
        file["features"], file["labels"] = np.zeros((40, 4)), np.zeros(40)
    with pytest.raises(DataError, match="one shape and type, got"):
        list(data.epoch(0))


def test_what_a_users_load_data_raises_for_a_moment_is_tried_again(counted, slept):
    class Own(H5Data):
        def load_data(self, file):
            return load(self, file)

    load = Flaky(lambda self, file: H5Data.load_data(self, file), system_error(errno.ESTALE), 0)
    data = counted(Own)
    load.times = 2
    assert sum(len(y) for _, y in data.epoch(0)) == 120
    load.times = 99
    with pytest.raises(DataError, match=r"Stale file handle for .*piece_\d\.h5, 4 times"):
        list(data.epoch(1))


def test_a_users_own_error_comes_up_as_it_is(write_files, slept):
    class Own(Data):
        def load_data(self, file):
            raise PermissionError(errno.EACCES, "not you")

    data = Own(5)
    data.patience = Patience(PAUSES, slept.append)
    data.set_files(write_files([5]))
    with pytest.raises(PermissionError, match="not you"):
        data.count()
    assert slept == []


# Damaged files -----------------------------------------------------------------------------------

FILTERS = {
    "gzip": {"compression": "gzip"},
    "lzf": {"compression": "lzf"},
    "checksum": {"fletcher32": True},
    "gzip and checksum": {"compression": "gzip", "shuffle": True, "fletcher32": True},
}


def damage_chunk(name, how):
    with h5py.File(name) as file:
        chunk = file["features"].id.get_chunk_info(1)
    with open(name, "r+b") as file:
        file.seek(chunk.byte_offset + chunk.size // 2)
        if how == "flipped":
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 0x10]))
        elif how == "zeros":
            file.write(bytes(chunk.size // 2))
        else:
            file.truncate()


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("how", ["flipped", "zeros", "truncated"])
@pytest.mark.parametrize("filters", FILTERS)
def test_a_damaged_chunk_is_an_error_that_names_the_file(counted, filters, how, prefetch):
    data = counted(prefetch=prefetch, chunks=(10, 3), **FILTERS[filters])
    damage_chunk(data.files[1], how)
    try:
        seen = np.concatenate([x[:, 0] for x, _ in data.epoch(0)])
    except DataError as error:
        assert "piece_1.h5" in str(error)  # noqa: PT017 (lzf has no checksum)
    else:
        assert filters == "lzf"
        assert len(seen) == 120
    assert n_threads() == 0


@pytest.mark.parametrize("size", [0, 1, 8, 100, 800, 2000])
def test_a_file_cut_off_anywhere_is_an_error_that_names_it(counted, size):
    data = counted()
    os.truncate(data.files[1], size)
    for attempt in (data.count, lambda: list(data.epoch(0))):
        with pytest.raises(DataError, match=r"piece_1\.h5"):
            attempt()


def test_a_virtual_dataset_without_its_files_is_an_error(tmp_path, write_files):
    files = write_files([20, 20], folder=tmp_path)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        for name, shape, kind in (("features", (40, 3), "f4"), ("labels", (40,), "i8")):
            layout = h5py.VirtualLayout(shape, kind)
            for k, part in enumerate(files):
                rows = h5py.VirtualSource(os.path.basename(part), name, (20, *shape[1:]))
                layout[20 * k : 20 * k + 20] = rows
            file.create_virtual_dataset(name, layout)
    data = H5Data(10)
    data.set_files([tmp_path / "all.h5"])
    assert sorted(np.concatenate([y for _, y in data.epoch(0)])) == list(range(40))
    os.unlink(files[1])
    with pytest.raises(DataError, match=r"none called piece_1\.h5 for /features in .*all\.h5"):
        data.count()


@pytest.mark.parametrize("scale", [0, -1.0, np.nan, np.inf, "255", [1.0, 2.0], h5py.Empty("f")])
def test_a_full_scale_that_is_no_divisor_is_an_error(tmp_path, scale):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["labels"] = np.zeros((4, 2)), np.zeros(4)
        file["features"].attrs["full_scale"] = scale
    data = H5Data(2)
    data.set_files([tmp_path / "a.h5"])
    with pytest.raises(DataError, match="full_scale must be a number above 0"):
        data.count()


def test_rows_beyond_all_memory_are_an_error(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", (4, 2**50), "f4", chunks=(1, 2**20))
        file["labels"] = np.zeros(4)
    data = H5Data(4, prefetch=0)
    data.set_files([tmp_path / "a.h5"])
    data.count()
    with pytest.raises(DataError, match="4 rows must fit into memory"):
        list(data.epoch(0))


# Copies ------------------------------------------------------------------------------------------


def test_a_copy_that_fails_for_a_moment_is_made_again(counted, slept, tmp_path):
    script = tmp_path / "copy.sh"
    script.write_text(
        f'[ -e {tmp_path}/up ] && cp "$1" "$2" || {{ touch {tmp_path}/up; exit 7; }}'
    )
    data = H5Data(5, cache_dir=tmp_path / "cache", copy_command=f"sh {script} {{}} {{}}")
    data.patience = Patience(PAUSES, slept.append)
    data.set_files(counted().files)
    data.set_counts([40, 40, 40])
    assert sum(len(y) for _, y in data.epoch(0)) == 120
    assert slept == [0.1]


@pytest.mark.parametrize(
    "name",
    ["root://../../../etc/x", "root://a/..", "root://-x", "a://" + "ä" * 300, "a://\0", "//"],
)
def test_copies_stay_in_the_cache_whatever_the_name(tmp_path, name):
    cache = tmp_path / "a" / "cache"
    data = H5Data(5, cache_dir=cache, copy_command="sh -c 'touch \"$1\"' {} {}")
    if "\0" in name:
        with pytest.raises(DataError, match="null byte"):
            data._local(name)
    else:
        assert Path(data._local(name)).parent == cache
    data.close()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
