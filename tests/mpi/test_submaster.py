"""A sub-master: one message up for what its children have sent, each answered once."""

import numpy as np
import pytest

from nnlo.errors import ProtocolError
from nnlo.mpi.failure import read_failure, write_failure
from nnlo.mpi.frame import N_TIMES, Flag, Kind
from tests.mpi.middles import OverSubMaster

BYE, PULL, UPDATE, WEIGHTS, ACK, FINAL = (
    Kind.BYE, Kind.PULL, Kind.UPDATE, Kind.WEIGHTS, Kind.ACK, Kind.FINAL,
)  # fmt: skip


def test_nothing_is_due_before_a_child_speaks():
    assert OverSubMaster().middle.up() is None


@pytest.mark.parametrize(("merge", "expected"), [("mean", 4.0), ("sum", 7.0)])
def test_what_came_together_goes_up_as_one(merge, expected):
    case = OverSubMaster(merge)
    case.say(3, value=2.0, n_samples=1, version=8, epoch=2)
    case.say(4, value=5.0, n_samples=2, version=6, epoch=1)
    header, vector = case.up()
    np.testing.assert_allclose(vector, [expected] * 3 + [4.0])  # S is a mean in any case
    assert (header.kind, header.sender, header.flags) == (UPDATE, 1, Flag.HAS_UPDATE)
    assert (header.n_samples, header.n_steps, header.n_merged) == (3, 2, 2)
    assert (header.version, header.epoch) == (6, 1)  # of the last one
    assert case.frame.tail[N_TIMES:].tolist() == [3.0, 1.5]


def test_a_lone_update_goes_up_as_it_is():
    case = OverSubMaster()
    case.say(3, value=2.0, n_samples=5, version=8, n_merged=4)
    header, vector = case.up()
    assert vector.tolist() == [2.0] * 4
    assert (header.n_samples, header.n_merged, header.version) == (5, 4, 8)
    case.answer(version=9)
    assert case.middle.up() is None


def test_an_answer_reaches_all_who_wait_and_nobody_else():
    case = OverSubMaster()
    case.say(3, value=1.0)
    case.up()
    case.say(4, value=1.0)
    case.answer(value=6.0, version=9, rate=0.5)
    heard = case.heard()
    assert {child: weight for child, (_, weight) in heard.items()} == {3: 6.0, 4: 6.0}
    assert all((h.kind, h.version, h.rate) == (WEIGHTS, 9, 0.5) for h, _ in heard.values())


def test_pulls_alone_go_up_as_a_pull():
    case = OverSubMaster("sum")
    case.say(3, PULL)
    header, _ = case.up()
    assert (header.kind, header.flags) == (PULL, Flag(0))
    case.answer(value=3.0, version=2)
    assert case.heard()[3][1] == 3.0


def test_a_pull_beside_an_update_gets_weights_and_the_other_an_acknowledgement():
    case = OverSubMaster("sum")
    case.say(3, PULL)
    case.say(4, value=1.0, flags=Flag.NO_WEIGHTS)
    header, _ = case.up()
    assert (header.kind, header.n_merged) == (UPDATE, 1)
    assert not header.flags & Flag.NO_WEIGHTS
    case.answer(value=3.0, version=2)
    heard = case.heard()
    assert (heard[3][0].kind, heard[3][1], heard[4][0].kind) == (WEIGHTS, 3.0, ACK)


def test_where_nobody_needs_weights_none_are_asked_for():
    case = OverSubMaster("sum")
    case.say(3, value=1.0, flags=Flag.NO_WEIGHTS)
    case.say(4, value=1.0, flags=Flag.NO_WEIGHTS)
    header, _ = case.up()
    assert header.flags & Flag.NO_WEIGHTS
    case.answer(ACK, flags=Flag.STOP)
    heard = case.heard()
    assert [h.kind for h, _ in heard.values()] == [ACK, ACK]
    assert all(h.flags == Flag.STOP for h, _ in heard.values())


def test_a_round_waits_for_all_and_goes_up_in_order_of_ranks():
    case = OverSubMaster(quorum=1.0)
    case.say(4, value=4.0, n_samples=3)
    assert case.middle.up() is None
    case.say(3, value=0.0)
    header, vector = case.up()
    assert (vector[0], header.n_merged) == (3.0, 2)


def test_who_leaves_is_released_at_once_and_its_last_update_goes_up():
    case = OverSubMaster()
    case.say(3, BYE, value=2.0)
    assert case.heard()[3][0].kind is FINAL
    assert case.middle.up() is None  # no hurry: nobody waits for it
    case.say(4, BYE, value=4.0)
    header, vector = case.up()
    assert (header.kind, header.n_merged, vector[0]) == (BYE, 2, 3.0)
    case.answer(FINAL)
    assert case.middle.finished


def test_a_bye_without_anything_left_says_so():
    case = OverSubMaster()
    case.say(3, BYE)
    case.say(4, BYE)
    header, _ = case.up()
    assert (header.kind, header.n_samples) == (BYE, 0)
    assert not header.flags & Flag.HAS_UPDATE


def test_after_a_stop_all_children_hear_it_with_their_next_answer():
    case = OverSubMaster(quorum=1.0)
    for child in (3, 4):
        case.say(child, value=1.0)
    case.up()
    case.answer(flags=Flag.STOP)
    assert all(h.flags & Flag.STOP for h, _ in case.heard().values())


def test_a_stop_frees_who_is_held_for_being_ahead():
    case = OverSubMaster(max_staleness=0)
    case.say(3, value=1.0)
    assert case.middle.up() is None  # held until 4 has caught up
    case.say(4, PULL)
    case.up()
    case.answer(flags=Flag.STOP)
    assert set(case.heard()) == {3, 4}


def test_the_book_has_a_row_for_each_worker():
    case = OverSubMaster()
    case.say(3, value=1.0, n_samples=2)
    case.say(4, value=1.0, n_samples=5)
    case.up()
    rows = case.middle.history.ranks
    assert {rank: row["samples"] for rank, (row,) in rows.items()} == {"3": 2, "4": 5}
    assert rows["4"][0]["loss"] == 0.5


# Checkpoints -------------------------------------------------------------------------------------


def saving():
    """One whose children have just been asked for their states."""
    case = OverSubMaster()
    for child in (3, 4):
        case.say(child, value=1.0)
    case.up()
    case.answer(flags=Flag.SAVE)
    assert all(h.flags & Flag.SAVE for h, _ in case.heard().values())
    return case


def test_states_go_up_once_all_have_come():
    case = saving()
    case.say(3, value=1.0, state=0.3)
    assert not case.up()[0].flags & Flag.HAS_STATE
    case.answer()
    assert not case.heard()[3][0].flags & Flag.SAVE
    case.say(4, value=1.0, state=0.4)
    assert case.up()[0].flags & Flag.HAS_STATE
    assert case.states() == {"3/s": 0.3, "4/s": 0.4}
    case.answer()
    case.say(3, value=1.0)
    assert not case.up()[0].flags & Flag.HAS_STATE


def test_a_pull_is_not_asked_for_a_state():
    case = OverSubMaster()
    case.say(3, PULL)
    case.say(4, value=1.0)
    case.up()
    case.answer(flags=Flag.SAVE)
    heard = case.heard()
    assert not heard[3][0].flags & Flag.SAVE
    assert heard[4][0].flags & Flag.SAVE
    case.say(3, value=1.0)
    case.up()
    case.answer()
    assert case.heard()[3][0].flags & Flag.SAVE


def test_what_who_leaves_sends_waits_for_the_others():
    case = OverSubMaster()
    case.say(3, BYE, value=1.0, state=0.3)
    case.say(4, value=1.0)
    assert not case.up()[0].flags & Flag.HAS_STATE  # it would be taken for all there is
    case.answer(flags=Flag.SAVE)
    case.say(4, value=1.0, state=0.4)
    assert case.up()[0].flags & Flag.HAS_STATE
    assert case.states() == {"3/s": 0.3, "4/s": 0.4}
    case.answer()
    case.say(4, BYE, state=0.5)
    assert case.up()[0].flags & Flag.HAS_STATE
    assert case.states() == {"3/s": 0.3, "4/s": 0.5}  # the last message has all of them


# Failures ----------------------------------------------------------------------------------------


def fail(case, child):
    frame = case.frames[child]
    write_failure(frame, child, case.manifest.hash32, "node7", "no such pixel")
    case.middle.receive(child, frame)


def test_what_a_child_raised_goes_up_with_its_rank_after_the_others_have_left():
    case = OverSubMaster(quorum=1.0)
    case.say(4, value=1.0)
    fail(case, 3)
    assert case.middle.up() is None
    heard = case.heard()
    assert heard[3][0].kind is FINAL
    assert heard[4][0].flags & Flag.STOP
    case.say(4, BYE)
    assert case.up()[0].kind is Kind.ERROR
    assert read_failure(case.middle.up()) == (3, "node7", "no such pixel")
    case.answer(FINAL)
    assert case.middle.finished


def test_of_two_failures_the_first_goes_up():
    case = OverSubMaster()
    fail(case, 4)
    fail(case, 3)
    assert read_failure(case.middle.up())[0] == 4


def test_a_failure_of_its_own_goes_up_with_its_rank():
    case = OverSubMaster()
    case.say(3, value=1.0)
    assert case.middle.failure(MemoryError("no room"), case.spare) is None
    assert case.heard()[3][0].flags & Flag.STOP
    case.say(3, BYE)
    case.say(4, BYE)
    rank, _, trace = read_failure(case.middle.up())
    assert rank == 1
    assert "MemoryError: no room" in trace


def test_a_message_of_another_model_is_refused():
    with pytest.raises(ProtocolError, match="another layout from rank 4"):
        OverSubMaster().say(4, layout=1)
