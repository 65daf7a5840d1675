"""Small networks and data for the tests of particles."""

import numpy as np
from torch import nn

from nnlo.data import Data
from nnlo.model import ModelBuilder


class Sine(Data):
    """A noisy sine of ``n`` samples."""

    def __init__(self, n=60, batch_size=20, **options):
        super().__init__(batch_size, **options)
        self.n = n
        self.set_files(["sine"])

    def load_data(self, file):
        rng = np.random.default_rng(0)
        x = rng.uniform(-3.0, 3.0, (self.n, 1)).astype(np.float32)
        return x, (np.sin(x) + 0.1 * rng.normal(size=x.shape)).astype(np.float32)


class Small(ModelBuilder):
    """A torch network from 1 to 1; ``layer``: one more between its layers."""

    def __init__(self, layer=None, width=8):
        self.layer, self.width = layer, width

    def build_model(self):
        between = [] if self.layer is None else [self.layer()]
        return nn.Sequential(
            nn.Linear(1, self.width), *between, nn.Tanh(), nn.Linear(self.width, 1)
        )
