"""A ring: members that train as one worker would on all their batches together."""

import numpy as np
import pytest

from nnlo.algo import Downpour
from nnlo.algo.allreduce import Allreduce
from nnlo.algo.diloco import DiLoCo
from nnlo.algo.easgd import EASGD
from nnlo.algo.gem import GEM
from nnlo.algo.optimizers import SGD
from nnlo.errors import TrainingError
from nnlo.mpi.frame import N_TIMES, Flag, Frame, Header, Kind
from nnlo.mpi.loopback import Loopback
from nnlo.mpi.master import Master
from nnlo.mpi.observer import Nobody
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.refusal import read_extra
from nnlo.mpi.replica import Replica
from nnlo.mpi.ring import Member, reduce_in_process, ring_in_process
from nnlo.mpi.workerplan import WorkerPlan
from nnlo.simulate import simulate
from tests.mpi.fakes import JointData, LinearModel, LineData

SUM = SGD(learning_rate=0.02, momentum=0.9)
LOCAL = "sgd"
ALGOS = {
    "gradients": Downpour(SUM),
    "local": Downpour(SGD(1.0), sync_every=3, worker_optimizer=LOCAL),
    "easgd": EASGD(sync_every=2),
    "diloco": DiLoCo(sync_every=2, worker_optimizer=LOCAL),
    "gem": GEM(),
    "allreduce": Allreduce(SUM),
}


class OwnStep(LinearModel):
    """As a model with its own train_step, which hands out no gradient."""

    has_gradient = False


def ring(algo, n_members, n, batch=4, model=LinearModel, **settings):
    settings = {"num_epochs": 3} | settings
    if algo.has_master:
        return simulate(algo, model(), LineData(n, batch), 1, num_processes=n_members, **settings)
    return simulate(algo, model(), LineData(n, batch), n_members, **settings)


def one(algo, n_members, n, batch=4, model=LinearModel):
    """One worker that is given what the members see together."""
    data = JointData(n, batch, n_members)
    return simulate(algo, model(), data, 1, num_epochs=3)


def assert_close(simulated, expected, size=4):
    np.testing.assert_allclose(simulated.weights[:size], expected.weights[:size], rtol=2e-5)
    losses = [run.history.values("loss") for run in (simulated, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize("mode", ALGOS)
@pytest.mark.parametrize("n_members", [2, 3])
def test_members_equal_one_worker_with_all_their_batches(mode, n_members):
    # With equal batches the mean of the members' S is what one worker would make of all.
    assert_close(ring(ALGOS[mode], n_members, 48), one(ALGOS[mode], n_members, 48))


@pytest.mark.parametrize("mode", ALGOS)
@pytest.mark.parametrize(("n", "batch"), [(23, 4), (25, 8), (7, 4)])
def test_ragged_last_batches_count_by_their_samples(mode, n, batch):
    assert_close(ring(ALGOS[mode], 3, n, batch), one(ALGOS[mode], 3, n, batch))


@pytest.mark.parametrize("mode", ALGOS)
def test_a_member_without_data_takes_part_with_nothing(mode):
    assert_close(ring(ALGOS[mode], 5, 4, 1), one(ALGOS[mode], 5, 4, 1))


@pytest.mark.parametrize("make", [Downpour, Allreduce])
def test_accumulated_batches_equal_larger_ones(make):
    simulated = ring(make(SUM, sync_every=4), 3, 48)
    expected = simulate(Downpour(SUM), LinearModel(), JointData(48, 16, 3), 1, num_epochs=3)
    np.testing.assert_allclose(simulated.weights[:3], expected.weights[:3], rtol=1e-5)
    assert simulated.history.epochs[-1]["version"] == 3


def test_own_steps_are_shared_as_weights():
    algo = ALGOS["local"]
    # One step of plain descent each: their mean is a step along the mean gradient.
    assert_close(ring(algo, 3, 48, model=OwnStep), one(algo, 3, 48))


def test_every_sample_is_used_once_an_epoch():
    data = LineData(23, 4)
    simulate(Downpour(SUM), LinearModel(), data, 2, num_epochs=2, num_processes=3)
    assert sorted(data.seen) == sorted((n, float(y)) for n in range(2) for y in data.y)


def members(n_members, algo, n=23, n_epochs=2):
    """Members and their models."""
    made, models = [], []
    for index in range(n_members):
        data, model = LineData(n, 4), LinearModel()
        data.set_shard(index, n_members)
        plan = WorkerPlan(n_epochs, algo.sync_every, algo.trains_locally, 0.1, algo.pulls)
        half, up = algo.worker(3, 1), Frame(4, N_TIMES + 2, 1 << 16)
        made.append(Member(index, model, data, half, up, plan))
        models.append(model)
    return made, models


@pytest.mark.parametrize("algo", [ALGOS["gradients"], ALGOS["easgd"], ALGOS["diloco"]])
def test_all_members_hold_the_same_weights_at_every_exchange(algo):
    made, models = members(3, algo, n=150)
    run = ring_in_process([member.run(np.zeros(4, np.float32)) for member in made])
    message, down = next(run), Frame(4)
    for version in range(9):
        assert len({model.flat.tobytes() for model in models}) == 1
        needs = not message.header.flags & Flag.NO_WEIGHTS
        down.header = Header(Kind.WEIGHTS if needs else Kind.ACK, version=version)
        down.vector[:] = 0.1 * version
        message = run.send(down)


def test_all_members_leave_at_the_same_message():
    made, _ = members(3, ALGOS["gradients"])
    run = ring_in_process([member.run(np.zeros(4, np.float32)) for member in made])
    down = Frame(4)
    down.header = Header(Kind.WEIGHTS, Flag.STOP)
    assert next(run).header.kind is Kind.UPDATE
    assert run.send(down).header.kind is Kind.BYE
    with pytest.raises(StopIteration):
        run.send(down)


def test_the_leader_speaks_for_all_members():
    made, _ = members(3, ALGOS["gradients"])
    run = ring_in_process([member.run(np.zeros(4, np.float32)) for member in made])
    header = next(run).header
    assert (header.sender, header.n_samples, header.n_steps, header.n_merged) == (0, 12, 1, 1)


def test_a_loss_that_is_not_finite_on_one_member_names_it_with_epoch_and_batch():
    made, _ = members(2, ALGOS["gradients"])
    made[1]._data.y[:] = np.nan
    up = next(ring_in_process([member.run(np.zeros(4, np.float32)) for member in made]))
    assert (up.header.flags, up.header.n_samples) == (Flag.HAS_UPDATE | Flag.REFUSED, 4)
    assert [one[:4] for one in read_extra(up)[0]] == [(1, 1, 1, 4)]


def to_reduce(value, n_samples, flags=0):
    frame = Frame(2, N_TIMES + 2)
    frame.vector[:], frame.tail[N_TIMES:] = value, (n_samples, 3 * n_samples)
    frame.header = Header(Kind.REDUCE, Flag(flags), n_samples=n_samples)
    return frame


def test_a_reduction_is_the_mean_by_samples_and_the_sum_of_sums():
    frames = [to_reduce(1.0, 1), to_reduce(np.nan, 0), to_reduce(4.0, 2, Flag.STOP)]
    reduce_in_process(frames)
    for frame in frames:
        assert frame.vector.tolist() == [3.0, 3.0]
        assert frame.tail[N_TIMES:].tolist() == [3.0, 9.0]
        assert (frame.header.n_samples, frame.header.flags) == (3, Flag.STOP)


def test_a_reduction_of_nothing_says_so():
    frames = [to_reduce(1.0, 0), to_reduce(1.0, 0)]
    reduce_in_process(frames)
    assert [frame.header.n_samples for frame in frames] == [0, 0]


class Comm:
    """Of three ranks, the second of which holds other weights."""

    rank = 2

    def allgather(self, own):
        return [own, own + 1, own]


def test_ranks_alike_end_together_where_their_weights_differ():
    manifest, end = LinearModel().manifest, Loopback()
    half, protocol = ALGOS["allreduce"].master(3, 3), MasterProtocol([2])
    master = Master(manifest, half, protocol, end, Nobody(), np.zeros(4, np.float32))
    Replica(Comm(), master, end, None, None).run(None, master.weights)  # no message is sent
    assert isinstance(master.error, TrainingError)
    assert "got others on rank 1 than on rank 0" in str(master.error)
