"""How sure are 2, 4 and 8 networks of a noisy sine, where there are data and where there are none?

    nnlorun -n 4 examples/sine_particles.py
    python examples/sine_particles.py --method multiswag --particles 8 --plots figures

The networks learn from 128 points between 0 and 2 pi. There they agree; at 4 pi, where nothing
was measured, each says something else: that is what the data leave open. The result does not
depend on the number of ranks.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nnlo import Data, ModelBuilder, bayes
from nnlo.bayes.torch_layers import Noise
from nnlo.mpi import link

SD = 0.02  # of the noise
GRID = np.linspace(-2.0 * np.pi, 4.0 * np.pi, 400, dtype=np.float32)[:, None]
METHODS = {
    "ensemble": bayes.DeepEnsemble(learning_rate=0.01),
    "multiswag": bayes.MultiSWAG(learning_rate=0.01, every=1),
    "svgd": bayes.SVGD(optimizer="adam", learning_rate=0.01),
}


def measure(n, seed):
    """Points and their noisy sines, each (n, 1)."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(0.0, 2.0 * np.pi, (n, 1)), axis=0)
    return x.astype(np.float32), (np.sin(x) + SD * rng.normal(size=x.shape)).astype(np.float32)


class Sine(Data):
    def load_data(self, file):
        return measure(128, seed=0)


class Network(nn.Module):
    """16,993 weights in 18 layers, short cuts past every two of them: so it learns fast."""

    def __init__(self):
        super().__init__()
        pairs = [(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)) for _ in range(8)]
        self.blocks = nn.ModuleList(nn.Sequential(*layers) for layers in pairs)
        self.enter, self.leave = nn.Linear(1, 32), nn.Linear(32, 1)
        self.noise = Noise(SD)  # beside the mean, for the loss

    def forward(self, x):
        x = self.enter(x - torch.pi)
        for block in self.blocks:
            x = x + block(x)
        return self.noise(self.leave(x))


class SineModel(ModelBuilder):
    loss = "gaussian_nll"

    def build_model(self):
        return Network()


def train(n, options, comm):
    """Train and ask ``n`` particles; print a row and draw a figure, on rank 0."""
    data = Sine(batch_size=128)
    data.set_files(["sine"])  # what load_data is called with
    particles = bayes.Particles(SineModel(), n, comm=comm)
    particles.fit(METHODS[options.method], data, epochs=options.epochs)
    report = particles.evaluate(measure(500, seed=1))  # points that they have not seen
    inside, outside = particles.predict(measure(128, seed=0)), particles.predict((GRID, None))
    particles.close()
    if report is not None:
        error, covered = report.metrics["rmse"], report.metrics["coverage_90"]
        near, far = inside["std"].mean(), outside["std"][-1, 0]
        print(f"{n:9} {error:7.4f} {covered:17.1%} {near:15.4f} {far:12.3f}", flush=True)
    if report is not None and options.plots:
        from nnlo.report.bayes_plots import bands

        options.plots.mkdir(parents=True, exist_ok=True)
        figure = bands(inside.columns, outside.columns)
        figure.savefig(options.plots / f"{options.method}_{n}.png")


def main():
    parser = argparse.ArgumentParser(description="particles on a noisy sine")
    parser.add_argument("--particles", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--method", choices=METHODS, default="ensemble")
    parser.add_argument("--epochs", type=int, default=300, help="of one batch each")
    parser.add_argument("--plots", type=Path, help="folder of the figures (default: none)")
    options = parser.parse_args()

    world = link.world()  # None in a single process
    rank = 0 if world is None else world.rank
    if rank == 0:
        print("particles    RMSE  in the 90 % band  std in 0..2 pi  std at 4 pi")
    for n in options.particles:
        takes_part = rank < max(1, n // 2)  # two particles a rank at least: else some idle
        comm = world and world.Split(takes_part, rank)
        if takes_part:
            train(n, options, comm)


if __name__ == "__main__":
    main()
