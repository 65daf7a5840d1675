"""Workers that are lost in mid-run, and those that do their work instead; no MPI."""

from collections import Counter

import numpy as np
import pytest

from nnlo.algo import Algo
from nnlo.errors import TrainingError, WorkerFailed
from nnlo.mpi.agenda import own_share
from nnlo.mpi.crew import Crew
from nnlo.mpi.frame import Kind
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.workerplan import WorkerPlan
from tests.mpi.fakes import LineData
from tests.mpi.jobs import Job

N, EPOCHS = 23, 3
MODES = {
    "downpour": {},
    "easgd": {"worker_optimizer": "sgd", "sync_every": 2},
    "gem": {},
    "diloco": {"worker_optimizer": "sgd", "sync_every": 2},
}


class LossyJob(Job):
    """deaths: child -> number of its message before which it dies. raises: the same for code."""

    n_spares = 0

    def lossy(self, deaths=None, raises=None):
        n = self.n_workers
        children = range(n + self.n_spares)
        shares = {c: own_share(c, (0, 0), self.n_epochs) if c < n else [] for c in children}
        turns = self.algo.pulls and self.quorum is None
        self.master._protocol = MasterProtocol(
            children, self.quorum, one_at_a_time=turns, keeps_children=True
        )
        counts = LineData(self.n_samples, self.batch)
        counts.set_shard(0, n)
        self.master.crew, self.master.fails_alone = Crew(shares, counts.n_batches), True
        self.deaths, self.raises = deaths or {}, raises or {}
        self.workers = {c: self.employ(c) for c in children}
        with self.root.background:
            self.root.begin(self.master)
            self.serve({c: w.run(self.master.weights.copy()) for c, w in self.workers.items()})
            if self.master.error is not None:
                raise self.master.error
            self.root.finish(self.master)
        return self

    def employ(self, child):
        worker = self.worker(min(child, self.n_workers - 1), self.master.weights.copy())
        worker.rank = child
        if child >= self.n_workers:
            worker._plan = WorkerPlan(**{**vars(worker._plan), "start": None})
        return worker

    def serve(self, runs):
        ready = {child: next(run) for child, run in runs.items()}
        heard = Counter()
        while not self.master.finished:
            child = min(ready, key=lambda c: (heard[c], c))
            message, number = ready.pop(child), heard[child]
            heard[child] += 1
            if self.deaths.get(child) == number:
                self.master.lose(child, "has died")
            elif self.raises.get(child) == number:
                failure = self.workers[child].failure(ValueError("user code"), "here")
                self.master.receive(child, failure)
            else:
                self.master.receive(child, message)
            while self.link.answers:
                answered, down = self.link.answers.pop(0)
                down.in_flight -= 1
                if down.header.kind is not Kind.FINAL:
                    ready[answered] = runs[answered].send(down)

    def seen(self):
        return Counter(cell for w in self.workers.values() for cell in w._data.seen)


def samples(job):
    return [record["samples"] for record in job.history.epochs]


@pytest.mark.parametrize("quorum", [None, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_every_sample_of_every_epoch_is_applied_once(mode, quorum):
    algo = Algo(mode=mode, **MODES[mode])
    job = LossyJob(3, EPOCHS, quorum=quorum, algo=algo).lossy({1: 3})
    assert sum(samples(job)) == EPOCHS * N
    values = LineData(N, 1).y
    assert set(job.seen()) == {(e, float(y)) for e in range(EPOCHS) for y in values}


def test_the_work_is_divided_among_those_that_are_left():
    job = LossyJob(3, EPOCHS).lossy({1: 0})
    rows = job.history.ranks
    shares = [sum(row["samples"] for row in rows[str(rank)]) for rank in (0, 2)]
    assert "1" not in rows
    assert abs(shares[0] - shares[1]) <= EPOCHS * job.batch


def test_a_spare_takes_the_place_of_a_lost_worker():
    job = LossyJob(2, EPOCHS)
    job.n_spares = 1
    job.lossy({0: 2})
    per_rank = {rank: sum(r["samples"] for r in rows) for rank, rows in job.history.ranks.items()}
    half = EPOCHS * len(range(N)) // 2
    assert sum(per_rank.values()) == EPOCHS * N
    assert abs(per_rank["0"] + per_rank["2"] - half) <= EPOCHS


def test_one_that_has_finished_does_what_a_late_loss_leaves():
    job = LossyJob(2, 1)
    job.deaths = {}
    last = len(list(LineData(N, job.batch).epoch(0))) // 2 - 1
    job.lossy({1: last})
    assert samples(job) == [N]


def test_a_worker_whose_code_raises_leaves_alone():
    job = LossyJob(3, EPOCHS).lossy(raises={2: 1})
    assert sum(samples(job)) == EPOCHS * N
    assert job.history.stopped == "epochs"


def test_the_last_worker_gone_ends_the_run_with_what_became_of_it():
    with pytest.raises(TrainingError, match="rank 1 has died"):
        LossyJob(2, EPOCHS).lossy({0: 1, 1: 2})
    with pytest.raises(WorkerFailed, match="user code"):
        LossyJob(2, EPOCHS).lossy({0: 1}, {1: 2})


def test_the_result_is_as_good_as_without_a_loss():
    calm, lossy = LossyJob(3, 20).lossy(), LossyJob(3, 20).lossy({0: 2, 1: 9})
    assert lossy.history.epochs[-1]["val_loss"] < 1.5 * calm.history.epochs[-1]["val_loss"] + 1e-3
    assert np.isfinite(lossy.master.weights).all()
