"""Epochs, validation, best weights and the end of a run, as the root sees them."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from nnlo.algo import Downpour
from nnlo.algo.optimizers import SGD
from nnlo.errors import DataError, TrainingError
from nnlo.mpi.frame import Header, Kind
from nnlo.mpi.stopping import EarlyStopping, Target
from tests.mpi.fakes import LineData
from tests.mpi.jobs import Job


@dataclass
class Story:
    """A listener that writes down what it is told."""

    lines: list[Any] = field(default_factory=list)

    def begin(self, root, master):
        self.lines.append("begin")

    def goes_on(self, root, master):
        self.lines.append("goes on")

    def epoch_began(self, epoch):
        self.lines.append(f"+{epoch}")

    def updated(self, version, n_samples, logs):
        self.lines.append((version, n_samples))

    def epoch_ended(self, epoch, record):
        self.lines.append(f"-{epoch}")

    def end(self):
        self.lines.append("end")


class Leaver(Story):
    """A listener that leaves the run at a version."""

    def __init__(self, version):
        super().__init__()
        self.version = version

    def begin(self, root, master):
        self.leave = lambda: root.leave(master, "not wanted")

    def updated(self, version, n_samples, logs):
        if version == self.version:
            self.leave()


def given(values):
    """Validation that returns these losses in turn, and the snapshots it was given."""
    todo, seen = list(values), []

    def validate(weights):
        seen.append(weights.copy())
        return {"val_loss": todo.pop(0)}

    return validate, seen


def column(job, name):
    return [record.get(name) for record in job.history.epochs]


@pytest.mark.parametrize("n_workers", [1, 2, 3, 5])
@pytest.mark.parametrize("quorum", [None, 1.0])
def test_every_epoch_is_recorded_and_validated_once(n_workers, quorum):
    validate, seen = given(range(9))
    job = Job(n_workers, 4, batch=2, quorum=quorum, validate=validate)
    job.run(random.Random(n_workers).choice)
    assert column(job, "epoch") == [1, 2, 3, 4]
    assert column(job, "val_loss") == [0, 1, 2, 3]
    assert len(seen) == 4
    assert sum(column(job, "samples")) == 4 * 23
    assert job.history.stopped == "epochs"


def test_epochs_are_counted_in_samples_of_uneven_updates():
    job = Job(1, 2, n_samples=10, batch=4).run()
    assert column(job, "samples") == [10, 10]
    assert column(job, "version") == [3, 6]
    # 4 + 2 batches in updates of 5: the first epoch ends inside the second update
    job = Job(1, 2, n_samples=10, batch=4, algo=Downpour(SGD(0.01), sync_every=2)).run()
    assert column(job, "version") == [2, 3]
    assert column(job, "samples") == [8 + 6, 6]


def test_a_record_holds_the_mean_loss_of_its_epoch_and_its_clock():
    job = Job(1, 1, algo=Downpour(SGD(1e-12))).run()
    (record,) = job.history.epochs
    data = LineData(23, 23)
    assert record["loss"] == pytest.approx(float(np.mean(data.y**2)), rel=1e-5)
    assert record["learning_rate"] == 1e-12
    assert record["staleness"] == 0.0
    assert record["samples_per_s"] == pytest.approx(23 / record["time_s"])


def test_validation_sees_the_weights_of_the_version_in_the_record():
    validate, seen = given([3.0, 2.0, 1.0])
    job = Job(validate=validate)
    versions = {}
    plain = job.root.stepped

    def stepped(master):
        versions[master.version] = master.weights.copy()
        plain(master)

    job.root.stepped = stepped
    job.run()
    for record, snapshot in zip(job.history.epochs, seen, strict=True):
        np.testing.assert_array_equal(snapshot, versions[record["version"]])


@pytest.mark.parametrize(
    ("larger", "values", "epoch"),
    [(False, [3.0, 1.0, 2.0, 1.0], 2), (True, [3.0, 1.0, 4.0, 4.0], 3)],
)
def test_the_best_weights_are_those_of_the_first_best_value(larger, values, epoch):
    validate, seen = given(values)
    job = Job(n_epochs=4, validate=validate, plan={"larger_is_better": larger}).run()
    value = values[epoch - 1]
    assert job.history.best == {"metric": "val_loss", "value": value, "epoch": epoch}
    np.testing.assert_array_equal(job.root.best, seen[epoch - 1])


def test_validation_beside_the_loop_gives_the_same_records():
    runs = [Job(2, quorum=1.0, in_line=in_line).run() for in_line in (True, False)]
    for name in ("epoch", "version", "loss", "val_loss", "samples"):
        assert column(runs[0], name) == column(runs[1], name)
    np.testing.assert_array_equal(runs[0].root.best, runs[1].root.best)


def test_validate_every_skips_epochs_but_never_the_last():
    validate, _ = given(range(9))
    job = Job(n_epochs=5, validate=validate, plan={"validate_every": 2}).run()
    assert column(job, "val_loss") == [None, 0, None, 1, 2]
    assert job.history.values("val_loss") == [0, 1, 2]


def test_without_validation_there_are_no_best_weights():
    job = Job(validate=None).run()
    assert column(job, "val_loss") == [None] * 3
    assert job.root.best is None
    assert job.history.best is None


def test_early_stopping_ends_the_run_with_its_reason():
    validate, _ = given([3.0, 2.0, 2.5, 2.5, 1.0, 1.0])
    stopper = EarlyStopping.parse("val_loss,<,2", ["val_loss"])
    job = Job(n_epochs=9, validate=validate, plan={"stoppers": (stopper,)}).run()
    assert len(job.history.epochs) == 4
    assert job.history.stopped == "early stopping: val_loss got no better for 2 epochs"


def test_a_target_ends_the_run_with_its_reason():
    target = Target.parse("loss,<,1e9", ["loss"])
    job = Job(2, 50, plan={"stoppers": (target,)}).run()
    assert job.history.stopped == "target reached: loss < 1e+09"
    assert job.history.epochs[0]["epoch"] == 1
    assert sum(column(job, "samples")) < 2 * 23


def test_samples_beyond_the_last_whole_epoch_are_recorded_and_validated():
    validate, seen = given([3.0, 1.0])
    job = Job(1, 3, validate=validate).run(stop_at=8)  # 6 batches make an epoch
    assert column(job, "epoch") == [1, 2]
    assert column(job, "samples") == [23, 3 * 4]
    assert job.history.best == {"metric": "val_loss", "value": 1.0, "epoch": 2}
    np.testing.assert_array_equal(seen[1], job.master.weights)
    assert job.history.stopped == "asked"


def test_an_interrupted_run_skips_its_last_validation():
    validate, seen = given(range(9))
    job = Job(1, 3, validate=validate).run(interrupt_at=8)
    assert len(seen) == 1
    assert column(job, "epoch") == [1]
    assert job.history.stopped == "SIGINT"
    assert job.master.version == 9  # the batch under way when the signal came


def test_a_run_that_is_left_skips_its_last_validation_and_goes_on_exactly(tmp_path):
    whole = Job(n_epochs=3).run()
    job = Job(n_epochs=3, folder=tmp_path, plan={"listeners": (Leaver(9),)}).run()
    assert job.history.stopped == "not wanted"
    assert [(one["epoch"], "val_loss" in one) for one in job.history.epochs] == [(1, True)]
    again = Job(n_epochs=3, folder=tmp_path, restore=job.checkpoint(job.files()[-1])).run()
    np.testing.assert_array_equal(again.master.weights, whole.master.weights)
    assert column(again, "val_loss") == column(whole, "val_loss")


def test_listeners_hear_begin_epochs_updates_and_end_in_order():
    story = Story()
    Job(1, 2, n_samples=8, plan={"listeners": (story,)}).run()
    assert story.lines == [
        *("begin", "+0", (1, 4), (2, 8), "-0", "+1", (3, 4), (4, 8), "-1", "end"),
    ]


def test_every_listener_hears_an_event_before_the_next_one_comes():
    lines: list[Any] = []
    Job(1, 2, n_samples=8, plan={"listeners": (Story(lines), Story(lines))}).run()
    began, rest = lines[:4], lines[4:]
    assert began == ["begin", "+0"] * 2  # each begins with its first epoch
    assert rest[0::2] == rest[1::2]
    assert len(rest) == 2 * 8


def test_ranks_have_their_own_rows_an_epoch():
    job = Job(3, 2, quorum=1.0).run()
    assert sorted(job.history.ranks) == ["0", "1", "2"]
    for rows in job.history.ranks.values():
        assert [row["epoch"] for row in rows] == [1, 2]
    for epoch in (0, 1):
        rows = [rows[epoch] for rows in job.history.ranks.values()]
        assert sum(row["samples"] for row in rows) == 23
        total = sum(row["samples"] * row["loss"] for row in rows)
        assert total / 23 == pytest.approx(column(job, "loss")[epoch], rel=1e-6)
        assert all(row["busy_s"] > 0 and row["wait_s"] >= 0 for row in rows)


def test_what_validation_raises_ends_the_run():
    def validate(weights):
        raise DataError("validation data must hold samples, got none")

    for in_line in (True, False):
        with pytest.raises(DataError, match="got none"):
            Job(1, 3, validate=validate, in_line=in_line).run()


def test_a_loss_that_is_not_finite_in_the_sum_ends_the_run():
    job = Job(1, 3)
    job.root.begin(job.master)
    up = np.array([0.0, 0.0, 4.0, np.inf])
    job.root.counted(0, Header(Kind.UPDATE, n_samples=4), up, 0)
    with pytest.raises(TrainingError, match="the loss must be finite, got inf at version 0"):
        job.root.stepped(job.master)


def test_a_stop_is_noted_once():
    job = Job(1, 9)
    job.root.begin(job.master)
    job.root.stop(job.master, "first")
    job.root.stop(job.master, "second")
    assert job.history.stopped == "first"
