"""Ranks are lost: what goes over to those that are left, without MPI."""

import numpy as np
import pytest

from nnlo.algo import Downpour
from nnlo.algo.optimizers import Adam
from nnlo.checkpoint import read
from nnlo.errors import ConfigError
from nnlo.mpi import link
from nnlo.mpi.callbacks import KerasCallbacks
from nnlo.mpi.fence import Registry
from nnlo.mpi.regroup import end_stopped
from nnlo.mpi.settings import RunSettings, check_shape
from nnlo.mpi.topology import Topology
from tests.mpi.jobs import TIMES, Job
from tests.mpi.test_root import Story

ADAM = Downpour(Adam(learning_rate=0.02))


def part(job, version):
    """``job`` as it is when ranks are lost at ``version``: nobody has been told to stop."""
    worker = job.worker(0, job.master.weights.copy()).run(job.master.weights.copy())
    job.root.begin(job.master)
    up = next(worker)
    while job.master.version < version:
        job.master.receive(0, up)
        job.root.poll(job.master)
        up = worker.send(job.link.answers.pop(0)[1])
    return job


def without_times(meta):
    return {name: value for name, value in meta.items() if name not in ("history", *TIMES)}


def test_what_is_captured_is_what_a_checkpoint_holds(tmp_path):
    job = part(Job(algo=ADAM, folder=tmp_path), version=6)  # an epoch has 6 updates
    captured = job.root.capture()
    job.root.finish(job.master)
    saved = read(tmp_path / "cp-00001.npz")
    assert without_times(captured.meta) == without_times(saved.meta)
    ours = {name for name in saved.arrays if not name.startswith("worker/")}
    assert ours == captured.arrays.keys()
    for name in ours:
        np.testing.assert_array_equal(captured.arrays[name], saved.arrays[name])


def test_a_run_goes_on_from_what_was_captured():
    captured = part(Job(algo=ADAM), version=8).root.capture()
    assert (captured.meta["epoch"], captured.meta["version"]) == (1, 8)
    job = Job(algo=ADAM, n_workers=2, restore=captured, whole_epochs=True).run()
    assert [record["epoch"] for record in job.history.epochs] == [1, 2, 3]
    assert sum(record["samples"] for record in job.history.epochs) == 3 * 23


def test_the_epoch_of_the_last_worker_begins_anew():
    """One of two workers is far ahead of the other."""
    job = Job(n_workers=2)
    runs = [job.worker(i, job.master.weights.copy()).run(job.master.weights) for i in (0, 1)]
    ups = [next(run) for run in runs]
    job.root.begin(job.master)
    for child in (1, *[0] * 8):
        job.master.receive(child, ups[child])
        ups[child] = runs[child].send(job.link.answers.pop(0)[1])
    captured = job.root.capture()
    assert captured.meta["epoch"] > 0
    assert captured.meta["least_epoch"] == 0
    job.root.restore(captured, whole_epochs=True)
    assert job.root.history.epochs == []


def test_listeners_are_not_begun_twice():
    story = Story()
    job = part(Job(plan={"listeners": (story,)}), version=2)
    story.lines.clear()
    follower = Job(plan={"listeners": (story,)})
    follower.root.restore(job.root.capture(), whole_epochs=True)
    follower.root.begin(follower.master, follows=job.root)
    assert story.lines == ["goes on", "+0"]


@pytest.mark.parametrize("how", ["signal", "stop"])
def test_an_end_that_was_decided_holds_for_those_that_are_left(how):
    job = part(Job(), version=2)
    if how == "signal":
        job.root.interrupted = "interruption (SIGTERM)"
    else:
        job.root.history.stopped = "a callback"
    follower = Job()
    follower.root.restore(job.root.capture(), whole_epochs=True)
    follower.root.begin(follower.master, follows=job.root)
    follower.root.poll(follower.master)
    assert follower.master.stopping


def test_what_has_ended_the_run_is_raised_instead():
    job = part(Job(), version=2)
    job.master.error = ValueError("the reason")
    with pytest.raises(ValueError, match="the reason"):
        job.root.capture()


def test_a_callback_sets_the_rate_of_the_new_master():
    first, second = Job(), Job()
    callbacks = KerasCallbacks([], first.model, 3)
    callbacks.begin(first.root, first.master)
    callbacks._model.optimizer.learning_rate = 0.01
    callbacks.goes_on(second.root, second.master)
    callbacks._model.optimizer.learning_rate = 0.002
    assert (first.master.half.learning_rate, second.master.half.learning_rate) == (0.01, 0.002)


class Processes(Registry):
    """Three ranks, the last of which is stopped, until it is killed."""

    def __init__(self):
        self.killed = set()

    def name(self, rank):
        return f"process {rank}"

    def state(self, rank):
        return "stopped" if rank == 2 and 2 not in self.killed else "running"

    def kill(self, ranks):
        self.killed |= set(ranks)
        return set(ranks)


@pytest.mark.parametrize(("after", "killed"), [(3.0, {2}), (9.0, set()), (0.0, set())])
def test_only_what_is_stopped_for_long_is_ended(monkeypatch, after, killed):
    registry, now = Processes(), [0.0]
    monkeypatch.setattr("nnlo.mpi.regroup.time.monotonic", lambda: now[0])
    look = end_stopped(registry, 3, after)
    for _ in range(8):
        now[0] += 0.75
        look()
    assert registry.killed == killed


def test_time_that_this_process_has_not_lived_does_not_count(monkeypatch):
    registry, now = Processes(), [0.0]
    monkeypatch.setattr("nnlo.mpi.regroup.time.monotonic", lambda: now[0])
    look = end_stopped(registry, 3, 3.0)
    now[0] = 1000.0
    look()
    assert not registry.killed


@pytest.mark.parametrize(
    ("shape", "settings", "expected"),
    [
        ({"n_spares": 1}, {"spares": 1}, "spares must go with an MPI that survives losses"),
        ({"has_master": False}, {"on_worker_error": "continue"}, "got 4 ranks alike, who need"),
        ({"n_shards": 2}, {"on_worker_error": "continue", "num_shards": 2}, "a single root"),
    ],
)
def test_what_needs_an_mpi_that_survives_losses_says_so(monkeypatch, shape, settings, expected):
    monkeypatch.setattr(link, "is_fault_tolerant", lambda: False)
    with pytest.raises(ConfigError, match=expected):
        check_shape(Topology(4, **shape), RunSettings(**settings), ADAM, None)
