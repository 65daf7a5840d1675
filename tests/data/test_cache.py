import os
import threading
from pathlib import Path

import pytest

from nnlo.data import H5Data
from nnlo.data.cache import FileCache
from nnlo.errors import DataError


@pytest.fixture
def folders(tmp_path):
    """Two folders with a file of the same, awkward name."""
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "x; rm {} $HOME 'y'.h5")
        paths[-1].write_text(folder)
    return [str(path) for path in paths]


def test_files_of_one_name_are_copied_apart_and_removed_on_close(tmp_path, folders):
    cache = FileCache(tmp_path / "cache")
    copies = [cache.fetch(file) for file in folders]
    assert [Path(copy).read_text() for copy in copies] == ["a", "b"]
    assert copies == [cache.fetch(file) for file in folders]
    cache.close()
    assert os.listdir(tmp_path / "cache") == []


def test_copy_of_another_process_is_used_and_left(tmp_path, folders):
    ours, theirs = FileCache(tmp_path / "cache"), FileCache(tmp_path / "cache", "false {} {}")
    copy = ours.fetch(folders[0])
    assert theirs.fetch(folders[0]) == copy
    theirs.close()
    assert os.path.exists(copy)


def test_changed_file_is_copied_again(tmp_path, folders):
    cache = FileCache(tmp_path / "cache")
    cache.fetch(folders[0])
    with open(folders[0], "a") as file:
        file.write(" and more")
    assert Path(cache.fetch(folders[0])).read_text() == "a and more"


def test_copies_at_the_same_time_do_not_collide(tmp_path, folders):
    caches = [FileCache(tmp_path / "cache") for _ in range(8)]
    threads = [threading.Thread(target=c.fetch, args=(folders[0],)) for c in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(os.listdir(tmp_path / "cache")) == 1
    for cache in caches:
        cache.close()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sh -c 'echo planted >&2; exit 3' {} {}", "exit code 3 .*planted"),
        ("no_such_program {} {}", "must run .*no_such_program"),
        ("true {} {}", "leave a file"),
    ],
)
def test_command_that_fails_is_an_error_and_leaves_nothing(tmp_path, folders, command, message):
    with pytest.raises(DataError, match=message):
        FileCache(tmp_path / "cache", command).fetch(folders[0])
    assert os.listdir(tmp_path / "cache") == []


def test_streaming_reads_the_copies(write_files, tmp_path, monkeypatch):
    files = write_files([30, 40])
    monkeypatch.setenv("DATA_CACHE", str(tmp_path / "cache"))
    data = H5Data(8)
    data.set_files(files)
    assert sum(len(y) for _, y in data.epoch(0)) == 70
    assert len(os.listdir(tmp_path / "cache")) == 2
    data.close()
    assert os.listdir(tmp_path / "cache") == []
