"""Corners that runs, settings and options once turned badly."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnlo.algo import Downpour
from nnlo.algo.optimizers import SGD
from nnlo.cli.config_file import pairs
from nnlo.cli.options import parse
from nnlo.cli.rundir import RunDirectory
from nnlo.cli.train_options import TrainOptions
from nnlo.errors import ConfigError
from nnlo.model.manifest import Manifest
from nnlo.mpi.settings import RunSettings
from nnlo.mpi.stopping import EarlyStopping
from nnlo.simulate import simulate
from tests.mpi.fakes import LinearModel, LineData
from tests.mpi.jobs import Job


def given(values):
    todo = list(values)
    return lambda weights: {"val_loss": todo.pop(0)}


def column(job, name):
    return [record.get(name) for record in job.history.epochs]


class RateInState(LinearModel):
    """As the Keras and torch adapters: the local state holds the learning rate."""

    def local_state(self):
        return super().local_state() | {"learning_rate": np.array(self.learning_rate)}

    def load_local_state(self, state):
        super().load_local_state(state)
        self.learning_rate = float(state["learning_rate"])


class Halve:
    def __getattr__(self, _name):
        return lambda *_: None

    def begin(self, root, master):
        self.master = master

    def epoch_ended(self, epoch, record):
        self.master.half.learning_rate /= 2


def test_local_steps_go_on_at_the_rate_a_callback_set(tmp_path):
    algo = Downpour(SGD(1.0), sync_every=2, worker_optimizer="sgd")
    options = {"n_epochs": 4, "algo": algo, "model": RateInState()}
    job = Job(folder=tmp_path, plan={"listeners": (Halve(),)}, **options).run()
    checkpoint = job.checkpoint("cp-00002.npz")
    again = Job(restore=checkpoint, plan={"listeners": (Halve(),)}, **options)
    np.testing.assert_array_equal(again.run().master.weights, job.master.weights)


def test_an_update_longer_than_an_epoch_still_validates_and_saves_on_time(tmp_path):
    # 5 workers in rounds of 2 * 4 samples each: 40 samples a round, 10 samples an epoch
    algo = Downpour(SGD(0.01), sync_every=9)
    job = Job(
        1,
        6,
        n_samples=10,
        algo=algo,
        folder=tmp_path,
        validate=lambda w: {"val_loss": 1.0},
        plan={"validate_every": 2, "checkpoint_every": 2},
    ).run()
    assert len([v for v in column(job, "val_loss") if v is not None]) >= 2


def test_a_validation_that_is_not_finite_is_never_the_best():
    job = Job(n_epochs=3, validate=given([float("nan"), 2.0, 1.0])).run()
    assert job.history.best["value"] == 1.0


def test_a_metric_that_stays_not_finite_is_no_better():
    rule = EarlyStopping.parse("val_loss,<,2", ["val_loss"])
    assert rule.reached([1.0, float("nan"), float("nan"), float("nan")])


@pytest.mark.parametrize("n_workers", [2, 1])
def test_a_run_interrupted_in_mid_epoch_and_restored_without_worker_states_has_all_its_epochs(
    tmp_path, n_workers
):
    """What setup.prepare does for another number of workers: start of meta["epoch"], batch 0."""
    job = Job(1, 3, folder=tmp_path).run(interrupt_at=9)
    checkpoint = job.checkpoint(job.files()[-1])
    for name in [n for n in checkpoint.arrays if n.startswith("worker/")]:
        del checkpoint.arrays[name]

    class Other(Job):
        def worker(self, index, weights):
            restore, self.restore = self.restore, None
            worker = super().worker(index, weights)
            self.restore = restore
            worker._plan = replace(worker._plan, start=(checkpoint.meta["epoch"], 0))
            return worker

    again = Other(n_workers, 3, restore=checkpoint, whole_epochs=True).run()
    assert column(again, "epoch") == [1, 2, 3]
    assert sum(column(again, "samples")) == 3 * 23


def test_the_best_value_of_another_metric_does_not_count(tmp_path):
    def validate(weights):
        return {"val_loss": 0.001, "val_accuracy": 0.5, "val_mse": 0.4}

    job = Job(n_epochs=2, folder=tmp_path, validate=validate).run()
    checkpoint = job.checkpoint("cp-00001.npz")
    for plan in (
        {"monitor": "val_accuracy", "larger_is_better": True},
        {"monitor": "val_mse", "larger_is_better": False},
    ):
        again = Job(n_epochs=3, restore=checkpoint, validate=validate, plan=plan).run()
        assert again.history.best["metric"] == plan["monitor"]


def test_an_interrupted_run_keeps_the_record_of_the_epoch_being_validated(tmp_path):
    def validate(weights):
        time.sleep(0.3)
        return {"val_loss": 1.0}

    job = Job(1, 9, folder=tmp_path, validate=validate, in_line=False).run(interrupt_at=7)
    again = Job(1, 3, restore=job.checkpoint(job.files()[-1])).run()
    assert column(again, "epoch") == [1, 2, 3]


def test_a_run_stopped_in_mid_epoch_and_restored_has_each_epoch_once(tmp_path):
    job = Job(1, 9, folder=tmp_path).run(stop_at=8)
    again = Job(1, 3, restore=job.checkpoint(job.files()[-1])).run()
    assert column(again, "epoch") == [1, 2, 3]


def test_epochs_of_one_round_are_all_saved(tmp_path):
    job = Job(3, 4, quorum=1.0, n_samples=12, folder=tmp_path).run()
    assert job.files() == ["cp-00002.npz", "cp-00003.npz", "cp-00004.npz"]


def test_settings_of_a_simulation_that_have_no_effect_are_errors_or_used():
    run = simulate(
        Downpour(SGD(0.01)),
        LinearModel(),
        LineData(60, 4),
        2,
        num_epochs=4,
        validate_every=2,
        validation=LineData(9, 4),
    )
    assert len(run.history.values("val_loss")) == 2


def test_an_order_that_names_no_worker_is_an_error():
    with pytest.raises(ConfigError):
        simulate(Downpour(SGD(0.01)), LinearModel(), LineData(60, 4), 2, order=[0, 5, 1])


def test_the_host_survives_a_long_traceback():
    job = Job(1)
    frame = job.worker(0, job.master.weights).failure(ValueError("x" * 100_000), "node7")
    job.master.receive(0, frame)
    assert job.master.error.host == "node7"


@pytest.mark.parametrize("rate", [-1.0, 0.0, float("nan")])
def test_a_worker_rate_that_cannot_be_is_a_config_error(rate):
    with pytest.raises(ConfigError):
        Downpour(worker_optimizer="sgd", worker_learning_rate=rate)


@pytest.mark.parametrize("setting", [{"num_epochs": 2.5}, {"num_epochs": "3"}, {"seed": "a"}])
def test_settings_of_a_wrong_type_are_config_errors(setting):
    with pytest.raises(ConfigError):
        RunSettings.make(**setting)


def test_checkpoints_may_be_named_by_text():
    assert RunSettings.make(checkpoint="cp").checkpoint == Path("cp")


def test_help_names_a_default_of_zero(capsys):
    with pytest.raises(SystemExit):
        parse("x", TrainOptions, "", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "random layers (default: 0)" in text


def test_numbers_in_lists_and_nothing_survive_the_pairs(tmp_path):
    assert pairs("--param", ["a=[1e-3, 2]"]) == {"a": [1e-3, 2]}
    (tmp_path / "c.yaml").write_text("model: digits\nparam: {a: null}\n")
    options = parse("x", TrainOptions, "", ["--config", str(tmp_path / "c.yaml")])
    assert pairs("--param", options.param) == {"a": None}


def test_variables_of_equal_names_are_all_in_the_weights_file(tmp_path):
    folder = RunDirectory(str(tmp_path), "m", "t")
    folder.create()
    adapter = LinearModel()
    adapter.manifest = Manifest.pack([("w", (2,)), ("w", (2,))], [])
    manager = SimpleNamespace(adapter=adapter, weights=np.float32([1, 2, 3, 4]))
    folder._write_weights("model", manager, manager.weights)
    with np.load(folder.path / "weights.npz") as archive:
        assert sum(archive[name].size for name in archive.files) == 4
