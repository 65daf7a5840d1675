"""Sums over ranks of a few float64 numbers and a float32 vector, in one message."""

from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.algo.base import Vector

if TYPE_CHECKING:
    from mpi4py import MPI

N_NUMBERS = 32
"""float64 places before the vector."""
_START = 8 * N_NUMBERS


class MixedSum:
    """``numbers``, (N_NUMBERS,) float64, and ``vector``, (n,) float32: to be filled, then summed
    in place by ``begin`` and ``end``."""

    def __init__(self, n: int) -> None:
        self._buffer = np.zeros(_START + 4 * n, np.uint8)
        self.numbers = self._buffer[:_START].view(np.float64)
        self.vector: Vector = self._buffer[_START:].view(np.float32)

    def begin(self, comm: "MPI.Intracomm") -> "MPI.Request":
        """Begin to add up over ``comm``; both stay untouched until ``end``."""
        from mpi4py import MPI

        # Without commutation MPI adds whole messages in one order; it must not cut them.
        self._op = MPI.Op.Create(_add, commute=False)
        self._kind = MPI.BYTE.Create_contiguous(self._buffer.size).Commit()
        return comm.Iallreduce(MPI.IN_PLACE, [self._buffer, 1, self._kind], self._op)

    def end(self) -> None:
        """Release what MPI needed, after the request is complete."""
        self._op.Free()
        self._kind.Free()


def _add(one: Any, other: Any, _kind: Any) -> None:
    """Write the sum of two messages over the second one."""
    left, right = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
    for part, dtype in ((slice(0, _START), np.float64), (slice(_START, None), np.float32)):
        total = right[part].view(dtype)
        np.add(left[part].view(dtype), total, out=total)
