"""Values that particles send each other: copies of them, and their bytes; nothing is unpickled.

A value is None, a bool, a number, text, a numpy array or scalar of numbers, text, times or
booleans, or a list, tuple or dict of such. Which it is doesn't depend on where it goes: what MPI
could not carry is refused between particles of one process too.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ConfigError, ProtocolError

Array = NDArray[Any]

_PLAIN = (bool, float, str, type(None))
_KINDS = "biufcSUmM"
_SIZE = struct.Struct("<Q")
_DEEPEST = 100
_BITS = 4096  # of an int: Python writes no longer ones as text


def copied(value: Any, keep: Callable[[Array], Array] | None = None, depth: int = 0) -> Any:
    """A deep copy of ``value``; arrays become plain, contiguous ones.

    keep: what to put in an array's place instead of a writable copy. Raises ConfigError where
    something in ``value`` cannot be sent.
    """
    kind = type(value)
    if kind in _PLAIN or (kind is int and value.bit_length() <= _BITS):
        return value
    if depth > _DEEPEST:
        raise ConfigError(
            f"a message must have at most {_DEEPEST} lists in each other, got more; flatten it"
        )
    if kind is list or kind is tuple:
        return kind(copied(one, keep, depth + 1) for one in value)
    if kind is dict:
        parts = [copied(one, keep, depth + 1) for pair in value.items() for one in pair]
        return dict(zip(parts[::2], parts[1::2], strict=True))
    if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS:
        return keep(value) if keep else np.array(value, order="C", subok=False)
    if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
        return value
    hint = "send its numpy() instead" if hasattr(value, "numpy") else "send what it is made of"
    raise ConfigError(
        "a message must be made of None, bools, numbers, text, numpy arrays, lists, tuples and "
        f"dicts of them, got {_name(value)}; {hint}"
    )


def frozen(array: Array) -> Array:
    """A copy that cannot be written to, for several readers."""
    copy = np.array(array, order="C", subok=False)
    copy.setflags(write=False)
    return copy


def pack(value: Any) -> bytes:
    """The bytes of a value that ``copied`` has returned: JSON, then the arrays."""
    arrays: list[Array] = []
    text = json.dumps(_tree(value, arrays)).encode()
    return b"".join([_SIZE.pack(len(text)), text, *(array.tobytes() for array in arrays)])


def unpack(data: bytes | NDArray[np.uint8]) -> Any:
    """What ``pack`` was given; the arrays are writable and own their memory.

    Raises ProtocolError where ``data`` did not come from ``pack``.
    """
    try:
        (length,) = _SIZE.unpack(bytes(data[: _SIZE.size]))
        start = _SIZE.size + length
        tree = json.loads(bytes(data[_SIZE.size : start]))
        return _Reader(data, start).read(tree)
    except (ValueError, TypeError, KeyError, IndexError, struct.error) as error:
        raise ProtocolError(
            f"a message between particles must be JSON and arrays, got {len(data)} other bytes "
            f"({error}); check that all ranks run the same version of NNLO"
        ) from error


def _tree(value: Any, arrays: list[Array]) -> Any:
    """``value`` as JSON: what JSON doesn't know is a dict of one entry."""
    kind = type(value)
    if kind in _PLAIN or kind is int:
        return value
    if kind is list:
        return [_tree(one, arrays) for one in value]
    if kind is tuple:
        return {"tuple": [_tree(one, arrays) for one in value]}
    if kind is dict:
        return {"dict": [[_tree(k, arrays), _tree(v, arrays)] for k, v in value.items()]}
    array = np.asarray(value)
    arrays.append(array)
    return {"array" if kind is np.ndarray else "scalar": [array.dtype.str, array.shape]}


class _Reader:
    """Takes the arrays one after the other, as ``_tree`` has found them."""

    def __init__(self, data: bytes | NDArray[np.uint8], start: int) -> None:
        self._data = data
        self._at = start

    def read(self, tree: Any) -> Any:
        if type(tree) is list:
            return [self.read(one) for one in tree]
        if type(tree) is not dict:
            return tree
        ((form, content),) = tree.items()
        if form == "tuple":
            return tuple(self.read(one) for one in content)
        if form == "dict":
            return {self.read(key): self.read(value) for key, value in content}
        array = self._array(*content)
        return array if form == "array" else array[()]

    def _array(self, code: str, shape: list[int]) -> Array:
        dtype = np.dtype(code)
        if dtype.kind not in _KINDS:
            raise ValueError(f"arrays of {dtype} are not sent")
        array = np.empty(shape, dtype)
        raw = np.frombuffer(self._data, np.uint8, array.nbytes, self._at)
        array.reshape(-1).view(np.uint8)[:] = raw
        self._at += array.nbytes
        return array


def _name(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return f"an array of {value.dtype}"
    if type(value) is int:
        return "an int of more than 4096 bits"
    return f"{type(value).__module__}.{type(value).__qualname__}"
