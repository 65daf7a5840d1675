"""Frames: one buffer, several views of it, and what may not be in a header."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnlo.errors import ProtocolError
from nnlo.mpi.frame import HEADER_BYTES, Flag, Frame, Header, Kind, pack_arrays, unpack_arrays

SHORT, LONG = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
HEADERS = st.builds(
    Header,
    kind=st.sampled_from(Kind),
    flags=st.integers(0, 15).map(Flag),
    sender=SHORT,
    version=LONG,
    n_samples=LONG,
    n_steps=SHORT,
    epoch=SHORT,
    batch=SHORT,
    layout=SHORT,
    rate=st.floats(allow_nan=False),
    stint=st.integers(0, 2**32 - 1),
    n_merged=st.integers(0, 2**32 - 1),
    n_extra=LONG,
)


@settings(deadline=None)
@given(HEADERS)
def test_a_header_comes_back_as_it_was_written(header):
    frame = Frame(1)
    frame.header = header
    assert frame.header == header


@settings(deadline=None)
@given(HEADERS, st.binary(max_size=40))
def test_writing_one_part_leaves_the_others(header, extra):
    frame = Frame(3, n_tail=2, capacity=40)
    frame.tail[:] = [1.5, -2.5]
    frame.vector[:] = [1, 2, 3]
    frame.header = header._replace(n_extra=frame.set_extra(extra))
    assert frame.tail.tolist() == [1.5, -2.5]
    assert frame.vector.tolist() == [1, 2, 3]
    assert frame.extra.tobytes() == extra


@pytest.mark.parametrize("n_params", [0, 1, 5, 16, 1001])
@pytest.mark.parametrize("n_tail", [0, 1, 7, 8, 9])
@pytest.mark.parametrize("capacity", [0, 100])
def test_views_alias_the_buffer_at_cache_lines(n_params, n_tail, capacity):
    frame = Frame(n_params, n_tail, capacity)
    assert (frame.vector.shape, frame.tail.shape) == ((n_params,), (n_tail,))
    assert frame.buffer.flags.c_contiguous
    assert frame.buffer.ctypes.data % 64 == 0
    for view in (frame.vector, frame.tail):
        assert view.size == 0 or np.shares_memory(view, frame.buffer)
    assert n_params == 0 or frame.vector.ctypes.data % 64 == 0
    assert n_tail == 0 or frame.tail.ctypes.data == frame.buffer.ctypes.data + HEADER_BYTES
    end = HEADER_BYTES + -(-8 * n_tail // 64) * 64 + 4 * n_params
    assert frame.buffer.size == end + capacity


def test_what_is_received_into_the_buffer_is_seen_in_the_views():
    here, there = Frame(4, 2, 10), Frame(4, 2, 10)
    here.vector[:] = [1, 2, 3, 4]
    here.tail[:] = [5, 6]
    here.header = Header(Kind.UPDATE, n_samples=7, n_extra=here.set_extra(b"more"))
    there.buffer[: here.message.size] = here.message
    assert there.header == here.header
    assert there.vector.tolist() == [1, 2, 3, 4]
    assert there.tail.tolist() == [5, 6]
    assert there.extra.tobytes() == b"more"


BARE = (Kind.FINAL, Kind.PULL, Kind.ACK)


@pytest.mark.parametrize("kind", Kind)
def test_a_message_is_as_long_as_what_it_carries(kind):
    frame = Frame(10, n_tail=3, capacity=100)
    frame.header = Header(kind)
    expected = HEADER_BYTES if kind in BARE else HEADER_BYTES + 64 + 40
    assert frame.message.size == expected
    assert np.shares_memory(frame.message, frame.buffer)
    if kind not in BARE:
        frame.header = Header(kind, n_extra=frame.set_extra(b"x" * 100))
        assert frame.message.size == expected + 100 == frame.buffer.size


def test_a_fresh_frame_is_no_message():
    with pytest.raises(ProtocolError, match="known kind, got 0"):
        _ = Frame(3).header


@pytest.mark.parametrize("kind", [0, 9, 77, 255])
def test_an_unknown_kind_is_refused(kind):
    frame = Frame(3)
    frame.header = Header(Kind.UPDATE)
    frame.buffer[0] = kind
    with pytest.raises(ProtocolError, match=f"got {kind}; check that all ranks run the same"):
        _ = frame.header


def test_extra_that_does_not_fit_is_refused_and_nothing_is_written():
    frame = Frame(2, capacity=8)
    assert frame.set_extra(b"12345678") == 8
    with pytest.raises(ProtocolError, match="fit the 8 bytes reserved for it, got 9"):
        frame.set_extra(b"abcdefghi")
    assert frame.buffer[-8:].tobytes() == b"12345678"
    with pytest.raises(ProtocolError, match="the 0 bytes"):
        Frame(2).set_extra(b"x")


def test_arrays_travel_as_bytes():
    arrays = {
        "position": np.array([1, 2]),
        "model/rng/0": np.frombuffer(b"\x01\x02", np.uint8),
        "scalar": np.array(0.1),
        "empty": np.zeros((0, 2), np.float32),
    }
    again = unpack_arrays(pack_arrays(arrays))
    assert list(again) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array, strict=True)
    assert unpack_arrays(pack_arrays({})) == {}


def test_objects_do_not_travel():
    with pytest.raises(ValueError, match="allow_pickle"):
        pack_arrays({"x": np.array([{}], dtype=object)})
