"""Where a program that was started again goes on."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from nnlo.checkpoint import Checkpoint, CheckpointStore
from nnlo.cli.resume import resume_from

AGAIN = {"NNLO_RESTARTS": "1", "NNLO_SINCE": "100"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Checkpoints of epochs 2, 4 and 6, written at 120, 140 and 160 seconds."""
    store = CheckpointStore(tmp_path / "cp")
    for epoch in (2, 4, 6):
        path = store.save(Checkpoint({"weights": np.zeros(3)}, {"epoch": epoch}), epoch)
        os.utime(path, (100 + 10 * epoch,) * 2)
    return store.base


def resume(base: Path | None, given: Path | None = None, n: int = 9, **environ: str) -> str | None:
    path = resume_from(base, given, n, {**AGAIN, **environ})
    return path and path.name


def test_a_first_start_does_what_the_command_line_says(base: Path) -> None:
    assert resume_from(base, None, 9, {}) is None
    assert resume(base, Path("other"), NNLO_RESTARTS="0") == "other"


def test_a_restart_goes_on_from_the_newest_checkpoint(base: Path) -> None:
    assert resume(base, Path("other")) == "cp-00006.npz"


def test_a_damaged_checkpoint_is_passed_over(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = base.with_name("cp-00006.npz")
    newest.write_bytes(newest.read_bytes()[:-40])
    os.utime(newest, (160, 160))
    assert resume(base) == "cp-00004.npz"
    assert "cp-00006.npz" in caplog.text


def test_a_checkpoint_of_an_earlier_job_is_not_taken(base: Path) -> None:
    assert resume(base, NNLO_SINCE="150") == "cp-00006.npz"
    assert resume(base, NNLO_SINCE="161") is None


def test_a_checkpoint_with_nothing_left_to_do_is_passed_over(base: Path) -> None:
    assert resume(base, n=6) == "cp-00004.npz"


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("dp", None, "has not left a whole checkpoint and begins anew: all it had done is lost"),
        (None, None, "had no --checkpoint to write and begins anew"),
        ("dp", Path("x"), "begins again from x"),
    ],
)
def test_what_is_lost_is_said(
    base: Path,
    caplog: pytest.LogCaptureFixture,
    name: str | None,
    given: Path | None,
    expected: str,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert resume_from(name and base.with_name(name), given, 9, AGAIN) == given
    assert expected in caplog.text
