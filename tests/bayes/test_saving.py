"""Checkpoints of particles on disks that are full, shared, or cut off."""

import json
import logging
import shutil

import numpy as np
import pytest

from nnlo.bayes import saving, store
from nnlo.bayes.ensemble import DeepEnsemble
from nnlo.bayes.methods import load
from nnlo.bayes.particles import Particles
from nnlo.bayes.posterior import vector_of
from nnlo.errors import CheckpointError, ConfigError
from tests.bayes.networks import Sine, Small


def fitted(n=2, method=None, data=None, **settings):
    swarm = Particles(Small(), n, loss="mse", seed=4)
    settings = {"epochs": 5, "checkpoint_interval": 1} | settings
    swarm.fit(method or DeepEnsemble(learning_rate=0.01), data or Sine(), **settings)
    return swarm


def test_folders_that_only_begin_alike_are_left_alone(tmp_path):
    others = [tmp_path / name for name in ("cp-train", "cp-b-00001", "cp-2", "cp-00000.old")]
    for folder in others:
        folder.mkdir()
        (folder / "precious").write_text("")
    (tmp_path / "cp-b-00001" / store.ABOUT).write_text("{}")
    fitted(checkpoint=tmp_path / "cp")
    assert all((folder / "precious").exists() for folder in others)


def test_a_disk_that_takes_no_checkpoint_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    def fail(*_args):
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(store, "write", fail)
    swarm = fitted(checkpoint=tmp_path / "cp")
    assert len(swarm.history.epochs) == 5
    assert str(swarm.unsaved).startswith("the disk is full")
    assert caplog.text.count("the disk is full; the run goes on") == 5


def test_a_checkpoint_that_is_there_clears_the_error(tmp_path, monkeypatch):
    inner, calls = store.write, []

    def write(*args):
        calls.append(1)
        if len(calls) == 1:
            raise CheckpointError("the disk is full")
        inner(*args)

    monkeypatch.setattr(store, "write", write)
    assert fitted(checkpoint=tmp_path / "cp").unsaved is None


def test_a_folder_that_cannot_be_written_is_an_error_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--checkpoint must be in a folder that can be written"):
        fitted(checkpoint=tmp_path / "file" / "cp")


def test_a_kill_between_folder_and_file_is_made_up_for(tmp_path, monkeypatch):
    whole = fitted(checkpoint=tmp_path / "cp", epochs=4)
    shutil.copy(tmp_path / "cp-00002.npz", tmp_path / "at-00002.npz")
    shutil.copytree(tmp_path / "cp-00002", tmp_path / "at-00002")
    about = json.loads((tmp_path / "at-00002" / store.ABOUT).read_text())
    moved = about | {"scalars": about["scalars"] | {"count": 7}}  # as of a later step
    (tmp_path / "at-00002" / store.ABOUT).write_text(json.dumps(moved))
    meta, _ = saving._read(whole, DeepEnsemble(learning_rate=0.01), tmp_path / "at")
    assert meta["scalars"]["count"] == 7


def test_a_folder_of_another_epoch_is_refused(tmp_path):
    fitted(checkpoint=tmp_path / "cp", epochs=4)
    shutil.rmtree(tmp_path / "cp-00004")
    (tmp_path / "cp-00003").rename(tmp_path / "cp-00004")
    with pytest.raises(CheckpointError, match="particles of epoch 3, not 4"):
        fitted(restore=tmp_path / "cp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_particles": 0}, "its n_particles is 0"),
        ({"n_particles": True}, "its n_particles is True"),
        ({"n_particles": 10**12}, "it has no particle-999999999999.npz"),
        ({"seed": "x"}, "its seed is 'x'"),
        ({"numbers": {"scale": -1}}, "must have the numbers of ensemble"),
        ({"numbers": {"weight_decay": "much"}}, "must have the numbers of ensemble"),
        ({"numbers": 3}, "must have the numbers of ensemble"),
        ({"kind": ["ensemble"]}, "a posterior must be of ensemble"),
    ],
)
def test_a_posterior_json_that_cannot_be_is_an_error(tmp_path, change, message):
    swarm = fitted()
    swarm.save(tmp_path / "posterior")
    about = json.loads((tmp_path / "posterior" / store.ABOUT).read_text())
    (tmp_path / "posterior" / store.ABOUT).write_text(json.dumps(about | change))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "posterior", swarm.adapter.manifest)


def test_particles_of_another_method_are_an_error(tmp_path):
    swarm = fitted()
    swarm.save(tmp_path / "posterior")
    about = json.loads((tmp_path / "posterior" / store.ABOUT).read_text())
    about |= {"kind": "multiswag", "numbers": {}}
    (tmp_path / "posterior" / store.ABOUT).write_text(json.dumps(about))
    posterior = load(tmp_path / "posterior", swarm.adapter.manifest)
    with pytest.raises(CheckpointError, match="must have its count, got none"):
        vector_of(posterior, 0, swarm.adapter.manifest)


def test_particles_that_begin_alike_are_told(caplog):
    swarm = Particles(Small(), 3, loss="mse")
    swarm.prepare()
    swarm.weights[2] = swarm.weights[0]
    with caplog.at_level(logging.WARNING):
        swarm.fit(DeepEnsemble(), Sine())
    assert "3 particles begin with 2 different weight vectors" in caplog.text
    assert not np.array_equal(swarm.weights[0], swarm.weights[1])
