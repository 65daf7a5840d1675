"""The protocol's decisions under any order of arrival, departure, silence and stop."""

import random
from collections import Counter

import pytest

from nnlo.errors import ConfigError, ProtocolError
from nnlo.mpi.events import Apply, Arrived, Lost, Release, Reply, StopAsked, Suspected
from nnlo.mpi.protocol import MasterProtocol


def update(child):
    return Arrived(child, has_update=True)


def pull(child):
    return Arrived(child, has_update=False)


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


def test_a_late_update_joins_the_next_round_of_a_quorum():
    protocol = MasterProtocol([1, 2, 3], quorum=0.6)
    assert protocol.on(update(1)) == []
    assert protocol.on(update(2)) == [Apply((1, 2)), Reply(1), Reply(2)]
    assert protocol.on(update(3)) == []
    assert protocol.on(update(1)) == [Apply((1, 3)), Reply(1), Reply(3)]


def test_the_last_updates_of_all_are_applied_whatever_the_quorum():
    protocol = MasterProtocol([1, 2, 3], quorum=0.6)
    assert protocol.on(update(3)) == []
    assert protocol.on(bye(1, has_update=True)) == [Release(1)]
    assert protocol.on(bye(2, has_update=True)) == [Apply((1, 2, 3)), Reply(3), Release(2)]


def test_a_synchronous_pull_waits_for_the_round_as_an_update_does():
    protocol = MasterProtocol([1, 2], quorum=1.0)
    assert protocol.on(pull(1)) == []
    assert protocol.on(pull(2)) == [Reply(1), Reply(2)]
    assert protocol.on(update(2)) == []
    assert protocol.on(update(1)) == [Apply((1, 2)), Reply(1), Reply(2)]


def ahead(by, max_staleness, others=(2, 3)):
    """A protocol in which child 1 waits, ``by`` updates ahead of the others."""
    protocol = MasterProtocol([1, *others], max_staleness=max_staleness)
    answers = [protocol.on(update(1)) for _ in range(by)]
    assert answers == [[Apply((1,)), Reply(1)]] * (by - 1) + [[Apply((1,))]]
    return protocol


@pytest.mark.parametrize("s", [0, 1, 5])
def test_who_is_too_far_ahead_waits_until_the_slowest_catches_up(s):
    protocol = ahead(s + 1, s)
    assert Reply(1) not in protocol.on(update(3))
    assert protocol.on(update(2))[:2] == [Apply((2,)), Reply(1)]


@pytest.mark.parametrize(
    ("event", "answers"),
    [
        (bye(2), [Reply(1), Release(2)]),
        (bye(2, has_update=True), [Apply((2,)), Reply(1), Release(2)]),
        (Lost(2), [Reply(1)]),
        (Suspected(2), [Reply(1)]),
        (StopAsked(), [Reply(1)]),
        (StopAsked(at_once=True), [Reply(1)]),
    ],
)
def test_nobody_waits_for_who_is_gone_or_silent_nor_in_a_run_that_stops(event, answers):
    protocol = ahead(3, 2, others=(2,))
    assert protocol.on(event) == answers


def test_a_pull_neither_waits_nor_counts_as_an_update():
    protocol = MasterProtocol([1, 2], max_staleness=0)
    assert [protocol.on(pull(2)) for _ in range(3)] == [[Reply(2)]] * 3
    assert protocol.on(update(2)) == [Apply((2,))]
    assert protocol.on(pull(1)) == [Reply(1)]
    assert protocol.on(update(1)) == [Apply((1,)), Reply(1), Reply(2)]


def test_a_pull_of_who_is_ahead_is_answered_and_its_update_waits():
    protocol = ahead(3, 2, others=(2,))
    protocol.on(Suspected(2))
    for _ in range(5):
        protocol.on(update(1))
    protocol.on(Suspected(1))
    assert protocol.on(update(2)) == [Apply((2,)), Reply(2)]  # nobody else was in sight
    assert protocol.on(pull(1)) == [Reply(1)]
    assert protocol.on(update(1)) == [Apply((1,))]


def test_a_suspect_that_returns_goes_on_beside_the_slowest():
    protocol = ahead(3, 2, others=(2,))
    protocol.on(Suspected(2))
    for _ in range(50):
        assert protocol.on(update(1)) == [Apply((1,)), Reply(1)]
    assert protocol.on(update(2)) == [Apply((2,)), Reply(2)]
    assert protocol.on(update(1)) == [Apply((1,)), Reply(1)]


def test_a_bound_on_staleness_goes_with_asynchronous_updates_only():
    with pytest.raises(ConfigError, match="must not be negative, got -1"):
        MasterProtocol([1], max_staleness=-1)
    with pytest.raises(ConfigError, match="must go with asynchronous updates, got 2"):
        MasterProtocol([1], quorum=1.0, max_staleness=2)


@pytest.mark.parametrize("mode", [{}, {"quorum": 1.0}, {"max_staleness": 0}])
def test_an_observer_is_answered_at_once_and_has_to_leave(mode):
    protocol = MasterProtocol([1], **mode, observers=[0])
    assert protocol.on(pull(0)) == [Reply(0)]
    assert protocol.on(update(1)) == [Apply((1,)), Reply(1)]  # not held for it
    assert protocol.on(bye(1)) == [Release(1)]
    assert not protocol.finished
    assert protocol.on(pull(0)) == [Reply(0)]
    assert protocol.on(bye(0)) == [Release(0)]
    assert protocol.finished
    with pytest.raises(ProtocolError, match="rank 0"):
        protocol.on(pull(0))


def test_an_observer_sends_no_updates_and_is_no_child():
    protocol = MasterProtocol([1], observers=[0])
    with pytest.raises(ProtocolError, match="must only pull, got an update from rank 0"):
        protocol.on(update(0))
    assert protocol.on(Lost(0)) == []
    with pytest.raises(ConfigError, match=r"got \[1\] as both"):
        MasterProtocol([1, 2], observers=[1])


class Play:
    """One random run; ``sent`` and ``applied`` are the updates by child."""

    def __init__(self, seed, max_staleness=None, quorums=(None,), loses_sight=True):
        self.draw = draw = random.Random(seed)
        self.s, self.loses_sight = max_staleness, loses_sight
        self.n, n_observers = draw.randint(1, 7), draw.choice([0, 0, 1, 2])
        self.children = set(range(self.n))
        observers = range(self.n, self.n + n_observers)
        quorum = draw.choice(quorums)
        self.protocol = MasterProtocol(range(self.n), quorum, max_staleness, observers)
        self.pulls = draw.random() < 0.5
        self.left = {child: draw.randint(0, 6) for child in range(self.n + n_observers)}
        self.thinking, self.waiting, self.gone = set(self.left), set(), set()
        self.pulled = set()  # answered to a pull: an update comes next
        self.stopped_at = draw.choice([None, None, draw.randint(0, 20)])
        self.sent, self.applied = Counter(), Counter()
        self.n_held = 0

    def run(self):
        for step in range(2000):
            if self.protocol.finished:
                return self
            assert self.thinking, f"deadlock: {sorted(self.waiting)} wait, nobody works"
            event = self.event(step)
            for action in self.protocol.on(event):
                self.take(action)
            self.check(event)
        raise AssertionError("the run did not end")

    def event(self, step):
        child, fate = self.draw.choice(sorted(self.thinking)), self.draw.random()
        if step == self.stopped_at:
            return StopAsked(at_once=self.draw.random() < 0.5)
        if self.loses_sight and fate < 0.03:
            child = self.draw.choice(sorted(self.thinking | self.waiting))
            self.thinking.discard(child), self.waiting.discard(child), self.gone.add(child)
            return Lost(child)
        if self.loses_sight and fate < 0.06:
            return Suspected(child)
        self.thinking.discard(child)
        if self.pulls and child in self.children - self.pulled and fate < 0.8:
            self.pulled.add(child)
            self.waiting.add(child)
            return pull(child)
        return self.exchange(child)

    def exchange(self, child):
        self.pulled.discard(child)
        leaves = self.left[child] == 0 or (self.protocol.stopping and self.draw.random() < 0.7)
        has_update = child in self.children and (not leaves or self.draw.random() < 0.5)
        self.left[child] = max(0, self.left[child] - 1)
        self.sent[child] += has_update
        (self.gone if leaves else self.waiting).add(child)
        return Arrived(child, has_update, leaves)

    def take(self, action):
        match action:
            case Apply(children):
                self.applied.update(children)
            case Reply(child):
                self.waiting.remove(child)  # once a message
                self.thinking.add(child)
            case Release(child):
                assert child in self.gone

    def check(self, event):
        """What holds after every event."""
        assert not self.waiting - self.children, "an observer waits"
        present = (self.children - self.gone) - self.protocol.suspects
        assert present & self.thinking or not self.waiting, "all wait for suspects"
        if self.s is None or self.protocol.stopping or self.loses_sight:
            return
        self.n_held += len(self.waiting)
        bound = min((self.applied[child] for child in present), default=0) + self.s
        assert all(self.applied[child] > bound for child in self.waiting), "held for nothing"
        if isinstance(event, Arrived) and event.has_update and event.child in self.thinking:
            assert self.applied[event.child] <= bound, "too far ahead"
        assert all(self.applied[child] <= bound + 1 for child in present), "too far ahead"


def assert_complete(play, seed):
    assert play.sent == play.applied, f"seed {seed}"
    assert not play.waiting, f"seed {seed}"
    assert play.gone == set(play.left), f"seed {seed}"


@pytest.mark.parametrize("block", range(10))
def test_no_schedule_of_12000_deadlocks_or_loses_an_update(block):
    for seed in range(1200 * block, 1200 * (block + 1)):
        assert_complete(Play(seed, quorums=(None, 1.0, 0.95, 0.5, 0.01)).run(), seed)


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 4])
def test_no_schedule_of_8000_deadlocks_under_bounded_staleness(max_staleness):
    for seed in range(2000):
        assert_complete(Play(seed, max_staleness).run(), seed)


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 4])
def test_in_no_schedule_of_8000_is_anyone_ahead_of_the_bound_or_held_below_it(max_staleness):
    plays = [Play(seed, max_staleness, loses_sight=False).run() for seed in range(2000)]
    assert all(play.sent == play.applied for play in plays)
    assert sum(play.n_held for play in plays) > 100  # the bound did bite


def last(child):
    return bye(child, has_update=True)


def turns(*children, **settings):
    return MasterProtocol(children, one_at_a_time=True, **settings)


def test_the_pull_of_another_waits_until_the_update_that_follows_the_first():
    protocol = turns(1, 2, 3)
    assert protocol.on(pull(1)) == [Reply(1)]
    assert protocol.on(pull(3)) == []
    assert protocol.on(pull(2)) == []
    assert protocol.on(update(1)) == [Apply((1,)), Reply(1), Reply(3)]
    assert protocol.on(bye(3, has_update=True)) == [Apply((3,)), Release(3), Reply(2)]


@pytest.mark.parametrize("event", [Lost(1), Suspected(1)])
def test_who_dies_or_falls_silent_loses_its_turn(event):
    protocol = turns(1, 2)
    protocol.on(pull(1))
    protocol.on(pull(2))
    assert protocol.on(event) == [Reply(2)]


def test_an_update_that_pulls_again_queues_behind_who_waits():
    protocol = turns(1, 2)
    protocol.on(pull(1))
    protocol.on(pull(2))
    both = Arrived(1, has_update=True, pulls=True)
    assert protocol.on(both) == [Apply((1,)), Reply(2)]
    assert protocol.on(update(2)) == [Apply((2,)), Reply(2), Reply(1)]


def test_nobody_waits_for_a_turn_once_nothing_is_applied_any_more():
    protocol = turns(1, 2, 3)
    for child in (1, 2, 3):
        protocol.on(pull(child))
    assert protocol.on(StopAsked(at_once=True)) == [Reply(2), Reply(3)]


def test_who_waits_for_its_turn_must_not_speak():
    protocol = turns(1, 2)
    protocol.on(pull(1))
    protocol.on(pull(2))
    with pytest.raises(ProtocolError, match="a second message from rank 2"):
        protocol.on(update(2))


@pytest.mark.parametrize("seed", range(5))
def test_in_random_schedules_of_turns_pulls_and_updates_alternate(seed):
    draw = random.Random(seed)
    for _ in range(400):
        n = draw.randint(1, 6)
        protocol, left = turns(*range(n)), [draw.randint(1, 5) for _ in range(n)]
        ready, served = dict.fromkeys(range(n), pull), []
        while not protocol.finished:
            child = draw.choice(sorted(ready))  # fails where all wait: a deadlock
            event = ready.pop(child)(child)
            for action in protocol.on(event):
                if isinstance(action, Apply):
                    assert list(action.children) == [served.pop()]  # nobody else was served
                elif isinstance(action, Reply) and (action.child != child or event == pull(child)):
                    served.append(action.child)
                    left[action.child] -= 1
                    ready[action.child] = update if left[action.child] else last
                elif isinstance(action, Reply):
                    ready[child] = pull
            assert len(served) <= 1
