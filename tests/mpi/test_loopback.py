"""Master and workers over the loopback link: real frames, real loops, any order."""

import copy
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from nnlo.algo import Downpour
from nnlo.algo.optimizers import SGD
from nnlo.errors import ProtocolError, WorkerFailed
from nnlo.mpi.frame import Flag, Header, Kind, up_frame
from nnlo.mpi.loopback import Loopback, run_in_process
from nnlo.mpi.master import Master
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.worker import Worker
from nnlo.mpi.workerplan import WorkerPlan
from tests.mpi.fakes import LinearModel, LineData, Silent


@dataclass
class Setup:
    """A master and its workers on shards of one data set."""

    n_workers: int = 2
    quorum: float | None = None
    n_epochs: int = 1
    n_samples: int = 23
    batch: int = 4
    algo: Downpour = field(default_factory=lambda: Downpour(SGD(learning_rate=0.05)))
    observer: Any = field(default_factory=Silent)

    def __post_init__(self):
        self.model = LinearModel()
        self.link = Loopback()
        manifest = self.model.manifest
        protocol = MasterProtocol(range(self.n_workers), self.quorum)
        half = self.algo.master(manifest.n_trainable, self.n_workers)
        start = np.zeros(manifest.size, np.float32)
        self.master = Master(manifest, half, protocol, self.link, self.observer, start)
        self.data = [LineData(self.n_samples, self.batch) for _ in range(self.n_workers)]
        self.workers = [self._worker(i) for i in range(self.n_workers)]

    def _worker(self, index):
        self.data[index].set_shard(index, self.n_workers)
        model = copy.deepcopy(self.model)
        return Worker(
            index,
            model,
            self.data[index],
            self.algo.worker(model.manifest.n_trainable, self.n_workers),
            up_frame(model.manifest, 2)(),
            WorkerPlan(
                n_epochs=self.n_epochs,
                sync_every=self.algo.sync_every,
                trains_locally=self.algo.trains_locally,
                base_rate=model.learning_rate,
            ),
        )

    def run(self, order=min, poll=lambda: None):
        runs = {i: w.run(self.master.weights.copy()) for i, w in enumerate(self.workers)}
        run_in_process(self.master, self.link, runs, order, poll)

    def n_seen(self):
        return sum(len(data.seen) for data in self.data)

    def n_counted(self):
        return sum(n for _, n in self.observer.counts)


def random_setup(draw):
    return Setup(
        n_workers=draw.randint(1, 4),
        quorum=draw.choice([None, 1.0, 0.5]),
        n_epochs=draw.randint(1, 2),
        n_samples=draw.randint(4, 15),
        batch=draw.randint(1, 4),
        algo=Downpour(SGD(learning_rate=0.01), sync_every=draw.randint(1, 3)),
    )


@pytest.mark.parametrize("block", range(10))
def test_in_10000_random_orders_every_update_counts_once_and_nothing_stays_unread(block):
    for seed in range(1000 * block, 1000 * (block + 1)):
        draw = random.Random(seed)
        setup = random_setup(draw)
        stop_at = draw.choice([None, draw.randint(1, 12)])
        calls = [0]

        def poll(setup=setup, stop_at=stop_at, calls=calls):
            calls[0] += 1
            if calls[0] == stop_at:
                setup.master.stop()

        setup.run(draw.choice, poll)
        assert setup.master.finished, f"seed {seed}"
        assert not setup.link.answers, f"seed {seed}"
        assert setup.n_counted() == setup.n_seen(), f"seed {seed}"
        if stop_at is None:
            assert setup.n_counted() == setup.n_epochs * setup.n_samples, f"seed {seed}"


@pytest.mark.parametrize("n_workers", [1, 2, 3, 5])
def test_every_worker_sees_a_stop_within_one_exchange(n_workers):
    setup = Setup(n_workers, n_epochs=100)
    setup.run(poll=lambda: setup.master.version == 7 and setup.master.stop())
    assert setup.master.version <= 7 + n_workers


def test_one_worker_equals_a_plain_loop_bit_for_bit():
    setup = Setup(1, n_epochs=3)
    setup.run()
    model, data = LinearModel(), LineData(23, 4)
    optimizer = SGD(learning_rate=0.05)
    state, gradient = optimizer.init(3), np.zeros(4, np.float32)
    for epoch in range(3):
        for batch in data.epoch(epoch):
            model.gradient(batch, gradient)
            optimizer.update(state, model.flat[:3], gradient[:3], model.flat[:3])
            model.flat[3:] = gradient[3:]
    np.testing.assert_array_equal(setup.master.weights, model.flat)


def test_synchronous_workers_equal_one_process_with_their_joint_batches():
    setup = Setup(3, quorum=1.0, n_epochs=4, n_samples=25)
    setup.run(random.Random(3).choice)
    model, parts = LinearModel(), [LineData(25, 4) for _ in range(3)]
    optimizer = SGD(learning_rate=0.05)
    state, gradient = optimizer.init(3), np.zeros(4, np.float32)
    for index, data in enumerate(parts):
        data.set_shard(index, 3)
    for epoch in range(4):
        for batches in zip(*(data.epoch(epoch) for data in parts), strict=True):
            joint = tuple(np.concatenate(side) for side in zip(*batches, strict=True))
            model.gradient(joint, gradient)
            optimizer.update(state, model.flat[:3], gradient[:3], model.flat[:3])
    np.testing.assert_allclose(setup.master.weights[:3], model.flat[:3], rtol=1e-5)


def test_a_synchronous_run_does_not_depend_on_the_order_of_arrival():
    runs = []
    for seed in range(5):
        setup = Setup(3, quorum=1.0, n_epochs=2)
        setup.run(random.Random(seed).choice)
        runs.append(setup.master.weights.tobytes())
    assert len(set(runs)) == 1


def test_local_steps_travel_as_a_difference_of_weights():
    algo = Downpour(SGD(learning_rate=1.0), sync_every=3, worker_optimizer="sgd")
    setup = Setup(1, algo=algo)
    setup.run()
    model, data = LinearModel(), LineData(23, 4)
    for batch in data.epoch(0):
        model.train_step(batch)
    np.testing.assert_allclose(setup.master.weights, model.flat, rtol=1e-5)


def test_accumulated_gradients_are_the_mean_over_samples():
    setup = Setup(1, n_samples=10, batch=4, algo=Downpour(SGD(learning_rate=0.1), sync_every=3))
    setup.run()
    gradient = np.zeros(4, np.float32)
    data = LineData(10, 10)
    LinearModel().gradient((data.x, data.y), gradient)
    assert setup.master.version == 1
    np.testing.assert_allclose(setup.master.weights[:3], -0.1 * gradient[:3], rtol=1e-5)


def test_state_merges_by_weighted_mean_and_never_meets_the_optimizer():
    setup = Setup(3, quorum=1.0, n_samples=24, algo=Downpour(SGD(learning_rate=1e-9)))
    setup.run()
    means = [data.x.mean() for data in setup.data]
    assert abs(setup.master.weights[3]) <= 0.2 * abs(np.mean(means)) + 0.1
    lone = Setup(1, algo=Downpour(SGD(learning_rate=1e-9)))
    lone.run()
    model, data = LinearModel(), LineData(23, 4)
    for batch in data.epoch(0):
        model.train_step(batch)
    np.testing.assert_allclose(lone.master.weights[3], model.flat[3], rtol=1e-5)


def test_a_loss_that_is_not_finite_is_refused_with_its_epoch_and_batch():
    setup = Setup(1)
    setup.data[0].y[:] = np.nan
    setup.run()
    places = [(one.epoch, one.batch) for one in setup.observer.refusals]
    assert places[:2] == [(1, 1), (1, 2)]
    assert setup.master.version == 0


def test_what_a_worker_raises_reaches_the_master_with_its_traceback():
    setup = Setup(2, quorum=1.0)
    frame = setup.workers[1].failure(ValueError("no such pixel"), "node7")
    runs = {0: setup.workers[0].run(setup.master.weights.copy())}
    ready = next(runs[0])
    setup.master.receive(0, ready)
    setup.master.receive(1, frame)
    assert isinstance(setup.master.error, WorkerFailed)
    assert (setup.master.error.rank, setup.master.error.host) == (1, "node7")
    assert "no such pixel" in setup.master.error.trace
    answered = dict(setup.link.answers)
    assert answered[0].header.flags & Flag.STOP
    assert answered[1].header.kind is Kind.FINAL
    assert setup.master.version == 0  # nothing is applied once a worker has failed


def test_an_error_in_the_observer_still_answers_everyone_who_waits():
    setup = Setup(2, quorum=1.0)
    setup.observer.stepped = lambda master: 1 // 0
    setup.run()
    assert isinstance(setup.master.error, ZeroDivisionError)
    assert setup.master.finished


def test_a_message_of_another_model_is_refused():
    setup = Setup(1)
    frame = up_frame(setup.model.manifest, 2)()
    frame.header = Header(Kind.UPDATE, layout=1)
    with pytest.raises(ProtocolError, match="same model"):
        setup.master.receive(0, frame)


def test_weights_are_not_overwritten_while_a_send_reads_them():
    setup = Setup(1, n_epochs=1)
    master, run = setup.master, setup.workers[0].run(setup.master.weights.copy())
    master.receive(0, next(run))
    (_, frame) = setup.link.answers.pop()
    frame.in_flight += 1
    before = frame.vector.copy()
    master.receive(0, run.send(frame))
    np.testing.assert_array_equal(frame.vector, before)
    assert setup.link.answers[0][1] is not frame
