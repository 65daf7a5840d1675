import runpy
import sys
from pathlib import Path

import h5py
import pytest

from nnlo.cli.getdata import main
from nnlo.data import read_list


def test_pieces_and_lists_are_written_where_asked(tmp_path, capsys):
    code = main(["digits", "--out", str(tmp_path), "--train-files", "3", "--test-files", "2"])
    assert code == 0
    assert len(read_list(tmp_path / "train_digits.list")) == 3
    assert len(read_list(tmp_path / "test_digits.list")) == 2
    assert "train_digits.list: 3 files" in capsys.readouterr().out


def test_showers_are_made_in_the_number_asked_for(tmp_path):
    pieces = ["--train-files", "2", "--test-files", "1"]
    assert main(["calo3d", "--out", str(tmp_path), "--samples", "10", *pieces]) == 0
    with h5py.File(read_list(tmp_path / "test_calo3d.list")[0]) as file:
        assert file["X"].shape == (2, 25, 25, 25, 1)
        assert file["y"].shape == (2,)


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
