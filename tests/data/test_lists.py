import pytest

from nnlo.data import read_list
from nnlo.errors import DataError


def test_blank_lines_and_comments_are_ignored(tmp_path):
    (tmp_path / "a.h5").touch()
    path = tmp_path / "train.list"
    path.write_text("\n# pieces\n  a.h5  \n\n")
    assert read_list(path) == [str(tmp_path / "a.h5")]


def test_name_is_looked_for_here_before_it_is_beside_the_list(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "a.h5").touch()
    (there / "b.h5").touch()
    (there / "train.list").write_text("a.h5\nb.h5\n")
    monkeypatch.chdir(here)
    assert read_list("../there/train.list") == [str(here / "a.h5"), str(there / "b.h5")]


def test_remote_names_are_left_to_the_copy_command(tmp_path):
    path = tmp_path / "train.list"
    path.write_text("root://server//store/a.h5\n")
    assert read_list(path) == ["root://server//store/a.h5"]


def test_listed_file_that_is_missing_is_named_with_its_line(tmp_path):
    path = tmp_path / "train.list"
    path.write_text("\n# first\nnot_there.h5\n")
    with pytest.raises(DataError, match=r"got not_there\.h5 in .*train\.list line 3"):
        read_list(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be readable"),
        (b"# nothing\n\n", "at least one file"),
        (b"\x89HDF\r\n\x1a\n\xff\xfe", "text file"),
    ],
)
def test_unusable_list_is_an_error_that_names_it(tmp_path, content, message):
    path = tmp_path / "train.list"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{message}.*train\.list"):
        read_list(path)


@pytest.mark.parametrize("name", ["../a.h5", "..", "x/../../a.h5", "../list/a.h5", "link/../a.h5"])
def test_relative_name_must_not_lead_out_of_its_folder(tmp_path, name):
    (tmp_path / "list").mkdir()
    (tmp_path / "a.h5").touch()
    (tmp_path / "list" / "a.h5").touch()
    path = tmp_path / "list" / "train.list"
    path.write_text(name)
    with pytest.raises(DataError, match=r"must not lead out .* line 1; give the absolute name"):
        read_list(path)


def test_absolute_names_and_links_lead_where_they_say(tmp_path):
    (tmp_path / "list").mkdir()
    (tmp_path / "a.h5").touch()
    (tmp_path / "list" / "link").symlink_to(tmp_path)
    path = tmp_path / "list" / "train.list"
    path.write_text(f"{tmp_path}/list/../a.h5\nlink/a.h5\n")
    assert read_list(path) == [str(tmp_path / "a.h5")] * 2


@pytest.mark.parametrize(
    "name", ["--target-directory=/etc://x", "-t://", "://x", "/a://b", "ä://x"]
)
def test_what_a_copy_command_could_take_for_an_option_is_no_remote_name(tmp_path, name):
    path = tmp_path / "train.list"
    path.write_text(name)
    with pytest.raises(DataError, match="must begin with its protocol"):
        read_list(path)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "a/" * 3000])
def test_names_that_no_filesystem_has_are_missing_files(tmp_path, name):
    path = tmp_path / "train.list"
    path.write_text(name)
    with pytest.raises(DataError, match="must exist"):
        read_list(path)
    with pytest.raises(DataError, match="must be readable"):
        read_list(name)
