"""Arithmetic on float32 vectors in one pass over memory, compiled by numba on first use.

A kernel is a plain loop over the elements of its arguments ``(weights, gradient, slots...,
scale, numbers...)``: contiguous float32 vectors of equal length and np.float32 numbers. It
works in place and only reads the gradient, which counts ``scale`` times. A slot that is None
drops out of the machine code. ``rest`` is 1 minus what a slot keeps of its past.

Each operation rounds to float32 and none is fused or reordered, so results do not depend on
the machine's vector width, on blocks or on addresses. Two habits keep a loop at the speed of
memory: one array for the weights (as an input and an output in the same place they would
fail the compiler's overlap check, and take its scalar loop), and stores after all loads (a
load waits for an earlier store whose address has the same last 12 bits, as large vectors
often do: Adam takes 1.6 times as long).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.algo.base import Merge
from nnlo.errors import ModelError

Vector = NDArray[np.float32]
Float = np.float32
Kernel = Callable[..., Any]

BLOCK = 65_536  # floats, 256 kB: copied weights are still in the core's cache when used
_LANES = 1024  # partial sums of `norm`


@functools.cache
def compiled(kernel: Kernel) -> Kernel:
    """The machine code of ``kernel``, which runs without the GIL."""
    import numba

    # numpy's error model (x / 0 = inf) because Python's, which raises, cannot be vectorised
    return numba.njit(nogil=True, error_model="numpy")(kernel)


def step(
    kernel: Kernel,
    weights: Vector,
    out: Vector,
    vectors: Sequence[Vector | None],
    numbers: Sequence[float],
) -> None:
    """Write ``kernel(weights, *vectors, *numbers)`` to ``out``, which may be ``weights``.

    ``weights`` keep their values unless they are ``out``; ``out`` overlaps nothing else.
    """
    run = compiled(kernel)
    rounded = [np.float32(number) for number in numbers]
    if out.ctypes.data == weights.ctypes.data:
        run(out, *vectors, *rounded)
        return
    for start in range(0, out.size, BLOCK):
        block = slice(start, start + BLOCK)
        np.copyto(out[block], weights[block])
        run(out[block], *(v if v is None else v[block] for v in vectors), *rounded)


def check(size: int, *vectors: Vector) -> None:
    """Raise ModelError unless all are contiguous float32 vectors of shape ``(size,)``."""
    for vector in vectors:
        if vector.dtype != np.float32 or vector.shape != (size,) or not vector.flags.c_contiguous:
            raise ModelError(
                f"vectors must be contiguous float32 of shape ({size},), got {vector.dtype} of "
                f"shape {vector.shape}, strides {vector.strides}; make them of one model's size "
                f"with np.ascontiguousarray(vector, np.float32)"
            )


def accumulate(into: Vector, vector: Vector, factor: float) -> None:
    """Add ``factor * vector`` to ``into``."""
    check(into.size, into, vector)
    step(_accumulate, into, into, (vector,), (factor,))


def add(weights: Vector, vector: Vector, factor: float, out: Vector) -> None:
    """Write ``weights + factor * vector`` to ``out``, which may be ``weights``."""
    check(weights.size, weights, vector, out)
    step(_accumulate, weights, out, (vector,), (factor,))


def weighted_mean(vectors: Sequence[Vector], n_samples: Sequence[int]) -> tuple[Vector, float]:
    """Return ``(total, scale)``: ``scale * total`` is the mean weighted by ``n_samples``.

    ``total`` is ``vectors[0]``, which is overwritten; the others keep their values. The
    factor is left to the pass over memory that uses the mean.
    """
    total, first = vectors[0], n_samples[0]
    for vector, count in zip(vectors[1:], n_samples[1:], strict=True):
        accumulate(total, vector, count / first)
    return total, first / sum(n_samples)


def merged(
    merge: Merge, vectors: Sequence[Vector], n_samples: Sequence[int]
) -> tuple[Vector, float]:
    """``weighted_mean``, or the same for a plain sum, as ``merge`` says."""
    if merge == "mean":
        return weighted_mean(vectors, n_samples)
    for vector in vectors[1:]:
        accumulate(vectors[0], vector, 1.0)
    return vectors[0], 1.0


def norm(vector: Vector) -> float:
    """Euclidean norm with squares and sums in float64; finite only if every element is.

    Sums are taken in a fixed order, the same on every machine.
    """
    check(vector.size, vector)
    return math.sqrt(compiled(_sum_of_squares)(vector, None, np.zeros(_LANES)))


def is_finite(vector: Vector) -> bool:
    """Whether every element is; one pass over memory, without a copy."""
    with np.errstate(all="ignore"):
        total = np.dot(vector, vector)  # by BLAS: half the time of isfinite().all()
    # The sum of finite squares may overflow in float32, which is for the slow way to find out.
    return bool(np.isfinite(total)) or math.isfinite(norm(vector))


def distance(vector: Vector, other: Vector) -> float:
    """Euclidean norm of ``vector - other``, as `norm`; the differences are in float64 too."""
    check(vector.size, vector, other)
    return math.sqrt(compiled(_sum_of_squares)(vector, other, np.zeros(_LANES)))


def sgd(
    w: Vector,
    g: Vector,
    velocity: Vector | None,
    scale: Float,
    rate: Float,
    momentum: Float,
    nesterov: Float,
) -> None:
    for i in range(w.size):
        move = -(rate * (scale * g[i]))
        if velocity is not None:
            v = momentum * velocity[i] + move
            move = momentum * v + move if nesterov else v
        w[i] += move
        if velocity is not None:
            velocity[i] = v


def adam(
    w: Vector,
    g: Vector,
    momentum: Vector,
    velocity: Vector,
    scale: Float,
    rate: Float,
    rest_1: Float,
    rest_2: Float,
    epsilon: Float,
    decay: Float,
) -> None:
    for i in range(w.size):
        gradient = scale * g[i]
        m = momentum[i] + rest_1 * (gradient - momentum[i])
        v = velocity[i] + rest_2 * (gradient * gradient - velocity[i])
        w[i] = (w[i] - decay * w[i]) - rate * m / (np.sqrt(v) + epsilon)
        momentum[i] = m
        velocity[i] = v


def nadam(
    w: Vector,
    g: Vector,
    momentum: Vector,
    velocity: Vector,
    scale: Float,
    rate: Float,
    rest_1: Float,
    rest_2: Float,
    epsilon: Float,
    share_m: Float,
    share_g: Float,
    unbias: Float,
) -> None:
    for i in range(w.size):
        gradient = scale * g[i]
        m = momentum[i] + rest_1 * (gradient - momentum[i])
        v = velocity[i] + rest_2 * (gradient * gradient - velocity[i])
        w[i] -= rate * (share_m * m + share_g * gradient) / (np.sqrt(unbias * v) + epsilon)
        momentum[i] = m
        velocity[i] = v


def rmsprop(
    w: Vector,
    g: Vector,
    velocity: Vector,
    mean: Vector | None,
    momentum: Vector | None,
    scale: Float,
    rate: Float,
    rho: Float,
    rest: Float,
    epsilon: Float,
    kept: Float,
) -> None:
    zero = np.float32(0.0)
    for i in range(w.size):
        gradient = scale * g[i]
        v = rho * velocity[i] + rest * (gradient * gradient)
        variance = v
        if mean is not None:
            m = rho * mean[i] + rest * gradient
            # of a constant gradient it is 0, and rounding may take it below
            variance = max(v - m * m, zero)
        change = rate * gradient / np.sqrt(variance + epsilon)
        if momentum is not None:
            change = kept * momentum[i] + change
        w[i] -= change
        velocity[i] = v
        if mean is not None:
            mean[i] = m
        if momentum is not None:
            momentum[i] = change


def adadelta(
    w: Vector,
    g: Vector,
    squares: Vector,
    changes: Vector,
    scale: Float,
    rate: Float,
    rho: Float,
    rest: Float,
    epsilon: Float,
) -> None:
    for i in range(w.size):
        gradient = scale * g[i]
        square = rho * squares[i] + rest * (gradient * gradient)
        change = np.sqrt(changes[i] + epsilon) * gradient / np.sqrt(square + epsilon)
        w[i] -= rate * change
        squares[i] = square
        changes[i] = rho * changes[i] + rest * (change * change)


def adagrad(
    w: Vector, g: Vector, squares: Vector, scale: Float, rate: Float, epsilon: Float
) -> None:
    for i in range(w.size):
        gradient = scale * g[i]
        square = squares[i] + gradient * gradient
        w[i] -= rate * gradient / np.sqrt(square + epsilon)
        squares[i] = square


def _accumulate(into: Vector, vector: Vector, factor: Float) -> None:
    for i in range(into.size):
        into[i] += factor * vector[i]


def _sum_of_squares(vector: Vector, other: Vector | None, lanes: NDArray[np.float64]) -> float:
    # as many independent sums as lanes, so that the loop vectorises without reordering
    for start in range(0, vector.size, lanes.size):
        block = vector[start : start + lanes.size]
        for i in range(block.size):
            element = np.float64(block[i])
            if other is not None:
                element -= np.float64(other[start + i])
            lanes[i] += element * element
    total = 0.0
    for i in range(lanes.size):
        total += lanes[i]
    return total
