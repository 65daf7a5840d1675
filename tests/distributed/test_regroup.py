"""Ranks are killed in rings, trees and among ranks alike; the others train on in the same job."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.distributed

SLOW = """
import time

from tiny import get_loss
from tiny import get_model as tiny_model


def get_model():
    model = tiny_model()
    forward = model.forward

    def slow_forward(x):
        if model.training:
            time.sleep(0.02)
        return forward(x)

    model.forward = slow_forward
    return model
"""

EPOCHS = 6


@pytest.fixture
def begin(launch, digits, tmp_path):
    """Start a fault-tolerant run on ``n_ranks`` that takes some seconds."""
    (tmp_path / "tiny.py").write_text((digits / "tiny.py").read_text())
    (tmp_path / "slow.py").write_text(SLOW)

    def start(n_ranks, *options):
        lists = [digits / "train_digits.list", digits / "test_digits.list"]
        words = [sys.executable, "-m", "nnlo.cli.launch", "-n", n_ranks, "--threads", 1]
        words += ["--fault-tolerant", "-m", "nnlo.cli.train", "--model", tmp_path / "slow.py"]
        words += ["--train-data", lists[0], "--val-data", lists[1], "--batch", 20]
        words += ["--optimizer", "adam", "--learning-rate", 0.005, "--epochs", EPOCHS]
        words += ["--output", tmp_path / "runs"]
        return launch([*words, *options])

    return start


def process_of(run, rank):
    """The process of ``rank`` of a run."""
    for pid in run.processes():
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if f"OMPI_COMM_WORLD_RANK={rank}".encode() in variables and b"nnlo.cli.train" in words:
            return pid
    raise AssertionError(f"no process of rank {rank}\n{run.report()}")


def strike(run, *ranks, number=signal.SIGKILL):
    """Hit ``ranks`` in the middle of the third epoch."""
    run.until(lambda: f"epoch 2/{EPOCHS}" in run.output)
    time.sleep(0.2)
    for pid in [process_of(run, rank) for rank in ranks]:
        os.kill(pid, number)


def history_of(run):
    (path,) = run.folder.rglob("history.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("n_ranks", "options", "ranks", "left"),
    [
        (5, ("--n-processes", 2), (2,), "a master and 1 worker of 3 ranks"),
        (7, ("--n-masters", 3), (1, 5), "a master, 2 sub-masters and 2 workers"),
        (4, ("--mode", "allreduce", "--spares", 1), (1,), "3 ranks alike"),
    ],
)
def test_those_that_are_left_train_to_the_end(begin, n_ranks, options, ranks, left):
    run = begin(n_ranks, *options)
    strike(run, *ranks)
    ended = run.ended()
    assert ended.code == 0, ended.output
    assert ended.output.count("it begins anew, with") >= 1
    assert f"it begins anew, with {left}" in ended.output
    history = history_of(run)
    assert [record["epoch"] for record in history["epochs"]] == list(range(1, EPOCHS + 1))
    assert sum(record["samples"] for record in history["epochs"]) >= EPOCHS * 1500
    assert history["best"]["value"] < 0.6
    assert not {str(rank) for rank in ranks} & {
        rank for rank, rows in history["ranks"].items() if rows[-1]["epoch"] == EPOCHS
    }


def test_one_that_is_left_trains_alone(begin):
    run = begin(2, "--mode", "allreduce")
    strike(run, 1)
    ended = run.ended()
    assert ended.code == 0, ended.output
    assert "rank 1 (replica) was lost in epoch 3: it begins anew, with one process" in ended.output
    assert history_of(run)["best"]["value"] < 0.6


def test_a_frozen_rank_is_ended_and_done_without(begin):
    run = begin(3, "--mode", "allreduce", "--suspect-after", 0.2)
    strike(run, 2, number=signal.SIGSTOP)
    ended = run.ended()
    assert ended.code == 0, ended.output
    assert "has been stopped for 2 s: ended" in ended.output
    assert len(history_of(run)["epochs"]) == EPOCHS
    run.gone(5.0)


def test_without_rank_0_all_ask_to_be_started_again(begin):
    run = begin(4, "--n-processes", 3)
    strike(run, 0)
    ended = run.ended()
    assert ended.code == 75, ended.output
    assert len(ended.errors) == 1, ended.output
    assert "rank 0 must live until the run has ended" in ended.errors[0]
    run.gone(5.0)
