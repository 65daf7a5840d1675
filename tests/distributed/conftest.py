"""Real ranks under the real nnlorun, each run with a hard limit."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnlo.data.fetch import write_dataset

TINY = '''
"""Digits by a small torch network."""
from torch import nn


def get_model(width=32, dropout=0.1):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10)
    )


def get_loss():
    return "categorical_crossentropy"
'''


@dataclass
class Ended:
    """How a run ended. output: stdout and stderr together."""

    code: int
    output: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.output.splitlines() if "error:" in line]


def command(n_ranks: int, *arguments: object) -> list[str]:
    # One thread whatever the number of ranks: sums must not depend on it.
    start = [sys.executable, "-m", "nnlo.cli.launch", "-n", str(n_ranks), "--threads", "1"]
    return [*start, "-m", "nnlo.cli.train", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **changes}


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A folder with digits in 5 + 2 pieces and a model file."""
    folder = tmp_path_factory.mktemp("digits")
    write_dataset("digits", folder, train_files=5, test_files=2)
    (folder / "tiny.py").write_text(TINY)
    return folder


@pytest.fixture
def train(digits, tmp_path):
    """Run TrainingDriver on ``n_ranks``; the run's folder is ``tmp_path/runs/...``."""

    def run(n_ranks: int, *arguments: object, limit_s: float = 120, **env: str) -> Ended:
        words = list(arguments)
        if "--model" not in words:
            words = ["--model", digits / "tiny.py", *words]
        if "--train-data" not in words:
            lists = [digits / "train_digits.list", digits / "test_digits.list"]
            words += ["--train-data", lists[0], "--val-data", lists[1]]
        if "--output" not in words:
            words += ["--output", tmp_path / "runs"]
        ended = subprocess.run(
            command(n_ranks, *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
            env=environment(**env),
            cwd=tmp_path,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout)

    return run
