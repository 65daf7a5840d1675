"""Files appear whole or not at all."""

import os
import stat

import pytest

from nnlo.files import write_atomic, write_text


def half_then_fail(stream):
    stream.write(b"half")
    raise RuntimeError("cable pulled")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path):
    write_text(tmp_path / "a" / "b" / "text", "Größe 1")
    assert (tmp_path / "a/b/text").read_text(encoding="utf-8") == "Größe 1"
    assert names(tmp_path / "a/b") == ["text"]


def test_a_file_is_replaced(tmp_path):
    for text in ("a long first text", "second"):
        write_text(tmp_path / "text", text)
    assert (tmp_path / "text").read_text() == "second"


def test_a_failure_in_the_middle_leaves_the_old_file_and_no_other(tmp_path):
    write_text(tmp_path / "text", "old")
    with pytest.raises(RuntimeError, match="cable pulled"):
        write_atomic(tmp_path / "text", half_then_fail)
    assert (tmp_path / "text").read_text() == "old"
    assert names(tmp_path) == ["text"]


def test_a_failure_at_the_first_time_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        write_atomic(tmp_path / "text", half_then_fail)
    assert names(tmp_path) == []


def test_an_interruption_leaves_nothing_either(tmp_path):
    def interrupt(stream):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "text", interrupt)
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_failure_after_the_last_byte_leaves_the_old_file(step, tmp_path, monkeypatch):
    write_text(tmp_path / "text", "old")

    def fail(*_args, **_options):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("os.fsync" if step == "fsync" else f"pathlib.Path.{step}", fail)
    with pytest.raises(OSError, match="no space left"):
        write_text(tmp_path / "text", "new")
    monkeypatch.undo()
    assert (tmp_path / "text").read_text() == "old"
    assert names(tmp_path) == ["text"]


def test_the_data_is_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    path, sync, seen = tmp_path / "text", os.fsync, []
    monkeypatch.setattr("os.fsync", lambda number: (seen.append(path.exists()), sync(number)))
    write_text(path, "x")
    assert seen == [False]


def test_a_folder_that_cannot_be_written_is_the_systems_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "text", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_the_systems_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "text", "x")
    tmp_path.chmod(0o700)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_an_ordinary_file(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "text", "x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "text").stat().st_mode) == mode
