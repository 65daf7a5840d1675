"""Files appear whole or not at all."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from nnlo.errors import ConfigError
from nnlo.files import FolderLock, remove_leftovers, write_atomic, write_text


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
    assert seen == [False, True]  # the file, then the folder


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


# Leftovers and full disks ------------------------------------------------------------------------


def leftover(folder, name, age=0.0):
    path = folder / f".{name}.ab_c1234.part"
    path.write_text("half")
    now = time.time() - age
    os.utime(path, (now, now))
    return path.name


def test_a_writer_that_is_killed_leaves_the_old_file_and_one_that_can_be_removed(tmp_path):
    write_text(tmp_path / "text", "old")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom nnlo.files import write_atomic\n"
        "def half(stream):\n    stream.write(b'new'); stream.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomic(Path(sys.argv[1]), half)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "text")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "text").read_text() == "old"
    assert len(names(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["text"]


def test_only_old_leftovers_of_the_name_are_removed(tmp_path):
    old, young = leftover(tmp_path, "cp-1.npz", age=99), leftover(tmp_path, "cp-2.npz")
    others = [leftover(tmp_path, "text", age=99), ".hidden", "a.part", ".cp-1.npz.x.part"]
    for name in others[1:]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "cp-", before=time.time() - 50)
    assert names(tmp_path) == sorted([young, *others])
    assert old not in names(tmp_path)
    remove_leftovers(tmp_path / "nowhere")


def test_an_error_of_the_disk_in_other_words_is_told_as_it_was(tmp_path):
    def write(stream):
        try:
            os.write(os.open("/dev/full", os.O_WRONLY), b"x")
        except OSError:
            raise RuntimeError("unexpected pos 832") from None

    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "text", write)


def test_a_folder_without_sync_is_no_error(tmp_path, monkeypatch):
    sync = os.fsync

    def refuse(number):
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(number)

    monkeypatch.setattr("os.fsync", refuse)
    write_text(tmp_path / "text", "x")
    assert names(tmp_path) == ["text"]


# Locks -------------------------------------------------------------------------------------------

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom nnlo.files import FolderLock\n"
    "lock = FolderLock(Path(sys.argv[1])); lock.take()\n"
    "print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".lock")], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_the_one_who_holds_a_folder_is_named(tmp_path, holder):
    lock = FolderLock(tmp_path / ".lock")
    with pytest.raises(ConfigError, match=rf"process {holder.pid} on \S+ since 20.* is using"):
        lock.take()
    assert not lock.is_held


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.kill()
    lock = FolderLock(tmp_path / ".lock")
    lock.take(patience=5.0)
    assert lock.is_held
    assert (tmp_path / ".lock").read_text().split()[1] == str(os.getpid())
    lock.release()


def test_a_lock_is_free_again_when_it_is_released_or_forgotten(tmp_path):
    first = FolderLock(tmp_path / ".lock")
    first.take()
    first.take()
    with pytest.raises(ConfigError, match="folder to itself"):
        FolderLock(tmp_path / ".lock").take()
    first.release()
    second = FolderLock(tmp_path / ".lock")
    second.take()
    del second
    first.take()
    first.release()


def test_a_filesystem_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = FolderLock(tmp_path / ".lock")
    lock.take()
    assert not lock.is_held
    assert "no locks (No locks available)" in caplog.text
