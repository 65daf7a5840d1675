"""Checkpoints are whole, checked and harmless."""

import os
import pickle
import resource
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from nnlo.checkpoint import Checkpoint, CheckpointStore, read
from nnlo.errors import CheckpointError, ConfigError

ARRAYS = {
    "weights": np.arange(5000, dtype=np.float32),
    "algo/count": np.array(7, np.int64),
    "worker/1/position": np.array([3, 4]),
    "worker/1/rng": np.frombuffer(b"\x00\xff" * 8, np.uint8),
    "worker/11/position": np.array([5, 6]),
    "empty": np.zeros((0, 3), np.float32),
}
META = {
    "epoch": 3,
    "rate": 0.1 + 0.2,
    "history": '{"ä": "\\"\n"}',
    "sums": [1.0, 1e-300],
    "n": None,
}


def save(folder, epoch=3, **options):
    return CheckpointStore(folder / "cp", **options).save(Checkpoint(ARRAYS, META), epoch)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    path = save(tmp_path)
    assert path == tmp_path / "cp-00003.npz"
    again = read(path)
    assert again.meta == META
    assert list(again.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert again.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(again.arrays[name], array, strict=True)


def test_a_part_is_what_is_under_its_prefix():
    part = Checkpoint(ARRAYS).part("worker/1/")
    assert sorted(part) == ["position", "rng"]
    np.testing.assert_array_equal(part["position"], [3, 4])


def test_values_that_are_not_finite_come_back(tmp_path):
    odd = np.float32([np.nan, np.inf, -np.inf, -0.0])
    path = CheckpointStore(tmp_path / "cp").save(Checkpoint({"weights": odd}), 1)
    assert read(path).arrays["weights"].tobytes() == odd.tobytes()


def test_a_flipped_byte_in_an_array_is_found(tmp_path):
    whole = bytearray(save(tmp_path).read_bytes())
    start = whole.find(ARRAYS["weights"].tobytes())
    for position in range(start, start + ARRAYS["weights"].nbytes, 1777):
        bad = tmp_path / "bad.npz"
        bad.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(CheckpointError, match="Bad CRC-32"):
            read(bad)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_pickled_is_ever_executed(tmp_path):
    bomb = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    np.savez(tmp_path / "a.npz", weights=bomb, meta=np.array("{}"))
    np.savez(tmp_path / "b.npz", weights=np.zeros(3), meta=np.array(Bomb(tmp_path / "exploded")))
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    for name in ("a.npz", "b.npz", "c.npz"):
        with pytest.raises(CheckpointError):
            read(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_objects_are_not_written(tmp_path):
    store = CheckpointStore(tmp_path / "cp")
    with pytest.raises(ValueError, match="allow_pickle"):
        store.save(Checkpoint({"weights": np.array([{}], dtype=object)}), 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"text"])
def test_another_file_is_an_error(content, tmp_path):
    (tmp_path / "cp.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match="complete archive"):
        read(tmp_path / "cp.npz")


def test_a_missing_file_and_an_archive_without_meta_are_errors(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read(tmp_path / "none.npz")
    np.savez(tmp_path / "weights.npz", weights=np.zeros(3))
    with pytest.raises(CheckpointError, match="meta"):
        read(tmp_path / "weights.npz")
    np.savez(tmp_path / "text.npz", meta=np.array("not json"))
    with pytest.raises(CheckpointError, match="complete archive"):
        read(tmp_path / "text.npz")
    with pytest.raises(CheckpointError, match="complete archive"):
        read(tmp_path)


def test_the_newest_few_are_kept(tmp_path):
    for epoch in (1, 2, 3, 10, 12):
        save(tmp_path, epoch)
    (tmp_path / "cp-other-00001.npz").write_bytes(b"")
    (tmp_path / "cp-00001.npz.txt").write_bytes(b"")
    names = [path.name for path in CheckpointStore(tmp_path / "cp").files()]
    assert names == ["cp-00003.npz", "cp-00010.npz", "cp-00012.npz"]
    save(tmp_path, 13, keep=1)
    assert len(CheckpointStore(tmp_path / "cp").files()) == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_without_a_whole_one_all_reasons_are_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"must be at .*cp-\*.npz, got none"):
        CheckpointStore(tmp_path / "cp").newest()
    with pytest.raises(CheckpointError, match="got none"):
        CheckpointStore(tmp_path / "no" / "cp").newest()
    for epoch in (1, 2):
        (tmp_path / f"cp-0000{epoch}.npz").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"(?s)cp-00002.*cp-00001") as caught:
        CheckpointStore(tmp_path / "cp").newest()
    assert len(str(caught.value).splitlines()) == 2


def test_a_disk_that_is_full_leaves_the_older_ones(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def fail(_number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(CheckpointError, match=r"cp-00002.npz, got .*No space left.*; free space"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["cp-00001.npz"]


def test_a_file_cut_off_anywhere_is_an_error(tmp_path):
    whole = save(tmp_path).read_bytes()
    for size in {*range(0, len(whole), 397), *range(len(whole) - 60, len(whole)), 1, 2, 4, 30}:
        cut = tmp_path / "cut.npz"
        cut.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"must be a complete archive, got .*cut\.npz"):
            read(cut)


def test_the_newest_whole_one_is_read(tmp_path):
    for epoch in (1, 2, 3):
        path = CheckpointStore(tmp_path / "cp").save(Checkpoint({}, {"epoch": epoch}), epoch)
        os.utime(path, ns=(epoch, epoch))
    path.write_bytes(path.read_bytes()[:-5])
    assert CheckpointStore(tmp_path / "cp").newest().meta == {"epoch": 2}


@pytest.mark.parametrize("content", [b"PK\x05\x06" + bytes(18), b"PK\x03\x04"])
def test_half_an_archive_is_an_error(content, tmp_path):
    (tmp_path / "cp.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match="complete archive"):
        read(tmp_path / "cp.npz")


def test_any_damaged_byte_is_found_or_harmless(tmp_path):
    arrays = {"weights": np.arange(20, dtype=np.float32)}
    whole = CheckpointStore(tmp_path / "cp").save(Checkpoint(arrays, {"a": 1}), 1).read_bytes()
    bad = tmp_path / "bad.npz"
    for position in range(0, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        bad.write_bytes(damaged)
        try:
            again = read(bad)
        except CheckpointError:
            continue
        assert again.meta == {"a": 1}, position
        np.testing.assert_array_equal(again.arrays["weights"], arrays["weights"], strict=True)


def test_a_damaged_shape_of_a_large_array_is_found(tmp_path):
    arrays = {"weights": np.arange(50_000, dtype=np.float32)}
    path = CheckpointStore(tmp_path / "cp").save(Checkpoint(arrays, {}), 1)
    path.write_bytes(path.read_bytes().replace(b"(50000,", b"(10000,"))
    with pytest.raises(CheckpointError):
        read(path)


def test_a_single_array_is_not_a_checkpoint(tmp_path):
    np.save(tmp_path / "cp.npy", np.zeros(3))
    with pytest.raises(CheckpointError, match="complete archive"):
        read(tmp_path / "cp.npy")


def test_damaged_ones_that_are_passed_over_are_named(tmp_path, caplog):
    caplog.set_level("INFO", "nnlo")
    for epoch in (1, 2):
        path = save(tmp_path, epoch)
        os.utime(path, ns=(epoch, epoch))
    page = bytearray(path.read_bytes())
    page[4096:8192] = bytes(4096)
    path.write_bytes(page)
    assert CheckpointStore(tmp_path / "cp").newest().meta == META
    warned, said = caplog.records
    assert "passed over" in warned.getMessage()
    assert str(path) in warned.getMessage()
    assert said.getMessage() == f"read checkpoint {tmp_path / 'cp-00001.npz'}"


def test_more_bytes_at_the_end_are_harmless_or_found(tmp_path):
    path = save(tmp_path)
    whole = path.read_bytes()
    for more in (b"\0", bytes(4096), whole[:5000], whole, bytes(100_000)):
        path.write_bytes(whole + more)
        with suppress(CheckpointError):
            np.testing.assert_array_equal(read(path).arrays["weights"], ARRAYS["weights"])


def test_members_larger_than_the_file_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.npy", bytes(2**24))
    with pytest.raises(CheckpointError, match="compressed"):
        read(tmp_path / "bomb.npz")


def test_what_a_killed_writer_left_is_removed_once_it_is_old(tmp_path):
    old, young = (tmp_path / f".cp-0000{k}.npz.abcdefgh.part" for k in (1, 2))
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "cp-00003.npz"]


def test_the_one_just_written_stays_where_the_clock_was_set_back(tmp_path):
    old = save(tmp_path, 1)
    os.utime(old, (2e9, 2e9))
    assert save(tmp_path, 2, keep=1).exists()


def test_a_folder_that_cannot_be_written_is_an_error_before_the_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--checkpoint must be in a folder .*/file"):
        CheckpointStore(tmp_path / "file" / "cp").prepare()
    CheckpointStore(tmp_path / "new" / "cp").prepare()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_name_too_long_for_a_file_is_no_traceback(tmp_path):
    with pytest.raises(CheckpointError):
        CheckpointStore(tmp_path / ("x" * 300) / "cp").newest()


def test_a_disk_that_takes_no_more_bytes_leaves_the_older_ones(tmp_path):
    before = save(tmp_path, 1).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cp-00002.npz, got .*File too large"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
