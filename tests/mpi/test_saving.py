"""Checkpoints of running jobs: when they are complete, and that a restored run is the same."""

import json
import random

import numpy as np
import pytest

from nnlo.algo import EASGD, GEM, Downpour
from nnlo.algo.optimizers import SGD, Adam
from nnlo.checkpoint import Checkpoint, CheckpointStore, read
from nnlo.errors import CheckpointError
from nnlo.mpi.evaluate import Background
from nnlo.mpi.frame import pack_arrays
from nnlo.mpi.saving import Draft, Saver, check
from tests.mpi.jobs import Job, timeless

STATE = pack_arrays({"1/position": np.array([1, 2])})
WEIGHTS = np.float32([1.0, 2.0])


def saver_in(folder):
    return Saver(CheckpointStore(folder / "cp"), Background(in_line=True), {"seed": 5})


def draft(waiting, epoch=1, version=10):
    return Draft(epoch, version, {"weights": WEIGHTS}, {"samples": 23}, set(waiting))


def test_a_draft_is_written_when_all_states_and_the_validation_are_in(tmp_path):
    saver = saver_in(tmp_path)
    assert saver.begin(draft({1, 2})) == {1, 2}
    saver.take(1, STATE, leaves=False)
    saver.validated(1, "{}", None, 0.1)
    saver.poll(frozenset({1, 2}))
    assert not list(tmp_path.iterdir())
    saver.take(2, STATE, leaves=False)
    saver.poll(frozenset({1, 2}))
    assert [path.name for path in tmp_path.iterdir()] == ["cp-00001.npz"]


def test_a_draft_waits_for_the_validation_of_its_own_epoch(tmp_path):
    saver = saver_in(tmp_path)
    saver.begin(draft({1}, epoch=2))
    saver.take(1, STATE, leaves=False)
    for epoch, files in ((1, []), (3, []), (2, ["cp-00002.npz"])):
        saver.validated(epoch, "{}", None, 0.1)
        saver.poll(frozenset({1}))
        assert [path.name for path in tmp_path.iterdir()] == files


def test_a_child_that_has_left_is_not_waited_for_and_its_last_state_counts(tmp_path):
    saver = saver_in(tmp_path)
    saver.take(3, pack_arrays({"3/position": np.array([9, 9])}), leaves=True)
    saver.begin(draft({1, 2}))
    saver.validated(1, "{}", WEIGHTS + 1, 0.1)
    saver.take(1, STATE, leaves=True)
    saver.poll(frozenset({1}))  # 2 died
    checkpoint = read(tmp_path / "cp-00001.npz")
    np.testing.assert_array_equal(checkpoint.arrays["worker/3/position"], [9, 9])
    np.testing.assert_array_equal(checkpoint.arrays["worker/1/position"], [1, 2])
    assert not checkpoint.part("worker/2/")


def test_the_file_holds_what_a_restart_needs(tmp_path):
    saver = saver_in(tmp_path)
    saver.begin(draft(()))
    saver.validated(1, '{"epochs": []}', WEIGHTS + 1, 0.1)
    saver.poll(frozenset())
    checkpoint = read(tmp_path / "cp-00001.npz")
    np.testing.assert_array_equal(checkpoint.arrays["weights"], WEIGHTS)
    np.testing.assert_array_equal(checkpoint.arrays["best"], WEIGHTS + 1)
    about = {"seed": 5, "samples": 23, "version": 10, "epoch": 1, "learning_rate": 0.1}
    assert checkpoint.meta == about | {"history": '{"epochs": []}'}


WHOLE = {"version": 1, "epoch": 1, "least_epoch": 1, "samples": 9, "sums": [9, 1.0]}
WHOLE |= {"manifest": "a", "algorithm": "b", "topology": "c", "history": "{}"}
WHOLE |= {
    "learning_rate": 0.1,
    "base_learning_rate": 0.1,
    "staleness": [1, 0],
    "metrics": ["loss"],
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [None, {}])
def test_a_checkpoint_that_lacks_anything_is_an_error_before_it_is_used(name, value):
    check(Checkpoint({"weights": WEIGHTS}, WHOLE), "cp")
    with pytest.raises(CheckpointError, match=f"must hold {name}, got .* in cp; restore"):
        check(Checkpoint({"weights": WEIGHTS}, WHOLE | {name: value}), "cp")


def test_a_checkpoint_without_weights_or_a_history_is_an_error():
    with pytest.raises(CheckpointError, match="must hold weights"):
        check(Checkpoint({}, WHOLE), "cp")
    with pytest.raises(CheckpointError, match="history must be"):
        check(Checkpoint({"weights": WEIGHTS}, WHOLE | {"history": "[]"}), "cp")


def test_no_second_draft_begins_while_one_is_open(tmp_path, caplog):
    saver = saver_in(tmp_path)
    saver.begin(draft({1}))
    assert saver.begin(draft({1}, epoch=2)) == set()
    assert "epoch 2 gets no checkpoint" in caplog.text


def test_the_end_of_a_run_is_written_once(tmp_path):
    saver = saver_in(tmp_path)
    saver.begin(draft(()))
    saver.validated(1, "{}", None, 0.1)
    saver.poll(frozenset())
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    last = draft(())
    last.results = ("{}", None, 0.1)
    saver.finish(last)
    assert file.stat().st_mtime_ns == before
    last.version += 1
    saver.finish(last)
    assert file.stat().st_mtime_ns > before


def save_once(saver, epoch, version):
    saver.begin(draft((), epoch, version))
    saver.validated(epoch, "{}", None, 0.1)
    saver.poll(frozenset())
    saver.poll(frozenset())


def test_a_full_disk_in_mid_run_is_logged_and_the_next_checkpoint_tried(tmp_path, caplog):
    (tmp_path / "folder").write_text("in the way")
    saver = saver_in(tmp_path / "folder")
    save_once(saver, 1, 10)
    assert isinstance(saver.unsaved, CheckpointError)
    assert "folder/cp-00001.npz, got [Errno 17] File exists" in caplog.text
    (tmp_path / "folder").unlink()
    save_once(saver, 2, 20)
    assert saver.unsaved is None
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["cp-00002.npz"]


def test_the_last_checkpoint_is_tried_again_where_it_could_not_be_written(tmp_path):
    (tmp_path / "folder").write_text("in the way")
    saver = saver_in(tmp_path / "folder")
    save_once(saver, 1, 10)
    last = draft((), 1, 10)
    last.results = ("{}", None, 0.1)
    saver.finish(last)
    assert "must be written to" in str(saver.unsaved)
    (tmp_path / "folder").unlink()
    saver.finish(last)
    assert saver.unsaved is None
    assert (tmp_path / "folder" / "cp-00001.npz").exists()


# Restored runs ----------------------------------------------------------------------------------

MOMENTUM = SGD(learning_rate=0.02, momentum=0.9)
RUNS = {
    "1 worker": {"algo": Downpour(MOMENTUM)},
    "1 worker, adam": {"algo": Downpour(Adam(learning_rate=0.1))},
    "1 worker, sync_every 2": {"algo": Downpour(MOMENTUM, sync_every=2)},
    "1 worker, local steps": {"algo": Downpour(SGD(1.0), sync_every=2, worker_optimizer="sgd")},
    "3 workers": {"n_workers": 3, "quorum": 1.0, "algo": Downpour(MOMENTUM)},
    "3 workers, adam, sync_every 2": {
        "n_workers": 3,
        "quorum": 1.0,
        "algo": Downpour(Adam(learning_rate=0.1), sync_every=2),
    },
    # Their workers keep an S of their own.
    "1 worker, easgd": {"algo": EASGD(sync_every=2)},
    "3 workers, easgd": {"n_workers": 3, "quorum": 1.0, "algo": EASGD(sync_every=2)},
    "3 workers, gem": {"n_workers": 3, "quorum": 1.0, "algo": GEM()},
}


def assert_same(job, other):
    np.testing.assert_array_equal(job.master.weights, other.master.weights)
    np.testing.assert_array_equal(job.root.best, other.root.best)
    mine, theirs = (timeless(json.loads(each.history.to_json())) for each in (job, other))
    assert mine == theirs
    state, expected = job.master.half.state(), other.master.half.state()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value)


@pytest.mark.parametrize("case", RUNS)
def test_a_run_restored_from_any_checkpoint_equals_the_undisturbed_one(case, tmp_path):
    job = Job(n_epochs=4, n_samples=50, batch=3, folder=tmp_path, **RUNS[case])
    job.run(random.Random(1).choice)
    assert job.files() == ["cp-00002.npz", "cp-00003.npz", "cp-00004.npz"]
    for name in job.files()[:2]:
        again = Job(n_epochs=4, n_samples=50, batch=3, restore=job.checkpoint(name), **RUNS[case])
        assert_same(again.run(random.Random(2).choice), job)


@pytest.mark.parametrize("stop", [1, 4, 7, 8, 9, 20])
@pytest.mark.parametrize("case", [case for case in RUNS if case.startswith("1")])
def test_a_run_interrupted_at_any_batch_and_restored_equals_the_undisturbed_one(
    case, stop, tmp_path
):
    undisturbed = Job(n_epochs=4, n_samples=50, batch=3, **RUNS[case]).run()
    job = Job(n_epochs=4, n_samples=50, batch=3, folder=tmp_path, **RUNS[case]).run(
        interrupt_at=stop
    )
    name = job.files()[-1]
    again = Job(
        n_epochs=4, n_samples=50, batch=3, restore=job.checkpoint(name), **RUNS[case]
    ).run()
    assert_same(again, undisturbed)


@pytest.mark.parametrize("algo", [Downpour(MOMENTUM, sync_every=6), EASGD(sync_every=6)])
def test_the_checkpoint_of_the_end_holds_the_state_of_the_end(algo, tmp_path):
    job = Job(n_epochs=2, n_samples=20, algo=algo, folder=tmp_path).run()
    positions = [tuple(job.checkpoint(name).part("worker/0/")["position"]) for name in job.files()]
    assert positions == [(1, 1), (2, 0)]


def test_a_learning_rate_that_a_callback_set_is_restored(tmp_path):
    class Halve:
        def __getattr__(self, _name):
            return lambda *_: None

        def begin(self, root, master):
            self.master = master

        def epoch_ended(self, epoch, record):
            self.master.half.learning_rate /= 2

    job = Job(n_epochs=4, folder=tmp_path, plan={"listeners": (Halve(),)}).run()
    checkpoint = job.checkpoint("cp-00002.npz")
    assert checkpoint.meta["learning_rate"] == 0.05 / 4
    again = Job(n_epochs=4, restore=checkpoint, plan={"listeners": (Halve(),)}).run()
    assert_same(again, job)


def test_an_asynchronous_run_of_several_workers_goes_on_with_all_samples(tmp_path):
    job = Job(3, 4, n_samples=50, folder=tmp_path, plan={"checkpoint_every": 2})
    job.run(random.Random(3).choice)
    restored = job.checkpoint("cp-00002.npz")
    positions = [tuple(restored.arrays[f"worker/{index}/position"]) for index in range(3)]
    again = Job(3, 4, n_samples=50, restore=restored).run(random.Random(4).choice)
    assert [record["epoch"] for record in again.history.epochs] == [1, 2, 3, 4]
    assert all(epoch in (1, 2) for epoch, _ in positions)


def test_checkpoint_every_writes_those_epochs_and_the_last(tmp_path):
    Job(n_epochs=5, folder=tmp_path, plan={"checkpoint_every": 2}).run()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["cp-00002.npz", "cp-00004.npz", "cp-00005.npz"]


@pytest.mark.parametrize("case", [case for case in RUNS if case.startswith("3")])
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_synchronous_run_interrupted_after_any_round_equals_the_undisturbed_one(
    case, stop, tmp_path
):
    undisturbed = Job(n_epochs=4, batch=3, **RUNS[case]).run()
    job = Job(n_epochs=4, batch=3, folder=tmp_path, **RUNS[case]).run(interrupt_at=stop)
    name = job.files()[-1]
    again = Job(n_epochs=4, batch=3, restore=job.checkpoint(name), **RUNS[case]).run()
    assert_same(again, undisturbed)


def test_the_books_are_those_of_the_version_that_is_saved(tmp_path):
    """While the validation ran, a worker has gone on and the history with it."""
    saver = Saver(CheckpointStore(tmp_path / "cp"), Background(in_line=True), {})
    then, now = {"1": [{"epoch": 1}]}, {"1": [{"epoch": 1}, {"epoch": 2}]}
    saver.begin(Draft(1, 10, {"weights": WEIGHTS}, {}, set(), then))
    saver.validated(1, json.dumps({"ranks": now}), None, 0.1)
    saver.poll(frozenset())
    assert json.loads(read(tmp_path / "cp-00001.npz").meta["history"])["ranks"] == then
