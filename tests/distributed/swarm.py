"""Particles of a small network on parts of this job's 4 ranks; not a test.

Writes the weights of each arrangement, "<method> <ranks>x<group>", and the errors that all ranks
must have had, to the files that are named.
"""

import json
import sys
from typing import Any

import numpy as np
from torch import nn

from nnlo.bayes.ensemble import Alone
from nnlo.bayes.methods import make_method
from nnlo.bayes.particles import Particles
from nnlo.data import Data
from nnlo.errors import NNLOError, TrainingError
from nnlo.model import ModelBuilder
from nnlo.mpi import link

METHODS = {
    "ensemble": {"learning_rate": 0.01},
    "multiswag": {"learning_rate": 0.01, "swa_start": 0.5, "rank": 3},
    "mcdropout": {"learning_rate": 0.01},
    "svgd": {"learning_rate": 0.01},
}
ARRANGEMENTS = ((1, 1), (2, 1), (4, 1), (4, 2), (2, 2))
"""Ranks, and ranks of a group. Masks of dropout differ between members of a group."""


class Net(ModelBuilder):
    def __init__(self, *, drops: bool) -> None:
        self.drops = drops

    def build_model(self) -> nn.Module:
        drop = [nn.Dropout(0.2)] if self.drops else []
        return nn.Sequential(nn.Linear(1, 7), *drop, nn.Tanh(), nn.Linear(7, 1))


class Sine(Data):
    """breaks: raise when this rank reads the third batch, or give it a NaN."""

    breaks = ""

    def generate_data(self) -> Any:
        for number, (x, y) in enumerate(super().generate_data()):
            if number == 2 and self.breaks == "raise":
                raise ValueError("the disk is gone")
            if number == 2 and self.breaks == "nan":
                y = y * np.float32("nan")
            yield x, y

    def load_data(self, file: str) -> Any:
        r = np.random.default_rng(0)
        x = r.uniform(-3, 3, (60, 1)).astype(np.float32)
        return x, (np.sin(x) + 0.1 * r.normal(size=x.shape)).astype(np.float32)


class Plain(Sine):
    generate_data = Data.generate_data


def train(comm: Any, name: str, group_size: int, data: Data, n: int = 8) -> np.ndarray:
    builder = Net(drops=name == "mcdropout")
    particles = Particles(builder, n, comm=comm, loss="mse", seed=3, group_size=group_size)
    validation = Plain(15)
    for one in (data, validation):
        one.set_files(["sine"])
    try:
        particles.fit(make_method(name, **METHODS[name]), data, epochs=4, validation=validation)
        weights = particles.team.collect(particles.weights.astype(np.float64))
    finally:
        particles.close()
    return weights


def failure(comm: Any, name: str, group_size: int, breaks: str) -> str:
    data = Sine(batch_size=20)
    data.breaks = breaks if comm.rank == 2 else ""
    step = Alone.step
    if breaks == "step" and comm.rank == 2:
        Alone.step = broken
    try:
        train(comm, name, group_size, data)
    except NNLOError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        Alone.step = step
    return "none"


def broken(stepper: Any, weights: Any, gradient: Any) -> None:
    raise TrainingError("a step must be possible")


def main() -> None:
    world: Any = link.world()
    found = {}
    for n_ranks, group_size in ARRANGEMENTS:
        part = world.Split(world.rank < n_ranks, world.rank)
        for name in METHODS if world.rank < n_ranks else ():
            if name != "mcdropout" or group_size == 1:
                weights = train(part, name, group_size, Plain(batch_size=20))
                found[f"{name} {n_ranks}x{group_size}"] = weights
        part.Free()
        link.barrier(world)
    errors = {
        f"{name} {group_size} {breaks}": world.gather(failure(world, name, group_size, breaks))
        for name, group_size in (("ensemble", 1), ("ensemble", 2), ("svgd", 1))
        for breaks in ("raise", "nan", "step")
        if (name, breaks) != ("svgd", "step")
    }
    if world.rank == 0:
        np.savez(sys.argv[1], **found)
        with open(sys.argv[2], "w") as file:
            json.dump(errors, file)


if __name__ == "__main__":
    main()
