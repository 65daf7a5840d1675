"""One message between child and parent: ``header | tail | vector | extra`` in one buffer.

The header is 64 bytes, the tail a few float64 (running sums), the vector the model as float32,
the extra bytes a worker's local state or the text of an error. A frame is allocated once; the
loops read and write it through views, so that nothing is copied between the model and MPI.
"""

import struct
from collections.abc import Callable, Mapping
from enum import IntEnum, IntFlag
from io import BytesIO
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ProtocolError

HEADER_BYTES = 64
_LAYOUT = struct.Struct("<BBHIQQIIIIdIIQ")
_ALIGN = 64

BUSY_S, WAIT_S = 0, 1
"""First entries of an UP tail: seconds of work and of waiting since the exchange before."""
N_TIMES = 2
"""How many they are; the adapter's sums follow."""

ERROR_BYTES = 1 << 16
"""Room that every UP frame has behind its vector for the text of an error."""


class Kind(IntEnum):
    """What a message is."""

    UPDATE = 1  # up: an exchange, answered by WEIGHTS
    BYE = 2  # up: the child leaves, with what it has not sent yet; answered by FINAL
    ERROR = 3  # up: the child raised; extra holds the text; answered by FINAL
    WEIGHTS = 4  # down
    FINAL = 5  # down: header only
    PULL = 6  # up: header only; answered by WEIGHTS, an UPDATE follows
    ACK = 7  # down: header only, to whom needs no weights
    REDUCE = 8  # among the members of a ring: replaced by the mean over all of them


_BARE = (Kind.FINAL, Kind.PULL, Kind.ACK)  # header only


class Flag(IntFlag):
    """What else a message says."""

    HAS_UPDATE = 1  # up: the vector holds an update
    HAS_STATE = 2  # up: extra holds the child's local state
    STOP = 4  # down: the run ends, say BYE
    SAVE = 8  # down: a checkpoint is being made, send your local state with the next UP
    NO_WEIGHTS = 16  # up: the answer need not bring weights
    PULLS = 32  # up: another update follows the answer at once
    REFUSED = 64  # up: extra begins with what was not finite and is not sent (refusal.py)
    GIFT = 128  # down: more data to train on is attached


class Header(NamedTuple):
    """The first 64 bytes, little endian; a field that a kind does not use is 0."""

    kind: Kind
    flags: Flag = Flag(0)
    sender: int = 0  # world rank
    version: int = 0  # up: of the weights the update is based on; down: of the weights sent
    n_samples: int = 0  # up: samples in the update
    n_steps: int = 0  # up: batches in the update
    epoch: int = 0  # up: position of the child in its data after this update
    batch: int = 0
    layout: int = 0  # 32 bits of the manifest's hash
    rate: float = 1.0  # factor on learning rates: down, and among the members of a ring
    n_merged: int = 1  # up: workers' updates in the update
    stint: int = 0  # up: which stint of its data the position is in
    n_extra: int = 0  # bytes after the vector


class Frame:
    """A buffer for one message.

    n_params: length of the vector. n_tail: float64 values before it. capacity: bytes that
    fit behind it. ``in_flight`` counts the sends that still read the buffer: a frame may be
    written only at 0. ``start``: of the vector, in bytes. ``attached``: sent after a frame of
    flag GIFT, as a message of its own.
    """

    def __init__(self, n_params: int, n_tail: int = 0, capacity: int = 0) -> None:
        self.start = start = HEADER_BYTES + -(-8 * n_tail // _ALIGN) * _ALIGN
        self._end = start + 4 * n_params
        raw = np.zeros(self._end + capacity + _ALIGN, np.uint8)
        shift = -raw.ctypes.data % _ALIGN
        self.buffer: NDArray[np.uint8] = raw[shift : shift + self._end + capacity]
        self.tail: NDArray[np.float64] = self.buffer[
            HEADER_BYTES : HEADER_BYTES + 8 * n_tail
        ].view(np.float64)
        self.vector: NDArray[np.float32] = self.buffer[start : self._end].view(np.float32)
        self.in_flight = 0
        self.attached = b""

    @property
    def header(self) -> Header:
        kind, _codec, flags, *rest = _LAYOUT.unpack_from(self.buffer.data)
        try:
            return Header(Kind(kind), Flag(flags), *rest)
        except ValueError:
            raise ProtocolError(
                f"a message must start with a known kind, got {kind}; "
                "check that all ranks run the same version of NNLO"
            ) from None

    @header.setter
    def header(self, header: Header) -> None:
        kind, flags, *rest = header
        _LAYOUT.pack_into(self.buffer.data, 0, kind, 0, flags, *rest)

    @property
    def extra(self) -> NDArray[np.uint8]:
        """The bytes behind the vector, as many as the header says."""
        return self.buffer[self._end : self._end + self.header.n_extra]

    def set_extra(self, data: bytes) -> int:
        """Put ``data`` behind the vector; return its length for the header."""
        room = self.buffer.size - self._end
        if len(data) > room:
            raise ProtocolError(
                f"a local state must fit the {room} bytes reserved for it, got {len(data)}; "
                "switch checkpoints off or report this model"
            )
        self.buffer[self._end : self._end + len(data)] = np.frombuffer(data, np.uint8)
        return len(data)

    @property
    def message(self) -> NDArray[np.uint8]:
        """The bytes to send."""
        if self.header.kind in _BARE:
            return self.buffer[:HEADER_BYTES]
        return self.buffer[: self._end + self.header.n_extra]


class Layout(Protocol):
    """What a master must know of the vector: a Manifest, or a Slice of it."""

    @property
    def n_trainable(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def hash32(self) -> int: ...


def up_frame(manifest: Layout, n_sums: int, state_bytes: int = 0) -> Callable[[], Frame]:
    """A maker of frames for messages to a master of this model.

    n_sums: entries of the adapter's sums. state_bytes: room for a worker's local state.
    """
    return lambda: Frame(manifest.size, N_TIMES + n_sums, ERROR_BYTES + state_bytes)


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays as bytes; never pickled."""
    stream = BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def unpack_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """What ``pack_arrays`` made."""
    with np.load(BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
