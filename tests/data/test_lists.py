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
