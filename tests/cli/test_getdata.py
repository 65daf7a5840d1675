import runpy
import sys
from pathlib import Path

import pytest

from nnlo.cli.getdata import main
from nnlo.data import read_list


def test_pieces_and_lists_are_written_where_asked(tmp_path, capsys):
    code = main(["digits", "--out", str(tmp_path), "--train-files", "3", "--test-files", "2"])
    assert code == 0
    assert len(read_list(tmp_path / "train_digits.list")) == 3
    assert len(read_list(tmp_path / "test_digits.list")) == 2
    assert "train_digits.list: 3 files" in capsys.readouterr().out


def test_current_directory_is_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["digits"]) == 0
    assert (tmp_path / "train_digits.list").exists()


def test_error_is_one_line_and_exit_code_1(tmp_path, capsys):
    code = main(["mnist", "--source", str(tmp_path / "none.npz"), "--out", str(tmp_path)])
    message = capsys.readouterr().err
    assert code == 1
    assert message.startswith("GetData: error: source must exist, got ")
    assert message.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["letters"], ["digits", "--train-files", "two"]])
def test_wrong_usage_is_exit_code_2(argv):
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2


def test_driver_is_the_same_program(tmp_path, monkeypatch):
    driver = Path(__file__).resolve().parents[2] / "drivers/GetData.py"
    monkeypatch.setattr(sys, "argv", ["GetData", "digits", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(driver), run_name="__main__")
    assert left.value.code == 0
    assert (tmp_path / "test_digits.list").exists()
