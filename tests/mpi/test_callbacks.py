"""Real Keras callbacks on the master of a run, whatever the model is made of."""

import csv
import itertools
import math
import threading

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from nnlo.callbacks import Cosine, Schedule, Step, Warmup  # noqa: E402
from nnlo.errors import ConfigError  # noqa: E402
from nnlo.mpi.callbacks import KerasCallbacks  # noqa: E402
from tests.mpi.fakes import LinearModel  # noqa: E402
from tests.mpi.jobs import Job  # noqa: E402


def given(values):
    """Validation that returns these losses in turn, and the snapshots it was given."""
    todo, seen = list(values), []

    def validate(weights):
        seen.append(weights.copy())
        return {"val_loss": todo.pop(0)}

    return validate, seen


def run(*callbacks, values=(5.0, 4.0, 3.0, 3.5, 3.6, 3.7), n_epochs=None, **options):
    """A finished job, and the weights that its validation saw."""
    validate, seen = given(values)
    n_epochs = n_epochs or len(values)
    listener = KerasCallbacks(callbacks, LinearModel(), n_epochs)
    job = Job(n_epochs=n_epochs, validate=validate, plan={"listeners": (listener,)}, **options)
    return job.run(), seen


class Own(keras.callbacks.Callback):
    """Code of a user's, which may add to the logs."""


def rates(job):
    return [record["learning_rate"] for record in job.history.epochs]


@pytest.mark.parametrize("in_line", [True, False])
def test_early_stopping_ends_the_run_and_restores_the_best_weights(in_line):
    stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    values = (5.0, 4.0, 3.0, 3.5, 3.6, 3.7, 3.8, 3.9)
    job, seen = run(stop, values=values, n_samples=64, in_line=in_line)
    # beside the loop the next epoch has begun when the stop comes: its part counts as another
    assert stop.stopped_epoch == (4 if in_line else 5)  # its own count, from 0
    assert len(job.history.epochs) == stop.stopped_epoch + 1
    assert job.history.stopped == "a callback"
    np.testing.assert_array_equal(job.master.weights, seen[2])


def test_early_stopping_on_the_training_loss_needs_no_validation():
    stop = keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=1)
    job = Job(validate=None, plan={"listeners": (KerasCallbacks([stop], LinearModel(), 3),)})
    job.run()
    assert len(job.history.epochs) == 2


def test_the_plateau_lowers_the_rate_of_the_next_epochs():
    plateau = keras.callbacks.ReduceLROnPlateau(patience=2, factor=0.5)
    job, _ = run(plateau, values=(5.0, 4.0, 4.0, 4.0, 4.0, 4.0))
    assert rates(job) == pytest.approx([0.05] * 4 + [0.025] * 2)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_a_schedule_sets_the_rate_of_each_epoch(n_workers):
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.05 / (1 + epoch))
    job, _ = run(schedule, n_workers=n_workers, quorum=1.0)
    assert rates(job) == pytest.approx([0.05 / n for n in range(1, 7)])


def test_a_rate_that_falls_to_nothing_leaves_the_weights():
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 if epoch < 2 else 0.0)
    job, seen = run(schedule)
    np.testing.assert_array_equal(seen[2][:3], seen[5][:3])
    assert not np.array_equal(seen[0], seen[1])
    assert job.history.stopped == "epochs"


def test_the_csv_has_a_row_an_epoch(tmp_path):
    job, _ = run(keras.callbacks.CSVLogger(tmp_path / "log.csv"))
    with (tmp_path / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["val_loss"]) for row in rows] == [5.0, 4.0, 3.0, 3.5, 3.6, 3.7]
    losses = [record["loss"] for record in job.history.epochs]
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses)


def test_terminate_on_nan_leaves_a_healthy_run_alone():
    job, _ = run(keras.callbacks.TerminateOnNaN())
    assert job.history.stopped == "epochs"


def test_lambdas_hear_everything_in_the_order_of_keras():
    heard = []

    def note(name):
        return lambda *args: heard.append((name, *args[:1]))

    names = ("epoch_begin", "epoch_end", "train_batch_begin", "train_batch_end")
    tell = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: heard.append("begin"),
        on_train_end=lambda logs: heard.append("end"),
        **{f"on_{name}": note(name) for name in names},
    )
    run(tell, values=(1.0, 1.0), n_samples=8)
    batches = [(name, i) for i in (0, 1) for name in names[2:]]
    epochs = [[("epoch_begin", n), *batches, ("epoch_end", n)] for n in (0, 1)]
    assert heard == ["begin", *epochs[0], *epochs[1], "end"]


def test_logs_of_a_batch_are_the_means_of_its_epoch_so_far():
    logs = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, log: logs.append((batch, log["loss"]))
    )
    job, _ = run(keep, values=(1.0, 1.0))
    ends = [loss for batch, loss in logs if batch == 5]  # 23 samples make 6 batches
    assert ends == [record["loss"] for record in job.history.epochs]


def test_what_a_callback_does_to_its_logs_stays_with_the_callbacks():
    spoil = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.clear())
    job, _ = run(spoil)
    assert job.history.values("val_loss") == [5.0, 4.0, 3.0, 3.5, 3.6, 3.7]


def test_a_callback_can_stop_the_run_in_the_middle_of_an_epoch():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    job, _ = run(Stop(), values=(1.0, 1.0))
    assert job.master.version == 3
    assert [record["samples"] for record in job.history.epochs] == [12]
    assert job.history.stopped == "a callback"


def test_weights_read_are_copies_and_weights_set_reach_the_workers():
    class Reset(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            read = self.model.get_weights()
            read[0][:] = 99.0
            assert [part.shape for part in read] == [(3,), (1,)]
            self.model.set_weights([np.full(3, 7.0), np.zeros(1)])

    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0 if epoch else 0.05)
    job, seen = run(Reset(), schedule, values=(1.0, 1.0))
    assert abs(seen[0]).max() < 5.0
    np.testing.assert_array_equal(seen[1][:3], np.full(3, 7.0))
    np.testing.assert_array_equal(job.master.weights[:3], np.full(3, 7.0))


def test_an_error_in_a_callback_ends_the_run_with_that_error():
    class Broken(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise ZeroDivisionError("in a callback")

    for in_line in (True, False):
        with pytest.raises(ZeroDivisionError, match="in a callback"):
            run(Broken(), in_line=in_line)


def test_a_model_checkpoint_holds_the_weights_that_were_validated(tmp_path):
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}.keras")
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    _, seen = run(keep, best, in_line=False, n_workers=2)
    for epoch, weights in enumerate(seen, 1):
        assert (tmp_path / f"{epoch:02d}.keras").read_bytes() == weights.tobytes()
    assert (tmp_path / "best.keras").read_bytes() == seen[2].tobytes()


def test_weights_alone_are_saved_as_the_model_where_it_is_not_keras(tmp_path):
    name = tmp_path / "best.weights.h5"
    keep = keras.callbacks.ModelCheckpoint(name, save_best_only=True, save_weights_only=True)
    _, seen = run(keep)
    assert name.read_bytes() == seen[2].tobytes()


def test_the_header_of_the_csv_has_each_name_once(tmp_path):
    run(keras.callbacks.CSVLogger(tmp_path / "log.csv"))
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert len(header) == len(set(header))


@pytest.mark.parametrize("kind", ["EarlyStopping", "ReduceLROnPlateau"])
def test_an_accuracy_is_monitored_without_naming_its_direction(kind):
    values = iter([0.1, 0.5, 0.4, 0.3])
    callback = getattr(keras.callbacks, kind)(monitor="val_acc", patience=1)
    listener = KerasCallbacks([Own(), callback], LinearModel(), 4)

    def validate(weights):
        return {"val_loss": 1.0, "val_accuracy": next(values)}

    job = Job(n_epochs=4, validate=validate, plan={"listeners": (listener,)}).run()
    assert len(job.history.epochs) == (3 if kind == "EarlyStopping" else 4)


def test_saving_every_batch_does_not_disturb_a_validation_under_way(tmp_path):
    adapter, saved = LinearModel(), threading.Event()
    write = adapter.save
    adapter.save = lambda path: (write(path), saved.set())

    def validate(weights):
        saved.clear()
        adapter.set_flat(weights)
        saved.wait(0.3)
        return {"val_loss": float(abs(adapter.flat - weights).max())}

    keep = keras.callbacks.ModelCheckpoint(tmp_path / "now.keras", save_freq=1)
    listener = KerasCallbacks([keep], adapter, 3)
    job = Job(n_epochs=3, validate=validate, in_line=False, plan={"listeners": (listener,)}).run()
    assert job.history.values("val_loss") == [0.0, 0.0, 0.0]


# The learning rate, update by update -------------------------------------------------------


def job_of(*callbacks, n_epochs=4, **options):
    """A job with 6 updates an epoch of 24 samples, and the rates that they are applied with."""
    plan = {"listeners": (KerasCallbacks(callbacks, LinearModel(), n_epochs),)}
    plan |= options.pop("plan", {})
    job = Job(n_samples=24, n_epochs=n_epochs, plan=plan, **options)
    half, used = job.master.half, []
    apply = half.apply
    half.apply = lambda *args: (used.append(half.learning_rate), apply(*args))
    return job, used


def used_rates(*callbacks, **options):
    job, used = job_of(*callbacks, **options)
    job.run()
    assert len(used) == 24
    return np.array(used) / 0.05


def test_a_warm_up_rises_to_the_base_rate_and_stays_there():
    expected = [min(n / 8, 1.0) for n in range(1, 25)]
    np.testing.assert_allclose(used_rates(Warmup(8)), expected)
    np.testing.assert_allclose(used_rates(Warmup(8, start=0.5)), [0.5 + e / 2 for e in expected])


def test_a_plateau_within_the_warm_up_halves_what_comes_of_it():
    plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1, factor=0.5, min_delta=1e9)
    expected = [min(n / 16, 1.0) * 0.5 ** max((n - 1) // 6 - 1, 0) for n in range(1, 25)]
    np.testing.assert_allclose(used_rates(Warmup(16), plateau), expected)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1, factor=0.5, min_delta=1e9)
    np.testing.assert_allclose(used_rates(plateau, Warmup(16)), expected)


def test_a_cosine_is_that_of_keras():
    decay = keras.optimizers.schedules.CosineDecay(0.05, 18, alpha=0.1)
    ours = used_rates(Cosine(epochs=3, final=0.1))
    np.testing.assert_allclose(ours, used_rates(Schedule(decay)), rtol=1e-5)
    np.testing.assert_allclose(ours[[0, 9, 18]], [1.0, 0.55, 0.1])


def test_a_cosine_takes_the_whole_run_by_default_whatever_the_size_of_updates():
    job, used = job_of(Cosine(), n_workers=3, quorum=1.0)
    job.run()
    assert len(used) == 8
    np.testing.assert_allclose(used, [0.025 * (1 + math.cos(math.pi * n / 8)) for n in range(8)])


def test_a_warm_up_is_a_factor_on_a_cosine():
    both = used_rates(Warmup(6), Cosine())
    np.testing.assert_allclose(both, used_rates(Cosine()) * used_rates(Warmup(6)))
    np.testing.assert_allclose(both, used_rates(Cosine(), Warmup(6)))


def test_steps_come_with_the_epochs_and_are_in_their_records():
    job, used = job_of(Step(every=2, factor=0.1))
    job.run()
    np.testing.assert_allclose(used, [0.05] * 12 + [0.005] * 12)
    assert rates(job) == pytest.approx([0.05, 0.05, 0.005, 0.005])


def test_a_schedule_may_count_epochs():
    half_an_epoch = used_rates(Schedule(lambda epoch: 0.05 if epoch < 1.5 else 0.0, "epochs"))
    np.testing.assert_allclose(half_an_epoch, [1.0] * 9 + [0.0] * 15)


@pytest.mark.parametrize("at", [3, 8, 20])
def test_a_run_restored_from_within_a_schedule_equals_the_undisturbed_one(at, tmp_path):
    def made():
        return [Warmup(10), Cosine(final=0.2)]

    whole, _ = job_of(*made())
    first, _ = job_of(*made(), folder=tmp_path)
    first.run(interrupt_at=at)
    second, used = job_of(*made(), restore=first.checkpoint(first.files()[-1]))
    assert whole.run().master.weights.tolist() == second.run().master.weights.tolist()
    assert len(used) < 24


# Monitors ------------------------------------------------------------------------------------


def test_a_monitor_that_is_no_metric_is_an_error_before_the_start():
    stop = keras.callbacks.EarlyStopping("val_los")
    job, used = job_of(stop)
    with pytest.raises(ConfigError, match="one of loss, val_loss, got 'val_los'"):
        job.run()
    assert used == []
    job, _ = job_of(keras.callbacks.EarlyStopping(), validate=None)
    with pytest.raises(ConfigError, match="there is no validation data"):
        job.run()


def test_a_callback_of_the_users_may_add_what_another_monitors():
    class Adds(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_f1"] = 1.0

    plateau = keras.callbacks.ReduceLROnPlateau("val_f1", patience=1, factor=0.5)
    job, _ = job_of(Adds(), plateau)
    assert rates(job.run()) == pytest.approx([0.05, 0.05, 0.025, 0.0125])
    job, used = job_of(Own(), keras.callbacks.EarlyStopping("val_f1"))
    with pytest.raises(ConfigError, match=r"val_loss.*got 'val_f1'"):
        job.run()
    assert len(used) <= 7


def test_epochs_without_validation_do_not_count_for_who_monitors_it():
    values = itertools.count(1.0)
    stop = keras.callbacks.EarlyStopping(patience=2)
    job, _ = job_of(
        stop,
        n_epochs=20,
        plan={"validate_every": 3},
        validate=lambda weights: {"val_loss": next(values)},
    )
    assert len(job.run().history.epochs) == 9


def test_a_model_checkpoint_of_every_epoch_needs_no_metric(tmp_path):
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    job, _ = job_of(keep, validate=None)
    job.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}.keras" for n in range(1, 5)]
