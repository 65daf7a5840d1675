"""NLL of red wine quality: variational inference, SVGD, MultiSWAG and deep ensembles of 10.

    python benchmarks/wine.py winequality.csv --splits 20

The file is that of the UCI repository (6,497 wines with their type; the 1,599 red ones are
taken: 11 features, quality 3 to 8 as the target). Protocol of Hernandez-Lobato & Adams 2015:
random splits of 90 % for training, seeds 0, 1, ...; features and target standardised on the
training part, scores in units of the target; one hidden layer of 50 ReLUs, which predicts the
mean and the noise of each wine. Prints mean and standard error over the splits.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from nnlo import Algo, Data, ModelBuilder, MPIManager
from nnlo.bayes.ensemble import DeepEnsemble
from nnlo.bayes.evaluate import evaluate
from nnlo.bayes.likelihood import likelihood_of
from nnlo.bayes.particles import Particles
from nnlo.bayes.svgd import SVGD
from nnlo.bayes.swag import MultiSWAG
from nnlo.bayes.torch_layers import LinearFlipout
from nnlo.bayes.variational import Variational

BATCH = 32
LISTED = {"vi": 1.00, "ensemble": 0.97}
"""NLL in the README of uncertainty-baselines (Nado et al. 2021), wine, 1x50."""


class Table(Data):
    """Rows in memory."""

    def __init__(self, x: np.ndarray, y: np.ndarray, batch_size: int = BATCH) -> None:
        super().__init__(batch_size)
        self.x, self.y = x.astype(np.float32), y.astype(np.float32)[:, None]
        self.set_files(["table"])

    def load_data(self, file: str) -> tuple[np.ndarray, np.ndarray]:
        return self.x, self.y


class Plain(ModelBuilder):
    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(11, 50), nn.ReLU(), nn.Linear(50, 2))


class Bayesian(ModelBuilder):
    def build_model(self) -> nn.Module:
        return nn.Sequential(
            LinearFlipout(11, 50, bayesian_bias=True),
            nn.ReLU(),
            LinearFlipout(50, 2, bayesian_bias=True),
        )


def read_red(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 11) and quality (n,) of the red wines without gaps."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.pop("type") == "red"]
    table = np.array([[float(v or "nan") for v in row.values()] for row in rows])
    table = table[np.isfinite(table).all(axis=1)]
    return table[:, :-1], table[:, -1]


def run_vi(train: Table, test: Table, seed: int) -> float:
    manager = MPIManager(
        None,
        train,
        Algo("adam", learning_rate=0.003),
        Bayesian(),
        loss="gaussian_nll",
        num_epochs=60,
        seed=seed,
        train_list=["table"],
        kl_schedule="linear:epochs=20",
    )
    manager.train()
    adapter = manager.adapter
    assert manager.weights is not None
    posterior = Variational(adapter.manifest, manager.weights, seed=seed)
    likelihood = likelihood_of("gaussian_nll", is_torch=True)
    report = evaluate(posterior, adapter, likelihood, test, samples=100)
    manager.close()
    assert report is not None
    return report.metrics["nll"]


def particles(method: object, epochs: int) -> Callable[[Table, Table, int], float]:
    def run(train: Table, test: Table, seed: int) -> float:
        swarm = Particles(Plain(), 10, loss="gaussian_nll", seed=seed)
        swarm.fit(method, train, epochs=epochs)  # type: ignore[arg-type]
        report = swarm.evaluate(test)
        swarm.close()
        assert report is not None
        return report.metrics["nll"]

    return run


METHODS = {
    "vi": run_vi,
    "ensemble": particles(DeepEnsemble(learning_rate=0.003, weight_decay=1e-3), 30),
    "multiswag": particles(MultiSWAG(learning_rate=0.003, weight_decay=1e-3), 30),
    "svgd": particles(SVGD(optimizer="adam", learning_rate=0.003), 30),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    options = parser.parse_args()
    x, y = read_red(options.file)
    print(f"{len(y)} red wines, {options.splits} splits of 90 %")
    for name in options.methods:
        begin, found = time.perf_counter(), []
        for split in range(options.splits):
            order = np.random.default_rng(split).permutation(len(y))
            chosen, rest = np.split(order, [round(0.9 * len(y))])
            scale = y[chosen].std()
            a, b = x[chosen].mean(axis=0), x[chosen].std(axis=0)
            parts = [
                Table((x[rows] - a) / b, (y[rows] - y[chosen].mean()) / scale)
                for rows in (chosen, rest)
            ]
            found.append(METHODS[name](*parts, split) + np.log(scale))
        error = np.std(found, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.nan
        listed = f", listed {LISTED[name]:.2f}" if name in LISTED else ""
        seconds = time.perf_counter() - begin
        print(f"{name:10} NLL {np.mean(found):.3f} +- {error:.3f}{listed}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
