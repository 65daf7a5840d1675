"""The weights that a master sends: never written while they are read, copied only then."""

import numpy as np
import pytest

from nnlo.mpi.frame import Header, Kind
from nnlo.mpi.outbox import Outbox


class Slow:
    """A link whose sends end when a test says so."""

    def __init__(self):
        self.sent = []

    def reply(self, child, frame):
        frame.in_flight += 1
        self.sent.append((child, frame))

    def release(self, child): ...

    def reap(self): ...

    def end(self, n=1):
        for _ in range(n):
            self.sent.pop(0)[1].in_flight -= 1


@pytest.fixture
def link():
    return Slow()


def weights(version, **fields):
    return Header(Kind.WEIGHTS, version=version, **fields)


def step(outbox, value):
    """What a master does at an update."""
    target = outbox.writable()
    target.vector[:] = value
    outbox.current = target
    return target


def test_a_free_frame_is_written_in_place(link):
    outbox = Outbox(3, link)
    first = step(outbox, 1.0)
    outbox.send(4, weights(1))
    link.end()
    assert step(outbox, 2.0) is first


def test_weights_that_are_being_sent_stay_as_they_are(link):
    outbox = Outbox(3, link)
    step(outbox, 1.0)
    outbox.send(4, weights(1))
    step(outbox, 2.0)
    outbox.send(5, weights(2))
    assert [float(frame.vector[0]) for _, frame in link.sent] == [1.0, 2.0]
    assert [frame.header.version for _, frame in link.sent] == [1, 2]


def test_equal_answers_share_a_frame(link):
    outbox = Outbox(3, link)
    step(outbox, 1.0)
    for child in (4, 5, 6):
        outbox.send(child, weights(1))
    assert len({id(frame) for _, frame in link.sent}) == 1
    assert outbox.current.in_flight == 3


def test_another_header_for_the_same_weights_needs_a_copy_while_they_are_sent(link):
    outbox = Outbox(3, link)
    step(outbox, 1.0)
    outbox.send(4, weights(1))
    outbox.send(5, weights(1, rate=0.5))
    (_, first), (_, other) = link.sent
    assert first is not other
    assert (first.header.rate, other.header.rate) == (1.0, 0.5)
    np.testing.assert_array_equal(first.vector, other.vector)


def test_frames_are_used_again(link):
    outbox = Outbox(3, link)
    frames = set()
    for version in range(20):
        frames.add(id(step(outbox, version)))
        outbox.send(4, weights(version))
        if version:
            link.end()  # one is always under way
    assert len(frames) == 2


def test_an_answer_without_weights_does_not_touch_them(link):
    outbox = Outbox(3, link)
    step(outbox, 1.0)
    outbox.send(4, Header(Kind.ACK, version=8))
    (_, frame) = link.sent[0]
    assert (frame.vector.size, frame.header.version) == (0, 8)
    assert outbox.current.in_flight == 0


def test_bases_are_what_each_child_was_sent(link):
    outbox = Outbox(3, link, keeps_bases=True)
    for version, child in ((1, 4), (2, 5), (3, 4)):
        step(outbox, version)
        outbox.send(child, weights(version))
        link.end()
    step(outbox, 9.0)
    found = {c: [outbox.base(c, v) for v in (1, 3)] for c in (4, 5)}
    assert [float(base[0]) for base in found[4]] == [1.0, 3.0]
    assert [float(base[0]) for base in found[5]] == [2.0, 2.0]  # the nearest that is kept


def test_of_a_child_two_bases_are_kept(link):
    outbox = Outbox(3, link, keeps_bases=True)
    for version in range(1, 6):
        step(outbox, version)
        outbox.send(4, weights(version))
        link.end()
    assert [float(outbox.base(4, v)[0]) for v in (1, 4, 5)] == [4.0, 4.0, 5.0]
    assert outbox.base(5, 1) is None


def test_without_need_no_bases_are_kept(link):
    outbox = Outbox(3, link)
    outbox.send(4, weights(1))
    assert outbox.base(4, 1) is None
