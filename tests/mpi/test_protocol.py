"""The protocol's decisions under any order of arrival, departure, silence and stop."""

import random

import pytest

from nnlo.errors import ConfigError, ProtocolError
from nnlo.mpi.protocol import (
    Apply,
    Arrived,
    Lost,
    MasterProtocol,
    Release,
    Reply,
    StopAsked,
    Suspected,
)


def update(child):
    return Arrived(child, has_update=True)


def bye(child, has_update=False):
    return Arrived(child, has_update, leaves=True)


def test_asynchronous_updates_are_applied_one_by_one():
    protocol = MasterProtocol([1, 2])
    assert protocol.on(update(2)) == [Apply((2,)), Reply(2)]
    assert protocol.on(update(1)) == [Apply((1,)), Reply(1)]


def test_a_round_waits_for_all_and_is_summed_in_rank_order():
    protocol = MasterProtocol([1, 2, 3], quorum=1.0)
    assert protocol.on(update(3)) == []
    assert protocol.on(update(1)) == []
    assert protocol.on(update(2)) == [Apply((1, 2, 3)), Reply(1), Reply(2), Reply(3)]


@pytest.mark.parametrize(("quorum", "needed"), [(1.0, 20), (0.95, 19), (0.91, 19), (0.05, 1)])
def test_a_quorum_is_a_share_of_the_active_children_rounded_up(quorum, needed):
    protocol = MasterProtocol(range(20), quorum)
    answers = [bool(protocol.on(update(child))) for child in range(needed)]
    assert answers == [False] * (needed - 1) + [True]


def test_a_departure_closes_the_round_of_those_who_wait():
    protocol = MasterProtocol([1, 2], quorum=1.0)
    assert protocol.on(update(1)) == []
    assert protocol.on(bye(2)) == [Apply((1,)), Reply(1), Release(2)]


def test_the_update_of_a_bye_joins_the_round_but_not_the_reply():
    protocol = MasterProtocol([1, 2, 3], quorum=1.0)
    assert protocol.on(bye(1, has_update=True)) == [Release(1)]
    assert protocol.on(update(2)) == []
    assert protocol.on(update(3)) == [Apply((1, 2, 3)), Reply(2), Reply(3)]


def test_a_death_closes_the_round_and_keeps_an_update_that_had_come():
    protocol = MasterProtocol([1, 2], quorum=1.0)
    protocol.on(update(1))
    assert protocol.on(Lost(2)) == [Apply((1,)), Reply(1)]
    protocol.on(update(1))
    assert protocol.finished is False
    protocol = MasterProtocol([1, 2], quorum=1.0)
    protocol.on(update(1))
    assert protocol.on(Lost(1)) == []
    assert protocol.on(bye(2)) == [Apply((1,)), Release(2)]
    assert protocol.finished


def test_a_suspect_is_left_out_until_it_speaks():
    protocol = MasterProtocol([1, 2], quorum=1.0)
    protocol.on(update(1))
    assert protocol.on(Suspected(2)) == [Apply((1,)), Reply(1)]
    assert protocol.suspects == {2}
    assert protocol.on(update(2)) == []
    assert protocol.suspects == frozenset()
    assert protocol.on(update(1)) == [Apply((1, 2)), Reply(1), Reply(2)]


def test_a_stop_at_once_releases_everyone_who_waits_and_whoever_comes_later():
    protocol = MasterProtocol([1, 2, 3], quorum=1.0)
    protocol.on(update(1))
    protocol.on(update(3))
    assert protocol.on(StopAsked(at_once=True)) == [Apply((1, 3)), Reply(1), Reply(3)]
    assert protocol.on(update(2)) == [Apply((2,)), Reply(2)]


def test_a_stop_lets_a_round_under_way_complete():
    protocol = MasterProtocol([1, 2], quorum=1.0)
    protocol.on(update(1))
    assert protocol.on(StopAsked()) == []
    assert protocol.stopping
    assert protocol.on(update(2)) == [Apply((1, 2)), Reply(1), Reply(2)]
    assert protocol.on(bye(1)) == [Release(1)]
    assert protocol.on(bye(2)) == [Release(2)]
    assert protocol.finished


def test_an_empty_update_is_answered_but_not_applied():
    protocol = MasterProtocol([1])
    assert protocol.on(Arrived(1, has_update=False)) == [Reply(1)]


def test_a_second_message_before_the_answer_is_an_error():
    protocol = MasterProtocol([1, 2], quorum=1.0)
    protocol.on(update(1))
    with pytest.raises(ProtocolError, match="rank 1"):
        protocol.on(update(1))
    with pytest.raises(ProtocolError, match="rank 7"):
        protocol.on(update(7))


def test_bad_children_and_quorum_are_refused():
    with pytest.raises(ConfigError, match="at least one child"):
        MasterProtocol([])
    with pytest.raises(ConfigError, match=r"quorum must be in \(0, 1\], got 1.5"):
        MasterProtocol([1], quorum=1.5)


def play(seed):
    """One random run; returns the updates that were sent whole and those applied."""
    draw = random.Random(seed)
    n = draw.randint(1, 7)
    protocol = MasterProtocol(range(n), draw.choice([None, 1.0, 0.95, 0.5, 0.01]))
    left = {child: draw.randint(0, 6) for child in range(n)}  # updates before its BYE
    thinking, waiting, gone = set(range(n)), set(), set()
    stopped_at = draw.choice([None, None, draw.randint(0, 20)])
    frozen: set[int] = set()
    sent, applied = [], []
    for step in range(1000):
        if protocol.finished:
            return sent, applied, waiting, gone, n
        assert thinking or waiting, "no child can move"
        child = draw.choice(sorted(thinking)) if thinking else None
        fate = draw.random()
        if step == stopped_at:
            actions = protocol.on(StopAsked(at_once=draw.random() < 0.5))
        elif fate < 0.03:
            child = draw.choice(sorted(thinking | waiting))
            thinking.discard(child), waiting.discard(child), gone.add(child)
            actions = protocol.on(Lost(child))
        elif fate < 0.06 and child is not None:
            frozen.add(child)
            actions = protocol.on(Suspected(child))
        elif child is None:
            # Only frozen or dead children could be missing from the round.
            raise AssertionError(f"deadlock: {sorted(waiting)} wait, nobody works")
        else:
            leaves = left[child] == 0 or (protocol.stopping and draw.random() < 0.7)
            has_update = not leaves or draw.random() < 0.5
            left[child] = max(0, left[child] - 1)
            sent += [(child, step)] * has_update
            thinking.discard(child)
            (gone if leaves else waiting).add(child)
            actions = protocol.on(Arrived(child, has_update, leaves))
        for action in actions:
            match action:
                case Apply(children):
                    applied += children
                case Reply(child):
                    waiting.remove(child)
                    thinking.add(child)
                case Release(child):
                    assert child in gone
    raise AssertionError("the run did not end")


@pytest.mark.parametrize("block", range(10))
def test_no_schedule_of_12000_deadlocks_or_loses_an_update(block):
    for seed in range(1200 * block, 1200 * (block + 1)):
        sent, applied, waiting, gone, n = play(seed)
        assert sorted(applied) == sorted(child for child, _ in sent), f"seed {seed}"
        assert not waiting, f"seed {seed}"
        assert gone == set(range(n)), f"seed {seed}"
