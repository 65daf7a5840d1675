"""What a job leaves for the nnlorun that has started it."""

import os
from pathlib import Path

import pytest

from nnlo.cli.marks import (
    Marks,
    code_of_end,
    count_restarts,
    first_start,
    is_up,
    mark_done,
    mark_ranks,
    mark_started,
    mark_up,
    read_marks,
)


def test_marks_are_read_as_they_were_left(tmp_path: Path) -> None:
    environ = {"NNLO_JOB": str(tmp_path)}
    assert read_marks(tmp_path) == Marks()
    mark_ranks(environ)
    assert read_marks(tmp_path) == Marks(ranks=True)
    mark_started(tmp_path / "checkpoints" / "cp", environ)
    mark_done(75, environ)
    assert read_marks(tmp_path) == Marks(True, True, tmp_path / "checkpoints" / "cp", 75)


def test_a_relative_base_is_told_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark_started(Path("cp"), {"NNLO_JOB": str(tmp_path)})
    assert read_marks(tmp_path).checkpoint == tmp_path / "cp"


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    mark_started(None, {"NNLO_JOB": str(tmp_path)})
    assert read_marks(tmp_path) == Marks(True, True)


@pytest.mark.parametrize("environ", [{}, {"NNLO_JOB": "/nowhere/at/all"}])
def test_without_a_folder_nothing_happens(environ: dict[str, str], tmp_path: Path) -> None:
    mark_started(tmp_path / "cp", environ)
    mark_done(0, environ)
    assert list(tmp_path.iterdir()) == []
    assert read_marks(Path("/nowhere/at/all")) == Marks()


def test_a_mark_that_was_cut_off_counts_as_started_only(tmp_path: Path) -> None:
    (tmp_path / "started").touch()
    (tmp_path / "done").touch()
    assert read_marks(tmp_path) == Marks(True, True)


@pytest.mark.parametrize(
    ("signal", "with_checkpoint", "without"),
    [("SIGINT", 130, 130), ("SIGTERM", 75, 143), ("SIGUSR1", 75, 138)],
)
def test_only_what_is_saved_can_be_started_again(
    signal: str, with_checkpoint: int, without: int
) -> None:
    text = f"interruption ({signal})"
    assert code_of_end(text, has_checkpoint=True) == with_checkpoint
    assert code_of_end(text, has_checkpoint=False) == without
    assert code_of_end("", has_checkpoint=True) == 0


@pytest.mark.parametrize(("text", "n"), [("3", 3), ("", 0), ("often", 0), ("-1", 0)])
def test_restarts_are_a_number(text: str, n: int) -> None:
    assert count_restarts({"NNLO_RESTARTS": text}) == n
    assert count_restarts({}) == 0


def test_the_first_start_is_a_time() -> None:
    assert first_start({"NNLO_SINCE": "12.5"}) == 12.5
    assert first_start({}) == first_start({"NNLO_SINCE": "once"}) == 0.0


def test_a_process_is_up_once_it_or_the_training_says_so(tmp_path: Path) -> None:
    assert not is_up(tmp_path, os.getpid())
    mark_up({"NNLO_JOB": str(tmp_path)})
    assert is_up(tmp_path, os.getpid())
    assert not is_up(tmp_path, 1)
    mark_started(None, {"NNLO_JOB": str(tmp_path)})
    assert is_up(tmp_path, 1)
