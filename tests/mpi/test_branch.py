"""A sub-master with an algorithm of its own: exact small runs, by hand."""

import numpy as np
import pytest

from nnlo.algo import Downpour
from nnlo.algo.diloco import DiLoCo
from nnlo.algo.easgd import EASGD
from nnlo.algo.optimizers import SGD
from nnlo.mpi.failure import read_failure, write_failure
from nnlo.mpi.frame import N_TIMES, Flag, Kind, unpack_arrays
from tests.mpi.middles import OverBranch

BYE, PULL, UPDATE, ACK, FINAL = Kind.BYE, Kind.PULL, Kind.UPDATE, Kind.ACK, Kind.FINAL

OWN = Downpour(SGD(learning_rate=1.0))  # w <- w - g
ELASTIC = EASGD(sync_every=2, elastic_force=0.5)  # alpha 1/4 for two branches
OUTER = DiLoCo(sync_every=2)
STEPS = Downpour(SGD(learning_rate=1.0), sync_every=2, worker_optimizer="sgd")


def after_two_updates(root, **options):
    """Children have sent the gradients 2 and 4 to a branch that began at weights 1."""
    case = OverBranch(root, OWN, weights=1.0, **options)
    case.say(3, value=2.0, n_samples=3)
    assert case.middle.up() is None
    case.say(4, value=4.0, n_samples=5)
    return case


def trainable(case):
    return case.master.weights[:3].tolist()


def test_its_childrens_updates_move_its_own_weights_at_once():
    case = OverBranch(OUTER, OWN, weights=1.0)
    case.say(3, value=2.0)
    assert case.heard()[3][1] == -1.0
    assert case.middle.up() is None


@pytest.mark.parametrize("root", [OUTER, STEPS], ids=["diloco", "downpour"])
def test_the_way_it_went_goes_up_and_it_goes_on_from_the_roots_weights(root):
    case = after_two_updates(root)
    header, vector = case.up()
    assert vector[:3].tolist() == [6.0] * 3  # from 1 to 1 - 2 - 4
    assert (header.kind, header.flags, header.version) == (UPDATE, Flag.HAS_UPDATE, 7)
    assert (header.n_samples, header.n_steps, header.n_merged) == (8, 2, 1)
    assert case.frame.tail[N_TIMES:].tolist() == [8.0, 4.0]
    case.answer(value=0.5, version=9)
    assert trainable(case) == [0.5] * 3
    case.say(3, value=1.0)
    case.say(4, value=1.0)
    header, vector = case.up()
    assert (header.version, header.n_samples, vector[0]) == (9, 2, 2.0)


def test_easgd_pulls_and_both_sides_move_by_the_elastic_difference():
    case = after_two_updates(ELASTIC)
    assert case.up()[0].kind is PULL
    case.answer(value=3.0, version=9)
    header, vector = case.up()
    assert vector[:3].tolist() == [-2.0] * 3  # (-5 - 3) / 4
    assert (header.kind, header.version, header.n_samples) == (UPDATE, 9, 8)
    assert header.flags == Flag.HAS_UPDATE | Flag.NO_WEIGHTS
    case.answer(ACK)
    assert trainable(case) == [-3.0] * 3
    assert case.middle.up() is None


def test_state_that_is_not_trained_comes_from_the_root_where_its_weights_do():
    outer, elastic = after_two_updates(OUTER), after_two_updates(ELASTIC)
    outer.up()
    outer.answer(value=0.5)
    assert outer.master.weights[3] == 0.5
    own = float(elastic.master.weights[3])
    elastic.up()
    elastic.answer(value=0.5)
    elastic.up()
    elastic.answer(ACK)
    assert elastic.master.weights[3] == own != 0.5


def test_it_follows_the_rate_that_the_root_has_set():
    case = after_two_updates(OUTER)
    case.up()
    case.answer(rate=0.5)
    assert case.half.rate == 0.5
    case.say(3, value=1.0)
    assert trainable(case) == [-0.5] * 3
    assert case.heard()[3][0].rate == 0.5


@pytest.mark.parametrize("root", [OUTER, ELASTIC], ids=["diloco", "easgd"])
def test_what_is_left_at_the_end_goes_up_with_the_bye(root):
    case = OverBranch(root, OWN, weights=1.0)
    case.say(3, BYE, value=2.0, n_samples=3)
    case.say(4, BYE)
    if root is ELASTIC:
        assert case.up()[0].kind is PULL
        case.answer(value=3.0)
    header, vector = case.up()
    assert (header.kind, header.n_samples) == (BYE, 3)
    assert vector[0] == (2.0 if root is OUTER else -1.0)
    case.answer(FINAL)
    assert case.middle.finished


def test_a_bye_without_anything_left_says_so_and_does_not_pull():
    case = OverBranch(ELASTIC, OWN)
    case.say(3, BYE)
    case.say(4, BYE)
    header, _ = case.up()
    assert (header.kind, header.n_samples) == (BYE, 0)
    assert not header.flags & Flag.HAS_UPDATE


def test_a_round_of_its_own_is_one_update():
    case = OverBranch(OUTER, OWN, quorum=1.0)
    case.say(3, value=2.0)
    case.say(4, value=4.0)
    assert trainable(case) == [-3.0] * 3  # a step along the mean
    assert case.middle.up() is None  # the second round is yet to come


def test_a_stop_reaches_its_children_with_their_next_answer():
    case = after_two_updates(OUTER)
    case.heard()
    case.up()
    case.answer(flags=Flag.STOP)
    case.say(3, value=1.0)
    assert case.heard()[3][0].flags & Flag.STOP
    case.say(3, BYE)
    case.say(4, BYE)
    assert case.up()[0].kind is BYE


def test_what_a_child_raised_goes_up_with_its_rank_after_the_others_have_left():
    case = after_two_updates(OUTER)
    frame = case.frames[3]
    write_failure(frame, 3, case.manifest.hash32, "node7", "no such pixel")
    case.middle.receive(3, frame)
    assert case.middle.up() is None
    case.say(4, BYE)
    assert read_failure(case.middle.up()) == (3, "node7", "no such pixel")
    case.answer(FINAL)
    assert case.middle.finished


def test_a_failure_of_its_own_goes_up_with_its_rank():
    case = OverBranch(OUTER, OWN)
    assert case.middle.failure(MemoryError("no room"), case.spare) is None
    for child in (3, 4):
        case.say(child, value=1.0)
        assert case.heard()[child][0].flags & Flag.STOP
        case.say(child, BYE)
    rank, _, trace = read_failure(case.middle.up())
    assert rank == 1
    assert "MemoryError: no room" in trace
    assert trainable(case) == [0.0] * 3  # nothing is applied after a failure


def test_a_checkpoint_holds_its_own_state_and_those_of_all_its_children():
    case = after_two_updates(ELASTIC)
    case.up()
    case.answer(value=3.0)
    case.say(3, BYE, state=0.3)
    case.up()
    case.answer(ACK, flags=Flag.SAVE)
    case.say(4, value=1.0)
    assert case.heard()[4][0].flags & Flag.SAVE
    case.say(4, value=1.0, state=0.4)
    case.up()
    case.answer(value=3.0)
    assert case.up()[0].flags & Flag.HAS_STATE
    assert {"3/s", "4/s", "1/algo/x"} <= set(unpack_arrays(case.frame.extra.tobytes()))
    case.answer(ACK)
    case.say(4, BYE)
    assert case.up()[0].kind is BYE


def test_its_weights_are_those_the_root_began_with():
    case = OverBranch(ELASTIC, OWN, weights=2.5)
    np.testing.assert_array_equal(case.master.weights, np.full(4, 2.5, np.float32))
