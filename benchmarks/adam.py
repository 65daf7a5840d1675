"""Time the master's optimizers against moving their vectors at this machine's copy bandwidth.

    python benchmarks/adam.py [--size 25400000] [--repeats 15]

Prints a table. A stream is one vector read or written once; copying a vector is two. A ratio
may be below 1: a copy also fetches the lines of its target before it overwrites them, which an
update in place has fetched anyway. Each time is a median over rounds that visit every row in
turn, so that a slow phase of the machine meets all rows alike; the first call of a kernel
compiles it.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nnlo.algo.kernels import accumulate, norm
from nnlo.algo.optimizers import OPTIMIZERS, Optimizer, make_optimizer

Vector = NDArray[np.float32]
Row = tuple[str, int, Callable[[], object]]  # name, streams, call


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=25_400_000, help="floats in the model")
    parser.add_argument("--repeats", type=int, default=15, help="rounds over all rows")
    options = parser.parse_args()
    print(f"importing numba: {seconds(import_numba) * 1e3:.0f} ms")
    report([*copies(options.size), *updates(options.size)], options.size, options.repeats)


def import_numba() -> None:
    """Pay for the import apart from the compilation."""
    import numba  # noqa: F401


def copies(size: int) -> list[Row]:
    """The yardstick first, then kernels that are no optimizers."""
    source, target = random_vector(size), np.ones(size, np.float32)
    return [
        ("np.copyto", 2, lambda: np.copyto(target, source)),
        ("accumulate", 3, lambda: accumulate(target, source, 0.5)),
        ("norm", 1, lambda: norm(source)),
    ]


def updates(size: int) -> list[Row]:
    """Adam in every form, then the other optimizers in place."""
    weights, out, gradient = random_vector(size), random_vector(size), random_vector(size)
    adam = make_optimizer("adam")
    state = adam.init(size)
    slots = state.slots["momentum"], state.slots["velocity"]
    return [
        ("adam, blocked numpy", 7, lambda: blocked_adam(weights, gradient, *slots)),
        ("adam", 7, lambda: adam.update(state, weights, gradient, weights)),
        ("adam, scale 0.5", 7, lambda: adam.update(state, weights, gradient, weights, scale=0.5)),
        ("adam, other out", 7, lambda: adam.update(state, weights, gradient, out)),
        *(
            in_place(make_optimizer(name), weights, gradient)
            for name in OPTIMIZERS
            if name != "adam"
        ),
        in_place(make_optimizer("sgd", momentum=0.9, nesterov=True), weights, gradient),
        in_place(make_optimizer("rmsprop", momentum=0.9, centered=True), weights, gradient),
    ]


def in_place(rule: Optimizer, weights: Vector, gradient: Vector) -> Row:
    """One optimizer: weights are read and written, so is each slot, and the gradient is read."""
    state = rule.init(weights.size)
    name = f"{type(rule).__name__.lower()} ({', '.join(state.slots)})"
    streams = 3 + 2 * len(state.slots)
    return name, streams, lambda: rule.update(state, weights, gradient, weights)


def blocked_adam(w: Vector, g: Vector, m: Vector, v: Vector, block: int = 65_536) -> None:
    """Adam by numpy calls on blocks that stay in the cache, for comparison."""
    one, two = np.empty(block, np.float32), np.empty(block, np.float32)
    for start in range(0, w.size, block):
        part = slice(start, min(start + block, w.size))
        a, b = one[: part.stop - start], two[: part.stop - start]
        np.multiply(np.subtract(g[part], m[part], out=a), np.float32(0.1), out=a)
        m[part] += a
        np.subtract(np.multiply(g[part], g[part], out=a), v[part], out=a)
        v[part] += np.multiply(a, np.float32(0.001), out=a)
        np.add(np.sqrt(v[part], out=a), np.float32(1e-7), out=a)
        w[part] -= np.divide(np.multiply(m[part], np.float32(1e-3), out=b), a, out=b)


def report(rows: list[Row], size: int, repeats: int) -> None:
    """Print the median of each row and its ratio to its streams at the speed of the copy."""
    first = {name: seconds(call) for name, _, call in rows}
    times: dict[str, list[float]] = {name: [] for name, _, _ in rows}
    for _ in range(repeats):
        for name, _, call in rows:
            times[name].append(seconds(call))
    medians = {name: statistics.median(found) for name, found in times.items()}
    name, streams, _ = rows[0]
    stream = medians[name] / streams
    print(f"\n{size:,} floats, copy bandwidth {size * 4 / stream / 1e9:.1f} GB/s")
    print(
        f"{'':34}{'streams':>8}{'at copy, ms':>13}{'taken, ms':>11}{'ratio':>7}{'first, ms':>11}"
    )
    for name, streams, _ in rows:
        taken, ideal = medians[name], streams * stream
        print(
            f"{name:34}{streams:8}{ideal * 1e3:13.1f}{taken * 1e3:11.1f}{taken / ideal:7.2f}"
            f"{first[name] * 1e3:11.0f}"
        )


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def random_vector(size: int) -> Vector:
    """Normal numbers, every page of memory touched."""
    return np.random.default_rng(0).standard_normal(size, dtype=np.float32)


if __name__ == "__main__":
    main()
