"""Silence and stalls, by a clock that the test turns."""

import pytest

from nnlo.mpi.vigil import Dead, Silent, Stall, Vigil


class Watched:
    """A vigil over children 1 and 2 and its clock, which moves in steps of 0.5 s."""

    def __init__(self, after=10.0, children=(1, 2)):
        self.now = 1000.0
        self.vigil = Vigil(children, after, self.now)

    def turn(self, child, seconds):
        """The child takes that long for a message and is answered at once."""
        verdicts = self.passes(seconds)
        self.vigil.heard(child, self.now)
        self.vigil.answered(child, self.now)
        return verdicts

    def passes(self, seconds):
        """The verdicts of that time, and when they came."""
        found = []
        for step in range(1, int(2 * seconds) + 1):
            self.now += 0.5
            found += [(step / 2, verdict) for verdict in self.vigil.check(self.now)]
        return found


@pytest.fixture
def two():
    """Both have spoken twice, after 2 s each; child 1 owes nothing."""
    watched = Watched()
    for _ in range(2):
        watched.turn(1, 1.0)
        watched.turn(2, 1.0)
    watched.vigil.heard(1, watched.now)
    return watched


def test_a_child_is_silent_after_the_limit_and_dead_after_ten_times_it_once_each(two):
    (first, silent), (second, dead) = two.passes(300)
    assert (first, silent) == (20.5, Silent(2, 20.5, 2.0))
    assert (second, dead) == (200.5, Dead(2, 200.5))


def test_a_child_that_waits_for_its_answer_owes_nothing(two):
    two.vigil.heard(2, two.now)
    assert two.passes(1000) == []


def test_who_has_spoken_again_gets_a_new_verdict_on_a_new_silence(two):
    assert len(two.turn(2, 30)) == 1
    assert [type(verdict) for _, verdict in two.passes(60)] == [Silent]


def test_a_slow_child_is_given_ten_times_its_own_interval():
    watched = Watched(children=(1,))
    for _ in range(3):
        watched.turn(1, 8.0)
    assert watched.passes(80) == []
    assert [verdict.usual_s for _, verdict in watched.passes(1)] == [pytest.approx(8.0)]


def test_the_usual_interval_follows_a_child_that_becomes_slower():
    watched = Watched(children=(1,))
    for seconds in (5.0, *[1.0] * 5, *[9.0] * 60):
        assert watched.turn(1, seconds) == []
    assert watched.passes(89) == []


def test_the_first_message_may_take_five_times_as_long_while_none_has_spoken():
    watched = Watched()
    assert watched.passes(50) == []
    assert [(v.child, v.usual_s) for _, v in watched.passes(1)] == [(1, None), (2, None)]


@pytest.mark.parametrize(("others", "limit"), [(0.5, 10.0), (4.0, 40.0)])
def test_the_first_message_may_take_ten_times_as_long_as_that_of_others(others, limit):
    watched = Watched(children=(1, 2))
    watched.turn(1, others)
    watched.vigil.heard(1, watched.now)
    ((when, verdict),) = watched.passes(limit - others + 1)
    assert (verdict.child, when) == (2, limit - others + 0.5)


def test_the_first_interval_does_not_count_as_usual():
    watched = Watched(children=(1,))
    watched.turn(1, 40.0)
    watched.turn(1, 1.0)
    assert [when for when, _ in watched.passes(11)] == [10.5]


def test_time_in_which_this_process_did_not_look_hardly_counts(two):
    two.now += 10_000.0
    assert two.vigil.check(two.now) == []
    assert [when for when, _ in two.passes(25)] == [19.5]  # 1 s of the gap counts


def test_a_gap_does_not_make_an_interval_usual(two):
    two.now += 10_000.0
    assert two.turn(2, 1.0) == []
    assert [verdict.usual_s for _, verdict in two.passes(30)] == [pytest.approx(2.0, rel=0.1)]


def test_who_is_forgotten_or_not_watched_is_never_judged(two):
    two.vigil.forget(2)
    two.vigil.heard(2, two.now)
    two.vigil.heard(7, two.now)
    assert two.passes(1000) == []


def test_a_child_that_is_answered_later_is_watched_from_then_on(two):
    two.vigil.forget(2)
    two.vigil.answered(3, two.now)
    ((when, verdict),) = two.passes(60)
    assert (when, verdict.child, verdict.usual_s) == (20.5, 3, None)


def test_after_0_there_is_no_verdict_ever():
    assert Watched(after=0.0).passes(10_000) == []


def test_two_looks_within_a_tenth_of_a_second_are_one(two):
    assert two.passes(20) == []
    before = two.vigil.check(two.now + 0.05)
    assert (before, len(two.vigil.check(two.now + 0.5))) == ([], 1)


def stalls(stall, start, seconds):
    """When, in seconds from ``start``, a stall was due."""
    return [s for s in range(1, seconds + 1) if stall.is_due(start + s)]


def test_a_stall_is_said_once_and_again_at_doubled_intervals():
    stall = Stall(10.0, 0.0)
    stall.moved(1.0)
    stall.moved(1.5)
    assert stalls(stall, 1.5, 100) == [11, 21, 41, 81]
    assert stall.stalled_s(101.5) == pytest.approx(100, abs=1)


def test_movement_ends_a_stall_and_the_next_one_is_said_anew():
    stall = Stall(10.0, 0.0)
    stall.moved(1.0)
    stall.moved(2.0)
    assert stalls(stall, 2.0, 15) == [11]
    stall.moved(17.0)
    assert stalls(stall, 17.0, 30) == [20]  # ten times the mean that 10 s have raised to 1.9


def test_what_usually_takes_long_is_no_stall():
    stall = Stall(10.0, 0.0)
    for start in (0.0, 4.0, 8.0):
        stalls(stall, start, 4)
        stall.moved(start + 4.0)
    assert stalls(stall, 12.0, 50) == [41]


def test_before_anything_has_moved_a_stall_is_five_times_as_long():
    assert stalls(Stall(10.0, 0.0), 0.0, 120) == [51, 101]


def test_a_stall_after_0_seconds_is_never_due():
    assert stalls(Stall(0.0, 0.0), 0.0, 1000) == []
