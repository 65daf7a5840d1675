"""Time steps of many particles on one core: all rows at once against a loop over torch modules.

    OMP_NUM_THREADS=1 python benchmarks/particles.py [--particles 2 4 8 32] [--rounds 15]
                                                     [--backends native jax tensorflow]

Prints a table for each backend, measured in a process of its own. The network has 16,993 weights:
1 input, 17 layers of 32 with relu, 1 output; 128 points of a sine, one batch; Adam. Rates are
steps of all particles together per second of processor time, medians over rounds in which each
side takes five steps.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from nnlo.algo.optimizers import make_optimizer
from nnlo.model import make_adapter
from nnlo.model.rows import Rows, make_rows

BACKENDS = ("native", "jax", "tensorflow")
DEPTH, WIDTH, RATE = 17, 32, 1e-3
STEPS = 5  # in a row of each turn, as training does: the first finds the caches cold
Step = Callable[[], object]


def main() -> None:
    """Parse the options; measure one backend here, or each in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--particles", type=int, nargs="+", default=[2, 4, 8, 32])
    parser.add_argument("--rounds", type=int, default=15, help="over all rows of the table")
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if len(options.backends) == 1:
        report(options.backends[0], options.particles, options.rounds)
        return
    for backend in options.backends:
        command = [
            sys.executable,
            __file__,
            "--backends",
            backend,
            "--rounds",
            str(options.rounds),
        ]
        command += ["--particles", *map(str, options.particles)]
        keras = {} if backend == "native" else {"KERAS_BACKEND": backend}
        subprocess.run(command, check=True, env={"OMP_NUM_THREADS": "1"} | os.environ | keras)


def report(backend: str, counts: list[int], rounds: int) -> None:
    """Print one table."""
    rows = make_rows(
        make_adapter(torch_network() if backend == "native" else keras_network(), "mse")
    )
    print(f"\n{backend}: {rows.manifest.n_trainable:,} weights, load {os.getloadavg()[0]:.1f}")
    print(f"{'particles':>9}{'modules, /s':>13}{'rows, /s':>10}{'ratio':>7}  way")
    for n in counts:
        modules, at_once = rates([modules_step(n), rows_step(rows, n)], rounds)
        way = "at once" if rows.is_batched else "one by one"
        print(f"{n:9}{modules:13.1f}{at_once:10.1f}{at_once / modules:7.2f}  {way}", flush=True)


def torch_network() -> nn.Module:
    """The network as a torch module."""
    hidden = [layer for _ in range(DEPTH - 1) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(nn.Linear(1, WIDTH), nn.ReLU(), *hidden, nn.Linear(WIDTH, 1))


def keras_network() -> Any:
    """The network as a Keras model."""
    from keras import Input, Sequential, layers

    hidden = [layers.Dense(WIDTH, activation="relu") for _ in range(DEPTH)]
    return Sequential([Input((1,)), *hidden, layers.Dense(1)])


def points() -> tuple[np.ndarray, np.ndarray]:
    """128 of a sine."""
    x = np.linspace(-np.pi, np.pi, 128, dtype=np.float32)[:, None]
    return x, np.sin(x)


def modules_step(n: int) -> Step:
    """A loop over modules, each with its own optimizer."""
    x, y = map(torch.from_numpy, points())
    modules = [torch_network() for _ in range(n)]
    optimizers = [torch.optim.Adam(one.parameters(), lr=RATE) for one in modules]

    def step() -> None:
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(module(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return step


def rows_step(rows: Rows, n: int) -> Step:
    """The rows of a matrix, with one optimizer for all of them."""
    x, y = points()
    weights = np.stack([weights_of(torch_network()) for _ in range(n)])
    state, gradient = np.zeros((n, 0), np.float32), np.empty_like(weights)
    seeds = np.arange(n, dtype=np.uint64)
    adam = make_optimizer("adam", learning_rate=RATE)
    slots = adam.init(weights.size)

    def step() -> None:
        rows.gradients(weights, state, x, y, gradient, seeds, shared=True)
        adam.update(slots, weights.reshape(-1), gradient.reshape(-1), weights.reshape(-1))

    return step


def weights_of(module: nn.Module) -> np.ndarray:
    """All weights of a module; Keras would transpose the kernels, which takes as long."""
    return torch.cat([one.detach().reshape(-1) for one in module.parameters()]).numpy()


def rates(steps: list[Step], rounds: int) -> list[float]:
    """Median steps per second of processor time."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()  # compiles
    for _ in range(rounds):
        for taken, step in zip(times, steps, strict=True):
            start = time.process_time()
            for _ in range(STEPS):
                step()
            taken.append((time.process_time() - start) / STEPS)
    return [1.0 / statistics.median(taken) for taken in times]


if __name__ == "__main__":
    main()
