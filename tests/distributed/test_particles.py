"""Particles over real ranks: one result wherever they are, errors on all, runs that go on."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SCRIPT = Path(__file__).parent / "swarm.py"
ENSEMBLE = ("--mode", "ensemble", "--particles", 4, "--batch", 50, "--epochs")


@pytest.fixture(scope="module")
def swarm(tmp_path_factory):
    """Weights and errors by arrangement, from one job of 4 ranks."""
    from tests.distributed.conftest import Run

    folder = tmp_path_factory.mktemp("swarm")
    words = [sys.executable, "-m", "nnlo.cli.launch", "-n", 4, "--threads", 1, SCRIPT]
    run = Run([*words, "weights.npz", "errors.json"], folder, PYTHONPATH=str(Path.cwd()))
    try:
        ended = run.ended(280)
    finally:
        run.close()
    assert ended.code == 0, ended.output
    with np.load(folder / "weights.npz") as found:
        weights = {name: found[name] for name in found.files}
    return weights, json.loads((folder / "errors.json").read_text())


@pytest.mark.parametrize("name", ["ensemble", "multiswag", "mcdropout", "svgd"])
def test_particles_are_the_same_on_any_ranks_and_groups(swarm, name):
    found = {key: value for key, value in swarm[0].items() if key.startswith(name)}
    assert len(found) == (3 if name == "mcdropout" else 5)
    alone = found[f"{name} 1x1"]
    assert alone.std(axis=0).min() > 0.01  # no two are alike
    for key, weights in found.items():
        np.testing.assert_allclose(weights, alone, rtol=1e-5, atol=1e-6, err_msg=key)


def test_an_error_on_one_rank_reaches_all(swarm):
    raised = {key: set(found) for key, found in swarm[1].items() if key.endswith("raise")}
    assert len(raised) == 3
    for key, errors in raised.items():
        assert len(errors) == 1, (key, errors)
        (error,) = errors
        assert "WorkerFailed: rank 2 on" in error
        assert "ValueError: the disk is gone" in error


def test_a_loss_that_is_not_finite_ends_the_run_on_all_ranks(swarm):
    found = {key: set(errors) for key, errors in swarm[1].items() if key.endswith("nan")}
    assert len(found) == 3
    for key, errors in found.items():
        assert len(errors) == 1, (key, errors)
        assert "TrainingError: the loss must stay finite, got nan for particle" in errors.pop()


def test_an_error_in_a_step_on_one_rank_reaches_all(swarm):
    found = {key: set(errors) for key, errors in swarm[1].items() if key.endswith("step")}
    assert len(found) == 2
    for key, errors in found.items():
        assert errors == {"TrainingError: a step must be possible (rank 2)"}, key


def particles_of(folder: Path) -> np.ndarray:
    files = sorted((folder / "posterior").glob("particle-*.npz"))
    return np.stack([np.load(file)["weights"] for file in files])


def test_a_killed_run_goes_on_with_other_ranks_to_the_same_particles(train, start, tmp_path):
    runs = tmp_path / "runs"
    saving = ("--checkpoint", "cp", "--checkpoint-interval", 1, "--trial-name", "cut")
    cut = start(2, *ENSEMBLE, 100_000, *saving)
    checkpoints = runs / "tiny-cut" / "checkpoints"
    cut.until(lambda: len(list(checkpoints.glob("cp-*.npz"))) >= 1)
    cut.process.send_signal(signal.SIGKILL)
    cut.gone(60)
    first = min(checkpoints.glob("cp-*.npz"))
    epoch = int(first.stem[3:])
    again = train(4, *ENSEMBLE, epoch + 2, *saving, "--restore", first)
    assert again.code == 0, again.output
    whole = train(1, *ENSEMBLE, epoch + 2, "--trial-name", "whole")
    assert whole.code == 0
    found, wanted = (particles_of(runs / f"tiny-{name}") for name in ("cut", "whole"))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_signal_saves_what_is_done_and_asks_for_another_start(start, tmp_path):
    run = start(2, *ENSEMBLE, 100_000, "--mode", "svgd", "--checkpoint", "cp")
    run.until(lambda: "epoch 1/" in run.output)
    run.process.send_signal(signal.SIGUSR1)
    ended = run.ended(60)
    assert ended.code == 75, ended.output
    folder = tmp_path / "runs" / "tiny-train"
    assert list((folder / "checkpoints").glob("cp-*.npz"))
    assert json.loads((folder / "history.json").read_text())["stopped"].startswith("interrup")


SLOW = """
import os
import time
from pathlib import Path

from torch import nn


class Slow(nn.Sequential):
    def forward(self, x):
        time.sleep(0.02)
        if self.training:
            Path(f"steps-{os.getpid()}").touch()
        return super().forward(x)


def get_model():
    return Slow(nn.Flatten(), nn.Linear(64, 10))


def get_loss():
    return "categorical_crossentropy"
"""


def test_particles_that_train_alone_stop_within_an_epoch(start, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    words = ("--model", tmp_path / "slow.py", "--checkpoint", "cp")
    run = start(2, *ENSEMBLE, 1, *words, "--batch", 1)  # an epoch of a minute
    run.until(lambda: len(list(tmp_path.glob("steps-*"))) == 2)  # both ranks handle signals
    run.process.send_signal(signal.SIGUSR1)
    ended = run.ended(30)
    assert ended.code == 75, ended.output
    checkpoint = tmp_path / "runs" / "slow-train" / "checkpoints" / "cp-00000"
    assert json.loads((checkpoint / "posterior.json").read_text())["epoch"] == 0


def test_bad_options_are_told_once(train):
    ended = train(2, *ENSEMBLE, 1, "--particles", 1)
    assert ended.code == 1
    assert len(ended.errors) == 1, ended.output
    assert "every group of ranks must have a particle, got 1 particles for 2" in ended.errors[0]
