"""Show what more asynchronous workers do to the final loss: GEM against Downpour and EASGD.

    python benchmarks/gem_figure.py [--data mnist.npz] [--plot gem.svg] [--json gem.json]

After the first figure of Hermans & Louppe 2018 (arXiv:1805.08469): MNIST, rate 0.05, momentum
0.9, batches of 64, an epoch of work for each worker, so that n workers see all images n times
together. The workers are virtual and the order is given, so the numbers repeat.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nnlo.algo import EASGD, GEM, Downpour
from nnlo.algo.base import Algorithm
from nnlo.algo.optimizers import SGD
from nnlo.data import Batch, Data
from nnlo.data.originals import Part, mnist
from nnlo.errors import TrainingError
from nnlo.model import ModelAdapter, make_adapter
from nnlo.mpi.evaluate import evaluate
from nnlo.simulate import simulate

RATE, MOMENTUM, BATCH = 0.05, 0.9, 64
SERIAL = Downpour(SGD(learning_rate=RATE, momentum=MOMENTUM))
"""With one worker: plain momentum SGD, whose energy GEM matches."""
LINES: dict[str, Algorithm] = {
    "GEM, kappa 2": GEM(learning_rate=RATE, momentum=MOMENTUM, kappa=2.0),
    "GEM, kappa 1": GEM(learning_rate=RATE, momentum=MOMENTUM, kappa=1.0),
    "Downpour": SERIAL,
    "Downpour / (1 + staleness)": Downpour(SERIAL.optimizer, staleness="inverse"),
    "Downpour, no momentum": Downpour(SGD(learning_rate=RATE)),
    "EASGD": EASGD(
        sync_every=1,
        worker_optimizer={"name": "sgd", "momentum": MOMENTUM, "nesterov": True},
        worker_learning_rate=RATE,
    ),
}
ORDERS = ("turns", "random", "lockstep")
METRICS = {"test_loss": "test loss", "loss": "training loss", "test_accuracy": "test accuracy"}


class Task(NamedTuple):
    """What all runs have in common. order: see ``arrivals``."""

    train: Data
    test: Data
    seed: int = 0
    order: str = "turns"


class Final(NamedTuple):
    """Of the master's last weights, over all images; inf and 0 where the run diverged."""

    n_workers: int
    loss: float
    test_loss: float
    test_accuracy: float
    staleness: float | None  # mean, of the last epoch; from its pull on where a worker pulls
    seconds: float


Curves = dict[str, list[Final]]
"""By the name of the line, in the order of the worker counts."""


def main() -> None:
    """Parse the options, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="mnist.npz as Keras has it; without it Keras downloads it")
    add("--workers", type=int, nargs="+", default=[5, 10, 20, 30], metavar="N")
    add("--samples", type=int, default=10_000, help="training images, the first ones")
    add("--seed", type=int, default=0, help="of the first weights and of all orders")
    add("--order", choices=ORDERS, default="turns", help="in which the master hears the workers")
    add("--plot", type=Path, help="image to write, .svg or .png; needs matplotlib")
    add("--json", type=Path, help="file of all numbers to write")
    options = parser.parse_args()
    source = mnist(options.data)
    train = Images(source.train, BATCH, options.samples, seed=options.seed)
    task = Task(train, Images(source.test, 1000, shuffle=False), options.seed, options.order)
    serial = measure(SERIAL, 1, task)
    curves: Curves = {}
    for name, algo in LINES.items():
        curves[name] = [measure(algo, n, task) for n in options.workers]
        print(f"{name}: {sum(final.seconds for final in curves[name]):.0f} s", flush=True)
    print(tables(serial, curves))
    if options.json:
        options.json.write_text(as_json(serial, curves))
    if options.plot:
        plot(serial, curves, options.plot)


# A run ------------------------------------------------------------------------------------


class Images(Data):
    """The first ``n_samples`` images, as float32 in [0, 1], and their classes; in memory."""

    def __init__(self, part: Part, batch: int, n_samples: int | None = None, **options: Any):
        super().__init__(batch, **options)
        self._batch = part.images[:n_samples] / np.float32(255.0), part.classes[:n_samples]
        self.set_files(["mnist"])

    def load_data(self, file: str) -> Batch:
        return self._batch


class ChannelsFirst(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 3, 1, 2)


def make_model(algo: Algorithm, seed: int) -> ModelAdapter:
    """Two convolutions of stride 2 and a dense layer: 6,000 weights, small enough for a CPU."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        ChannelsFirst(),
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    return make_adapter(
        model,
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        optimizer=algo.worker_optimizer,
        learning_rate=algo.worker_learning_rate,
    )


def arrivals(algo: Algorithm, n_workers: int, order: str) -> Iterator[int] | None:
    """Whom the master hears, for ever; None: drawn at random.

    turns: each worker in turn; where it pulls, its update comes right after its pull. Between
    two updates of a worker there is one of each other: staleness n_workers - 1.
    lockstep: in turn as well, but all ask to pull before the first one of them updates.
    """
    if order == "random":
        return None
    n_messages = 2 if algo.pulls and order == "turns" else 1
    return cycle(index for index in range(n_workers) for _ in range(n_messages))


def measure(algo: Algorithm, n_workers: int, task: Task) -> Final:
    """Train for an epoch's work of each worker: n_workers epochs of the master's clock."""
    adapter, start = make_model(algo, task.seed), time.perf_counter()
    order = arrivals(algo, n_workers, task.order)
    try:
        ended = simulate(
            algo, adapter, task.train, n_workers, order=order, num_epochs=n_workers, seed=task.seed
        )
    except TrainingError:
        return Final(n_workers, math.inf, math.inf, 0.0, None, time.perf_counter() - start)
    seconds, staleness = time.perf_counter() - start, ended.history.epochs[-1]["staleness"]
    train = evaluate(adapter, task.train, ended.weights)
    test = evaluate(adapter, task.test, ended.weights)
    losses = finite(train["val_loss"]), finite(test["val_loss"])
    return Final(n_workers, *losses, test["val_accuracy"], staleness, seconds)


def finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


# What is shown ----------------------------------------------------------------------------


def tables(serial: Final, curves: Curves) -> str:
    """A table of each metric: a row an algorithm, a column a number of workers."""
    counts = [final.n_workers for final in next(iter(curves.values()))]
    lines = []
    for metric, title in METRICS.items():
        is_loss, one = "loss" in metric, getattr(serial, metric)
        head = f"{title + ', workers:':28}" + "".join(f"{n:>9}" for n in counts)
        lines += ["", head + ("  largest/smallest  largest/one process" if is_loss else "")]
        for name, finals in curves.items():
            values = [getattr(final, metric) for final in finals]
            line = f"{name:28}" + "".join(f"{value:9.3f}" for value in values)
            if is_loss:
                line += f"{ratio(values, min(values)):18.2f}{ratio(values, one):21.2f}"
            lines.append(line)
        lines.append(f"{'one process, one epoch':28}{one:9.3f}")
    return "\n".join(lines)


def ratio(losses: Sequence[float], yardstick: float) -> float:
    """The largest over the yardstick; inf where a run diverged."""
    return max(losses) / yardstick if 0.0 < yardstick < math.inf else math.inf


def as_json(serial: Final, curves: Curves) -> str:
    """All numbers; null for what is not finite."""
    rows = {"one process": [serial], **curves}
    found = {
        name: [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in final._asdict().items()
            }
            for final in finals
        ]
        for name, finals in rows.items()
    }
    return json.dumps(found, indent=1)


def plot(serial: Final, curves: Curves, file: Path) -> None:
    """Test loss against workers, logarithmic; a run that diverged has no point."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gem"}):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for name, finals in curves.items():
            counts = [final.n_workers for final in finals]
            axes.plot(counts, [final.test_loss for final in finals], "o-", label=name)
        axes.axhline(serial.test_loss, color="gray", ls=":", label="one process, one epoch")
        axes.set(xlabel="asynchronous workers", ylabel="final test loss", yscale="log")
        axes.set_xticks(sorted({final.n_workers for row in curves.values() for final in row}))
        axes.legend(fontsize="small")
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
