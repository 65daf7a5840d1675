"""A step of one rank that is not finite: told by its rank, refused, and the run goes on."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.distributed

BLOWS_UP = '''
"""Digits by a network whose outputs are not numbers in one call of one rank."""
import torch
from torch import nn


def get_model(rank=1, call=3):
    from nnlo.mpi import link

    model, calls = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), []
    forward = model.forward

    def forward_or_blow_up(x):
        calls.append(model.training)
        is_bad = model.training and sum(calls) == call and link.world().rank == rank
        return forward(x) * (float("nan") if is_bad else 1.0)

    model.forward = forward_or_blow_up
    return model


def get_loss():
    return "categorical_crossentropy"
'''

SHAPES = {
    "tree": (5, 3, "--n-masters", 2, "--mode", "gem"),
    "masters": (4, 2, "--n-shards", 2, "--mode", "easgd"),
    "rings": (5, 2, "--n-processes", 2, "--worker-optimizer", "adam"),
    "overlap": (3, 2, "--mode", "allreduce", "--mode-params", "overlap=true"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_one_bad_step_costs_its_update_and_no_more(train, tmp_path, shape):
    n_ranks, rank, *words = SHAPES[shape]
    (tmp_path / "model.py").write_text(BLOWS_UP)
    where = ("--output", tmp_path / "out", "--trial-name", "one", "--param", f"rank={rank}")
    numbers = ("--epochs", 2, "--batch", 40, "--param", "call=3")
    ended = train(n_ranks, "--model", tmp_path / "model.py", *where, *numbers, *words)
    assert ended.code == 0, ended.output
    assert f"an update was refused: rank {rank}: " in ended.output
    (file,) = (tmp_path / "out").rglob("history.json")
    history = json.loads(file.read_text())
    assert sum(row.get("refused", 0) for row in history["ranks"][str(rank)]) == 1
    (file,) = (tmp_path / "out").rglob("weights.npz")
    with np.load(file) as arrays:
        assert all(np.isfinite(arrays[one]).all() for one in arrays.files)
