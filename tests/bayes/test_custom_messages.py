"""Values come back from their bytes as they were; what cannot be sent is refused."""

import enum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnlo.bayes.message import copied, frozen, pack, unpack
from nnlo.errors import ConfigError, ProtocolError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ARRAYS = arrays.arrays(
    arrays.boolean_dtypes() | arrays.floating_dtypes() | arrays.integer_dtypes(),
    arrays.array_shapes(min_dims=0, min_side=0),
)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda one: (
        st.lists(one) | st.lists(one).map(tuple) | st.dictionaries(st.text() | st.integers(), one)
    ),
    max_leaves=8,
)


def same(a, b):
    """Whether two values are equal in type, dtype and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b or a != a


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_a_value_comes_back_from_its_bytes(value):
    assert same(unpack(pack(copied(value))), value)
    assert same(copied(value), value)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(1.5),
        np.bool_(True),
        np.datetime64("2020-01-01"),
        np.array(["a", "bc"]),
        np.zeros((0, 3), np.int8),
        np.array(2.0, ">f8"),
        {(1, "a"): None, None: 2.5, True: b"".decode()},
        [1 << 200, -0.0, float("inf")],
    ],
)
def test_rarer_kinds_come_back_too(value):
    assert same(unpack(pack(copied(value))), value)


def test_arrays_that_come_are_writable_and_own_their_memory():
    array = unpack(pack([np.arange(6.0).reshape(2, 3).T]))[0]
    np.testing.assert_array_equal(array, np.arange(6.0).reshape(2, 3).T)
    assert array.flags.owndata
    assert array.flags.writeable


def test_copies_share_nothing():
    array = np.zeros(3)
    for copy in (copied([array[::2]])[0], frozen(array)):
        assert not np.shares_memory(copy, array)
        assert copy.flags.c_contiguous


class Color(enum.IntEnum):
    RED = 1


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, r"got builtins\.set"),
        (b"bytes", r"got builtins\.bytes"),
        ([Color.RED], r"Color; send what it is made of"),
        (print, "builtin_function_or_method"),
        ({"x": np.array([{}])}, "got an array of object"),
        (np.zeros(2, [("a", "f4")]), "got an array of"),
        (1 << 5000, "an int of more than 4096 bits"),
        (nested(200), "at most 100 lists in each other"),
    ],
)
def test_what_cannot_be_sent_is_refused(value, message):
    with pytest.raises(ConfigError, match=message):
        copied(value)


def test_a_tensor_is_refused_with_a_hint():
    torch = pytest.importorskip("torch")
    with pytest.raises(ConfigError, match=r"got torch\.Tensor; send its numpy\(\) instead"):
        copied([torch.zeros(2)])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x05\0\0\0\0\0\0\0hello",
        pack(np.zeros(4))[:-1],
        pack(1).replace(b"1", b"{"),
        b"\x18\0\0\0\0\0\0\0" + b'{"array": ["|O8", [1]]} ' + bytes(8),
    ],
)
def test_other_bytes_are_refused(data):
    with pytest.raises(ProtocolError, match="must be JSON and arrays"):
        unpack(data)
