"""Who waits for whom, over mailboxes in this process."""

import time
from collections import deque

import numpy as np
import pytest

from nnlo.mpi import ulfm, watch
from nnlo.mpi.fence import Process, Registry
from nnlo.mpi.standstill import MOST_LINES, describe, name_ranks
from nnlo.mpi.watch import Answering, Asking, Watch


class Request:
    """A send that is complete, or a receive that looks into its mailbox."""

    def __init__(self, buffer=None, box=None, active=True, on_free=None):
        self._buffer, self._box, self._active = buffer, box, active
        self._on_free = on_free  # persistent

    def Start(self):
        assert not self._active
        self._active = True

    def Test(self):
        if self._active and self._box:
            message = self._box.popleft()
            self._buffer[: len(message)] = message
            self._active = False
        return not self._active

    def Cancel(self):
        self._active = False

    def Free(self):
        assert not self._active
        self._on_free = None

    def __bool__(self):
        return self._active or self._on_free is not None


class Net:
    """Ranks whose messages lie in ``boxes`` until they are received."""

    def __init__(self, size):
        self.size, self.boxes, self.dead, self.freed = size, {}, set(), set()

    def box(self, *key):
        return self.boxes.setdefault(key, deque())

    @property
    def left_over(self):
        return [key for key, box in self.boxes.items() if box]


class Comm:
    def __init__(self, net, rank):
        self.net, self.rank, self.size = net, rank, net.size

    def Isend(self, buffer, to, tag):
        if to in self.net.dead:
            raise ulfm.PeersLost
        self.net.box(self.rank, to, tag).append(np.array(buffer))
        return Request(active=False)

    def Irecv(self, buffer, source, tag):
        return Request(buffer, self.net.box(source, self.rank, tag))

    def Recv_init(self, buffer, source, tag):
        return Request(buffer, self.net.box(source, self.rank, tag), active=False, on_free=True)

    def Free(self):
        self.net.freed.add(self.rank)


class Ranks:
    """Rank 0 and two others with one clock; rank 0 reports after 60 s."""

    def __init__(self):
        self.now = 1000.0
        self.net = Net(3)
        self.lines = []
        far = Process("far", "another boot", 7, 1)
        registry = Registry([Process.own(), far, far._replace(pid=8)])
        comms = [Comm(self.net, rank) for rank in range(3)]
        self.asking = Asking(comms[0], registry, 60.0, self.clock, self.lines.append)
        self.one, self.two = (Answering(comm, self.clock).open() for comm in comms[1:])

    def clock(self):
        return self.now

    def passes(self, seconds, *others):
        """Rank 0 and ``others`` look at their messages again and again; what is told."""
        self.lines.clear()
        for _ in range(round(10 * seconds)):
            self.now += 0.1
            for one in (*others, self.asking):
                one.poll()
        return self.lines[:]

    def report(self, *others):
        """What rank 0 learns when it asks now."""
        self.asking.ask()
        return self.passes(2, *others)


@pytest.fixture
def ranks():
    made = Ranks()
    made.asking.moved()
    return made


def test_the_report_says_who_waits_for_whom_and_since_when(ranks):
    with ranks.one.waiting("rank 2 (reduction)"), ranks.asking.waiting("ranks 1 and 2"):
        ranks.passes(59, ranks.one, ranks.two)
        with ranks.two.waiting("rank 0"):
            lines = ranks.passes(3, ranks.one, ranks.two)
    assert lines == [
        "nothing has moved for 60 s: rank 0 is waiting for ranks 1 and 2",
        "rank 1 is waiting for rank 2 (reduction) for 60 s",
        "rank 2 is waiting for rank 0 for 1 s",
    ]


def test_who_does_not_answer_within_a_second_is_named_first(ranks):
    lines = ranks.report(ranks.one)
    assert lines[1] == "rank 2 (pid 8 on far) does not answer: on another machine"
    assert lines[2].startswith("rank 1 is working for ")


def test_a_report_comes_by_itself_and_again_at_doubled_intervals(ranks):
    others = ranks.one, ranks.two
    assert ranks.passes(59.9, *others) == []
    assert "moved for 60 s" in ranks.passes(2, *others)[0]
    assert ranks.passes(57, *others) == []
    assert "moved for 120 s" in ranks.passes(3, *others)[0]


def test_nothing_is_said_while_something_moves(ranks):
    for _ in range(10):
        assert ranks.passes(30, ranks.one, ranks.two) == []
        ranks.asking.moved()


def test_a_rank_that_computes_is_asked_once_and_its_late_answer_counts(ranks):
    ranks.report(ranks.one)
    ranks.report(ranks.one)
    assert len(ranks.net.box(0, 2, watch.link.DOWN)) == 1
    assert any(line.startswith("rank 2 is working") for line in ranks.report(ranks.two))


def test_a_dead_rank_is_noted_and_not_asked_again(ranks):
    ranks.net.dead.add(2)
    first, second = ranks.report(ranks.one), ranks.report(ranks.one)
    assert first[1] == second[1] == "rank 2 (pid 8 on far) is dead"
    assert ranks.net.box(0, 2, watch.link.DOWN) == deque()


def test_what_a_rank_does_is_restored_after_waiting_and_after_an_error():
    one = Watch()
    one.doing = "validating"
    with one.waiting("rank 0"):
        assert one.doing == "waiting for rank 0"
    with pytest.raises(KeyError), one.waiting("rank 1"):
        {}.pop("missing")
    assert one.doing == "validating"


def test_a_long_phrase_is_cut(ranks):
    ranks.one.doing = "waiting for ü" * 100
    line = ranks.report(ranks.one, ranks.two)[1]
    assert line.startswith("rank 1 is waiting for üwaiting")
    assert len(line.encode()) < 300


def close_all(monkeypatch, *ranks):
    """All close at the same time: while one waits the others go on. Returns the seconds."""
    start = time.monotonic()
    waiting = list(ranks)
    monkeypatch.setattr(
        watch.link.Backoff, "sleep", lambda _: waiting.pop().close() if waiting else None
    )
    waiting.pop().close()
    return time.monotonic() - start


def test_an_orderly_end_leaves_no_message_and_frees_all(ranks, monkeypatch):
    ranks.report(ranks.one)  # rank 2 has a question still
    assert close_all(monkeypatch, ranks.one, ranks.two, ranks.asking) < 1.0
    assert ranks.net.left_over == []
    assert ranks.net.freed == {0, 1, 2}


def test_the_end_is_not_delayed_by_a_dead_rank(ranks, monkeypatch):
    ranks.report(ranks.one)  # rank 2 dies with a question that it has not answered
    ranks.net.dead.add(2)
    assert close_all(monkeypatch, ranks.one, ranks.asking) < 1.0
    assert 1 in ranks.net.freed


def test_a_rank_whose_root_is_gone_ends_within_the_limit(ranks):
    ranks.one.close(0.05)
    assert ranks.net.freed == set()
    ranks.one.poll()


def test_an_abandoned_watch_asks_and_answers_nothing(ranks):
    for one in (ranks.asking, ranks.one, ranks.two):
        one.abandon()
    assert ranks.report(ranks.one, ranks.two) == []
    assert ranks.net.left_over == []


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([], "nobody"),
        ([3], "rank 3"),
        ([5, 3], "ranks 3 and 5"),
        ([4, 5], "ranks 4 and 5"),
        ([12, 1, *range(4, 10)], "ranks 1, 4-9 and 12"),
        (range(1, 1001), "ranks 1-1000"),
    ],
)
def test_ranks_in_words(ranks, words):
    assert name_ranks(ranks) == words


def test_ranks_that_do_the_same_are_one_line():
    answers = {rank: ("waiting for rank 0", 60.0 + rank) for rank in (1, 2, 3)}
    lines = describe("head", [], [], answers, Registry([]))
    assert lines == ["head", "ranks 1-3 are waiting for rank 0 for 61 to 63 s"]


def test_a_long_report_is_cut():
    registry = Registry([Process.own()] * 101)
    lines = describe("head", range(1, 101), [], {}, registry)
    assert (len(lines), lines[-1]) == (MOST_LINES + 1, "and 71 lines more")
