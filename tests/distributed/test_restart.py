"""Jobs that lose ranks under the real nnlorun, which starts them again or says what is left."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from nnlo.checkpoint import CheckpointStore

pytest.importorskip("torch")

pytestmark = pytest.mark.distributed

SAVING = ("--batch", 25, "--checkpoint", "cp", "--checkpoint-interval", 1)


@pytest.fixture
def nnlorun(launch, digits, tmp_path):
    """Start TrainingDriver on three ranks under nnlorun with ``options``."""

    def begin(*options, train=()):
        lists = ["--train-data", digits / "train_digits.list"]
        lists += ["--val-data", digits / "test_digits.list", "--output", tmp_path / "runs"]
        words = [sys.executable, "-m", "nnlo.cli.launch", "-n", 3, "--threads", 1, *options]
        train = ["--model", digits / "tiny.py", *lists, *train]
        return launch([*words, "-m", "nnlo.cli.train", *train])

    return begin


def ranks_of(run):
    """The process of each rank."""
    found = {}
    for pid in run.processes():
        with suppress(OSError):
            for setting in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if setting.startswith(b"OMPI_COMM_WORLD_RANK="):
                    found[int(setting.partition(b"=")[2])] = pid
    return found


def files(tmp_path):
    return CheckpointStore(tmp_path / "runs" / "tiny-train" / "checkpoints" / "cp").files()


def kill(run, tmp_path, ranks):
    """Kill some ranks once there is a checkpoint."""
    run.until(lambda: files(tmp_path))
    pids = ranks_of(run)
    for rank in ranks:
        os.kill(pids[rank], signal.SIGKILL)


@pytest.mark.parametrize("ranks", [(1,), (0, 1, 2)])
def test_a_job_that_lost_ranks_goes_on_from_its_checkpoint(nnlorun, tmp_path, ranks):
    n_epochs = 60
    run = nnlorun("--max-restarts", 2, train=("--epochs", n_epochs, "--synchronous", *SAVING))
    kill(run, tmp_path, ranks)
    ended = run.ended()
    assert ended.code == 0, ended.output
    assert "(SIGKILL); restart 1 of 2 in 1 s on 3 ranks, from cp-" in ended.output
    assert "restart 1: going on after epoch" in ended.output
    history = json.loads((tmp_path / "runs" / "tiny-train" / "history.json").read_text())
    assert [row["epoch"] for row in history["epochs"]] == list(range(1, n_epochs + 1))


def test_all_ranks_lost_under_fault_tolerance_are_no_success(nnlorun, tmp_path):
    run = nnlorun("--fault-tolerant", train=("--epochs", 100_000, *SAVING))
    kill(run, tmp_path, (0, 1, 2))
    ended = run.ended()
    assert ended.code == 75, ended.output
    assert "nnlorun: all ranks were lost; the newest checkpoint is " in ended.output
    assert "go on with --restore cp" in ended.output


def test_a_warned_job_saves_and_asks_to_be_started_again(nnlorun, tmp_path):
    run = nnlorun("--max-restarts", 2, train=("--epochs", 100_000, *SAVING))
    run.until(lambda: files(tmp_path))
    before = files(tmp_path)[-1].stat().st_mtime_ns
    run.process.send_signal(signal.SIGTERM)
    ended = run.ended(60)
    assert ended.code == 75, ended.output
    assert "restart" not in ended.output
    assert files(tmp_path)[-1].stat().st_mtime_ns > before


def test_a_warned_job_without_checkpoints_is_ended_by_the_signal(nnlorun, tmp_path):
    log = tmp_path / "runs" / "tiny-train" / "log.txt"
    run = nnlorun("--max-restarts", 2, train=("--epochs", 100_000))
    run.until(lambda: log.is_file() and "epoch 1/" in log.read_text())
    run.process.send_signal(signal.SIGUSR1)
    ended = run.ended(60)
    assert ended.code == 128 + signal.SIGUSR1, ended.output


def test_a_model_that_cannot_be_used_is_not_started_again(nnlorun):
    ended = nnlorun("--max-restarts", 2, train=("--loss", "cube")).ended()
    assert ended.code == 1
    assert "restart" not in ended.output
    assert len(ended.errors) == 1
    assert "the loss must be one of" in ended.errors[0]


def test_a_check_shows_the_ranks_and_how_fast_they_are(launch):
    ended = launch(
        [sys.executable, "-m", "nnlo.cli.launch", "--check", "--fault-tolerant"]
    ).ended()
    assert ended.code == 0, ended.output
    assert "fault tolerance  on" in ended.output
    assert "ranks 0 and 1 on one host: " in ended.output
    assert "all fits" in ended.output
