"""Updates that are not finite: refused by who made them, reported, survived."""

import json
import logging
import math

import numpy as np
import pytest

from nnlo.algo import Downpour, kernels
from nnlo.algo.allreduce import Allreduce
from nnlo.algo.diloco import DiLoCo
from nnlo.algo.easgd import EASGD
from nnlo.algo.gem import GEM
from nnlo.algo.optimizers import SGD
from nnlo.errors import TrainingError
from nnlo.history import History
from nnlo.mpi.events import Apply, Arrived, Reply
from nnlo.mpi.frame import Flag, Frame, Header, Kind, unpack_arrays
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.refusal import Refusal, RefusalBook, pack_refusals, read_extra
from nnlo.mpi.ring import reduce_in_process
from nnlo.simulate import simulate
from tests.mpi.fakes import LinearModel, LineData
from tests.mpi.jobs import Job
from tests.mpi.middles import OverSubMaster

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, of what is not finite

ALGOS = {
    "gradients": Downpour(SGD(0.05)),
    "accumulated": Downpour(SGD(0.05), sync_every=2),
    "local": Downpour(SGD(1.0), sync_every=2, worker_optimizer="sgd"),
    "easgd": EASGD(sync_every=2),
    "diloco": DiLoCo(sync_every=2, worker_optimizer="sgd"),
    "gem": GEM(),
    "gem local": GEM(worker_optimizer="sgd"),
}


class Heavy(LinearModel):
    """With a local optimizer that remembers: momentum."""

    def __init__(self):
        super().__init__()
        self.velocity = np.zeros_like(self.flat)

    def apply_gradient(self, vector):
        self.velocity = 0.5 * self.velocity + vector
        super().apply_gradient(np.concatenate([self.velocity[:3], vector[3:]]))

    def reset_optimizer(self):
        super().reset_optimizer()
        self.velocity[:] = 0.0


class OwnHeavy(Heavy):
    has_gradient = False


def refused(history):
    return sum(row.get("refused", 0) for rows in history.ranks.values() for row in rows)


def samples(history):
    return sum(record["samples"] for record in history.epochs)


def spoiled(n=48, bad=(7,), value=np.nan):
    data = LineData(n, 4)
    data.y[list(bad)] = value
    return data


# One worker that exchanges by itself -------------------------------------------------------------


@pytest.mark.parametrize("mode", ALGOS)
def test_one_bad_sample_costs_its_update_and_no_more(mode):
    job = Job(2, 3, 24, algo=ALGOS[mode], bad=[5], model=Heavy()).run()
    assert np.isfinite(job.master.weights).all()
    assert refused(job.history) == 3  # one an epoch
    lost = 3 * 24 - samples(job.history)
    assert 0 < lost <= 3 * 4 * ALGOS[mode].sync_every
    assert all(math.isfinite(record["loss"]) for record in job.history.epochs)


@pytest.mark.parametrize("mode", ALGOS)
def test_an_epoch_ends_although_samples_were_refused(mode):
    job = Job(2, 3, 24, algo=ALGOS[mode], bad=[5]).run()
    assert [record["epoch"] for record in job.history.epochs] == [1, 2, 3]


@pytest.mark.parametrize("quorum", [None, 1.0, 0.5])
@pytest.mark.parametrize("mode", ALGOS)
def test_workers_learn_on_after_a_refusal(mode, quorum):
    job = Job(2, 20, 24, algo=ALGOS[mode], bad=[5], quorum=quorum, model=Heavy()).run()
    losses = [record["loss"] for record in job.history.epochs]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_whatever_is_not_finite_is_refused(value):
    found = simulate(ALGOS["gradients"], LinearModel(), spoiled(value=value), 2)
    assert refused(found.history) == 1


def test_a_vector_whose_square_overflows_is_sent():
    assert kernels.is_finite(np.float32([3e38, -3e38, 1.0]))
    assert not kernels.is_finite(np.float32([1.0, np.nan]))
    assert not kernels.is_finite(np.float32([-np.inf, np.inf]))


class BadState(LinearModel):
    def gradient(self, batch, out):
        sums = super().gradient(batch, out)
        if 5.0 in batch[1]:
            out[3:] = np.nan
        return sums


def test_a_state_that_is_not_finite_is_not_merged():
    data = spoiled(value=5.0)
    found = simulate(ALGOS["gradients"], BadState(), data, 2, num_epochs=3)
    assert refused(found.history) == 3
    assert np.isfinite(found.weights).all()


def test_a_loss_alone_is_told_from_a_gradient():
    assert "the loss of its update was not finite (norm 2)" in str(Refusal(3, 1, 2, 4, 1, 2.0))
    assert "its update was not finite (norm nan)" in str(Refusal(3, 1, 2, 4, 1, np.nan))
    assert "the mean over its ring" in str(Refusal(3, 1, 2, 4, 1, np.nan, joint=True))


def test_the_local_optimizer_starts_fresh_and_the_checkpoint_holds_no_nan(tmp_path):
    job = Job(1, 2, 8, algo=ALGOS["easgd"], bad=[7], model=Heavy(), folder=tmp_path)
    job.run()
    states = [name for name in job.files() if name.startswith("cp")]
    arrays = job.checkpoint(states[-1]).arrays
    assert all(np.isfinite(value).all() for value in arrays.values())


# The end of a run --------------------------------------------------------------------------------


def test_too_many_in_a_row_end_the_run_and_say_where():
    with pytest.raises(TrainingError, match="got 4 in a row that are not at version 0") as caught:
        Job(2, 9, 24, bad=range(24), plan={"max_refused": 4}).run()
    assert "from rank 0: its update was not finite (norm nan) in epoch 2" in str(caught.value)
    assert "--clip-norm" in str(caught.value)


def test_a_run_of_refusals_alone_has_failed_however_short_it_is():
    with pytest.raises(TrainingError, match="got none that is at version 0"):
        Job(1, 1, 8, bad=range(8)).run()


def test_an_applied_update_in_between_starts_the_count_again():
    job = Job(1, 9, 8, bad=[1], plan={"max_refused": 3}).run()
    assert refused(job.history) == 9


def test_weights_that_diverge_end_the_run_and_spoil_neither_best_nor_checkpoint(tmp_path):
    wild = Downpour(SGD(1e30))
    job = Job(1, 9, 24, algo=wild, folder=tmp_path)
    with pytest.raises(TrainingError, match="updates must be finite"):
        job.run()
    assert job.root.best is None or np.isfinite(job.root.best).all()
    kept = [np.isfinite(job.checkpoint(name).arrays["weights"]).all() for name in job.files()]
    assert all(kept)


class Frozen(LinearModel):
    """One sample, one step: nobody sees what the weights have become."""

    def gradient(self, batch, out):
        sums = super().gradient(batch, out)
        out[:3] = 1e30
        return sums


def test_final_weights_that_are_not_finite_are_an_error_unless_there_are_best_ones(caplog):
    wild = Downpour(SGD(1e30))
    with pytest.raises(TrainingError, match="the final weights must be finite"):
        Job(1, 1, 4, algo=wild, model=Frozen(), validate=None).run()
    job = Job(1, 1, 4, algo=wild, model=Frozen(), validate=None)
    job.root.best = np.zeros(4, np.float32)
    job.run()
    assert "the final weights are not finite, the best ones are" in caplog.text


def test_ranks_are_named_as_users_know_them(caplog):
    job = Job(1, 3, 8, bad=[1], plan={"number": lambda rank: rank + 5}).run()
    assert list(job.history.ranks) == ["5"]
    assert "an update was refused: rank 5: " in caplog.text


def test_warnings_come_ever_more_seldom(caplog):
    book, history = RefusalBook(100), History()
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            book.note([Refusal(3, 2, 17, 4, 1, np.nan)], history, 5)
    counts = [int(one.getMessage().split()[-3]) for one in caplog.records]
    assert counts == [1, 2, 4, 8, 16]
    assert "rank 3: its update was not finite (norm nan) in epoch 2, batch 17" in caplog.text
    assert history.ranks["3"] == [
        {"epoch": 2, "samples": 0, "steps": 0, "busy_s": 0, "wait_s": 0, "refused": 20}
    ]


def test_rows_of_refusals_join_those_of_updates():
    one, other = History(), History()
    one.count_refused(3, 1)
    other.count_refused(3, 1, 2)
    other.add_to_rank(3, 1, 4, {"loss": 8.0}, steps=1, busy_s=0.5, wait_s=0.25)
    one.add_ranks(other.ranks)
    row = {"epoch": 1, "samples": 4, "steps": 1, "busy_s": 0.5, "wait_s": 0.25, "refused": 3}
    assert one.ranks == {"3": [row | {"loss": 2.0}]}
    json.loads(one.to_json())


# Rings -------------------------------------------------------------------------------------------

RINGS = {**ALGOS, "allreduce": Allreduce(SGD(0.05)), "summed": Allreduce(SGD(0.05), sync_every=2)}


def in_rings(mode, data, model=LinearModel, epochs=3, n_members=3):
    algo = RINGS[mode]
    shape = (1, {"num_processes": n_members}) if algo.has_master else (n_members, {})
    return simulate(algo, model(), data, shape[0], num_epochs=epochs, **shape[1])


@pytest.mark.parametrize("model", [Heavy, OwnHeavy])
@pytest.mark.parametrize("mode", RINGS)
def test_a_member_takes_part_with_nothing_and_the_others_go_on(mode, model):
    if model is OwnHeavy and not RINGS[mode].trains_locally:
        return  # no gradient, no such mode
    found = in_rings(mode, spoiled(), model, epochs=20)
    assert np.isfinite(found.weights).all()
    assert refused(found.history) == 20
    assert 20 * (48 - 8) <= samples(found.history) <= 20 * (48 - 4)
    losses = found.history.values("loss")
    assert losses[-1] < 0.5 * losses[0]


def test_it_equals_a_run_in_which_the_member_had_no_such_batch():
    found = in_rings("allreduce", spoiled(24, [0]), epochs=1)
    assert [record["samples"] for record in found.history.epochs] == [20]
    assert found.history.ranks["0"][0]["steps"] == 2


@pytest.mark.parametrize("model", [Heavy, OwnHeavy])
@pytest.mark.parametrize("mode", RINGS)
def test_members_that_all_refuse_go_on_together(mode, model):
    if model is OwnHeavy and not RINGS[mode].trains_locally:
        return
    data = spoiled(48, [0, 16, 32])  # in the first batch of each member, or near it
    found = in_rings(mode, data, model, epochs=20)
    assert np.isfinite(found.weights).all()
    losses = found.history.values("loss")
    assert losses[-1] < 0.5 * losses[0]


class Overflowing(LinearModel):
    """Gradients that are finite, and whose sum over members is not."""

    def gradient(self, batch, out):
        sums = super().gradient(batch, out)
        out[:3] = 1e38
        return sums


@pytest.mark.parametrize("mode", ["gradients", "local", "allreduce"])
def test_a_sum_that_overflows_is_refused_by_all(mode):
    with pytest.raises(TrainingError, match="the mean over its ring was not finite"):
        in_rings(mode, LineData(96, 4), Overflowing)


def test_refusals_of_all_members_are_brought_to_each():
    frames = [Frame(2, 4, 1000) for _ in range(3)]
    for rank, frame in enumerate(frames):
        own = [Refusal(rank, 1, 1, 4, 1, np.inf)] if rank else []
        flags = Flag.REFUSED if own else Flag(0)
        n_extra = frame.set_extra(pack_refusals(own))
        frame.header = Header(Kind.REDUCE, flags, rank, n_extra=n_extra)
    reduce_in_process(frames)
    assert [[one.rank for one in read_extra(frame)[0]] for frame in frames] == [[1, 2]] * 3


# Trees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("synchronous", [False, True])
@pytest.mark.parametrize("root_algo", [None, EASGD(sync_every=2), DiLoCo(worker_optimizer="sgd")])
@pytest.mark.parametrize("mode", ALGOS)
def test_the_root_hears_of_refusals_under_others(mode, root_algo, synchronous):
    shape = {"num_masters": 3, "synchronous": synchronous, "num_epochs": 4}
    algo = ALGOS[mode]
    found = simulate(algo, Heavy(), spoiled(96), 4, root_algo=root_algo, **shape)
    assert refused(found.history) == 4
    assert np.isfinite(found.weights).all()
    assert found.history.epochs[-1]["epoch"] == 4


@pytest.mark.parametrize("root_algo", [None, EASGD(sync_every=5)])
def test_a_tree_of_refusals_ends_as_a_star_does(root_algo):
    data = spoiled(960, range(960))
    with pytest.raises(TrainingError, match="got 10 in a row"):
        simulate(ALGOS["easgd"], Heavy(), data, 4, root_algo=root_algo, num_masters=3)


def test_a_sub_master_passes_refusals_on_with_states_behind_them():
    between = OverSubMaster()
    between.say(3, value=1.0)
    between.up()
    between.answer(flags=Flag.SAVE)
    between.say(3, value=1.0, state=2.5)
    refusal = Refusal(4, 1, 1, 4, 1, np.inf)
    between.say(4, state=1.5, refusals=[refusal])
    found, state = read_extra(between.middle.up())
    assert found == [refusal]
    assert set(unpack_arrays(state)) == {"3/s", "4/s"}


# The protocol ------------------------------------------------------------------------------------


def test_who_has_refused_takes_no_turn():
    protocol = MasterProtocol([0, 1], one_at_a_time=True)
    assert protocol.on(Arrived(0, has_update=False)) == [Reply(0)]
    assert protocol.on(Arrived(1, has_update=False)) == []
    assert protocol.on(Arrived(0, has_update=False, refused=True)) == [Reply(0), Reply(1)]
    assert protocol.on(Arrived(0, has_update=False, refused=True)) == [Reply(0)]


def test_a_round_closes_with_who_has_refused():
    protocol = MasterProtocol([0, 1], quorum=1.0)
    assert protocol.on(Arrived(0, has_update=True)) == []
    closed = [Apply((0,)), Reply(0), Reply(1)]
    assert protocol.on(Arrived(1, has_update=False, refused=True)) == closed


def test_a_round_of_refusals_alone_applies_nothing():
    protocol = MasterProtocol([0, 1], quorum=1.0)
    assert protocol.on(Arrived(0, has_update=False, refused=True)) == []
    assert protocol.on(Arrived(1, has_update=False, refused=True)) == [Reply(0), Reply(1)]


def test_who_refuses_is_not_taken_for_slow():
    protocol = MasterProtocol([0, 1], max_staleness=0)
    assert protocol.on(Arrived(0, has_update=True)) == [Apply((0,))]
    assert protocol.on(Arrived(1, has_update=False, refused=True)) == [Reply(0), Reply(1)]


def test_a_message_carries_refusals_and_a_state():
    frame = Frame(2, 4, 1000)
    sent = [Refusal(1, 2, 3, 4, 5, np.inf), Refusal(2, 1, 1, 8, 2, 3.5, joint=True)]
    n_extra = frame.set_extra(pack_refusals(sent) + b"state")
    frame.header = Header(Kind.UPDATE, Flag.REFUSED | Flag.HAS_STATE, n_extra=n_extra)
    assert read_extra(frame) == (sent, b"state")
    frame.header = Header(Kind.UPDATE, Flag.HAS_STATE, n_extra=frame.set_extra(b"state"))
    assert read_extra(frame) == ([], b"state")
