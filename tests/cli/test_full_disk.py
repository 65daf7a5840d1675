"""A disk that takes no more in mid-run, by the limit that the system has for files."""

import json
import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnlo import log as logs
from nnlo.errors import ConfigError
from nnlo.report.tensorboard import TensorBoard

ROOT = Path(__file__).parents[2]


def train(folder, limit_kib, *options):
    """One process that cannot write files above ``limit_kib``; the ended process."""
    line = [sys.executable, "-m", "nnlo.cli.train", "--model", "digits", "--epochs", "3"]
    line += ["--checkpoint", "CP", "--checkpoint-interval", "1", *options]
    return subprocess.run(
        ["bash", "-c", f'ulimit -f {limit_kib} && exec "$@"', "bash", *line],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run whose checkpoints, of 1.5 MB, are too large; its models, of 0.4 MB, are not."""
    folder = tmp_path_factory.mktemp("full")
    return train(folder, 1000), folder / "runs" / "digits-train"


def test_checkpoints_that_do_not_fit_are_logged_and_the_run_goes_on(ended):
    process, folder = ended
    for epoch in (1, 2, 3):
        assert f"epoch {epoch}/3" in process.stderr
        assert f"checkpoints/CP-0000{epoch}.npz, got [Errno 27] File too large" in process.stderr
    assert list((folder / "checkpoints").iterdir()) == []
    assert "Traceback" not in process.stderr


def test_without_its_last_checkpoint_a_run_has_failed_but_its_results_are_there(ended):
    process, folder = ended
    assert process.returncode == 1
    assert "error: a checkpoint must be written to" in process.stderr.splitlines()[-1]
    assert len(json.loads((folder / "history.json").read_text())["epochs"]) == 3
    assert {"model.keras", "best.keras", "weights.npz"} <= {p.name for p in folder.iterdir()}


def test_results_that_do_not_fit_are_one_error(tmp_path):
    process = train(tmp_path, 100, "--tensorboard", "--timeline")
    assert process.returncode == 1
    assert "error: results must be written to" in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
    folder = tmp_path / "runs" / "digits-train"
    names = {path.name for path in folder.iterdir()}
    assert {"history.json", "timeline.json", "tensorboard"} <= names
    assert not {"model.keras", "weights.npz"} & names


def test_a_folder_that_cannot_be_written_is_one_error_before_the_run(tmp_path):
    process = train(tmp_path, 10_000, "--checkpoint", "/dev/full/x")
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert "error: --checkpoint must be in a folder that can be written, got /dev/full" in last
    assert "epoch 1" not in process.stderr


@pytest.fixture
def logger():
    """The package's, which gets its handlers and its way to the root back."""
    logger = logging.getLogger("nnlo")
    yield logger
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)
        with suppress(OSError):
            handler.close()
    logger.propagate = True


def test_a_log_that_is_full_says_so_once(logger, capsys):
    logs.set_up("test", file=Path("/dev/full"))
    for number in range(3):
        logger.warning("line %d", number)
    written = capsys.readouterr().err
    assert written.count("/dev/full: [Errno 28] No space left on device; it lacks lines") == 1
    assert written.count("WARNING line") == 3


def test_a_log_that_cannot_be_opened_is_a_config_error(logger, tmp_path):
    with pytest.raises(ConfigError, match="log must be written to"):
        logs.set_up("test", file=tmp_path)


def test_event_files_that_are_full_end_the_events_only(tmp_path, caplog):
    board = TensorBoard(tmp_path / "events")
    board.begin(None, None)
    board._writer.close()

    def fail(*_args):
        raise OSError(28, "No space left on device")

    board._writer = SimpleNamespace(add_scalar=fail)
    for epoch in range(3):
        board.epoch_ended(epoch, {"epoch": epoch + 1, "loss": 0.5})
    board.end()
    assert len(caplog.records) == 1
    assert "events: [Errno 28] No space left on device; the run goes on" in caplog.text
