"""SVGD of eight small networks on 1, 2, 4 and 8 ranks of this job, both ways; not a test.

Writes the weights of each arrangement, "<ranks>-<exchange>", to the file that is named; those of
4 ranks of which two share each particle are "groups-<exchange>".
"""

import sys
from typing import Any

import numpy as np
from torch import nn

from nnlo.bayes.particles import Particles
from nnlo.bayes.svgd import SVGD
from nnlo.data import Data
from nnlo.model import ModelBuilder
from nnlo.mpi import link

N, EPOCHS = 8, 5


class Net(ModelBuilder):
    def build_model(self):
        return nn.Sequential(nn.Linear(1, 7), nn.Tanh(), nn.Linear(7, 1))


class Sine(Data):
    def load_data(self, path):
        r = np.random.default_rng(0)
        x = r.uniform(-3, 3, (60, 1)).astype(np.float32)
        return x, (np.sin(x) + 0.1 * r.normal(size=x.shape)).astype(np.float32)


def train(comm: Any, exchange: str, group_size: int = 1) -> np.ndarray:
    particles = Particles(Net(), N, comm=comm, loss="mse", group_size=group_size, seed=3)
    data = Sine(batch_size=20)
    data.set_files(["sine"])
    method = SVGD(learning_rate=0.01, groups="layer", exchange=exchange)
    particles.fit(method, data, epochs=EPOCHS)
    weights = particles.team.collect(particles.weights.astype(np.float64))
    particles.close()
    return weights


def main() -> None:
    world: Any = link.world()
    found = {}
    for n_ranks in (1, 2, 4, 8):
        part = world.Split(world.rank < n_ranks, world.rank)
        for exchange in ("allgather", "transpose"):
            if world.rank < n_ranks:
                found[f"{n_ranks}-{exchange}"] = train(part, exchange)
            if world.rank < n_ranks == 4:
                found[f"groups-{exchange}"] = train(part, exchange, group_size=2)
        part.Free()
        link.barrier(world)
    if world.rank == 0:
        np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
