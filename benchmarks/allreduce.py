"""Time runs without a master: against a plain Keras fit, and against PyTorch's own.

    python benchmarks/allreduce.py [--rounds 5] [--epochs 4] [--only fit keras]

All data are random numbers in memory and every process computes in one thread. The parts take
turns within a round; the first epoch of each, which compiles, is left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nnlo.algo import Algo
from nnlo.cli.threads import THREAD_NAMES
from nnlo.data import Data
from nnlo.history import Record
from nnlo.model import ModelBuilder, load_builder
from nnlo.mpi import link
from nnlo.mpi.manager import MPIManager

Marks = list[tuple[float, float]]
"""Wall clock and processor time of a process at the ends of its epochs."""


def main() -> None:
    """Run one part where asked to, else all of them in turns, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--batch", type=int, default=64, help="samples of a batch, of each rank")
    add("--steps", type=int, default=30, help="batches of an epoch, of each rank")
    add("--epochs", type=int, default=4, help="of each part and round, at least 2")
    add("--rounds", type=int, default=5, help="turns of each part")
    add("--width", type=int, default=1600, help="of the torch network's 4 hidden layers")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    add("--part", choices=PARTS, help=argparse.SUPPRESS)
    add("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is None:
        compare(options)
        return
    marks = PARTS[options.part](options)
    if marks:
        options.out.write_text(json.dumps(marks))


# The parts --------------------------------------------------------------------------------


def fit(options: argparse.Namespace) -> Marks:
    """Plain Keras: one process."""
    import keras

    builder = load_builder("mnist")
    meter = Meter()
    model = builder.build_model()
    model.compile(optimizer="adam", loss=builder.loss, metrics=["accuracy"])
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: meter.note())
    x, y = images(options, 1)
    model.fit(x, y, options.batch, options.epochs, verbose=0, callbacks=[note])
    return meter.marks


def train(options: argparse.Namespace, model: str, **numbers: Any) -> Marks:
    """A rank of NNLO."""
    comm = link.world()
    meter = Meter()
    builder = load_builder("mnist") if model == "mnist" else Dense(options.width)
    manager = MPIManager(
        comm,
        Images(options, 1 if comm is None else comm.size),
        Algo("adam", mode="allreduce", **numbers),
        builder,
        loss="categorical_crossentropy",
        train_list=["all"],
        listeners=[meter],
        num_epochs=options.epochs,
    )
    manager.train()
    manager.close()
    return meter.marks


def ddp(options: argparse.Namespace) -> Marks:
    """A rank of PyTorch's DistributedDataParallel over gloo, which computes what ours does."""
    import torch
    from torch.nn import functional

    comm: Any = link.world()
    meeting = comm.bcast(f"file://{tempfile.mktemp()}" if comm.rank == 0 else None)
    torch.distributed.init_process_group(
        "gloo", init_method=meeting, rank=comm.rank, world_size=comm.size
    )
    torch.manual_seed(0)
    network = Dense(options.width).build_model()
    model = torch.nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    meter, n = Meter(), options.batch
    x, y = (torch.from_numpy(one) for one in images(options, comm.size, comm.rank))
    sums = torch.zeros(2)
    for _ in range(options.epochs):
        order = torch.randperm(len(x))
        for rows in order.split(n):
            output, label = model(x[rows]), y[rows]
            loss = functional.cross_entropy(output, label)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                right = output.argmax(1) == label.argmax(1)
                sums += torch.stack([loss * len(right), right.sum()])
        torch.distributed.all_reduce(sums)
        meter.note()
    torch.distributed.destroy_process_group()
    return meter.marks


PARTS: dict[str, Callable[[argparse.Namespace], Marks]] = {
    "fit": fit,
    "keras": partial(train, model="mnist"),
    "ddp": ddp,
    "flat": partial(train, model="dense"),
    "overlap": partial(train, model="dense", overlap=True),
}
RANKS = {"fit": 1, "keras": 1, "ddp": 2, "flat": 2, "overlap": 2}
TITLES = {
    "fit": "Keras fit, 1 process",
    "keras": "allreduce, Keras, 1 rank",
    "ddp": "torch DDP (gloo), 2 ranks",
    "flat": "allreduce, torch, 2 ranks",
    "overlap": "allreduce, torch, overlap=True, 2 ranks",
}
AGAINST = {"keras": "fit", "flat": "ddp", "overlap": "flat"}


class Meter:
    """A listener that reads the clocks at the ends of epochs."""

    def __init__(self) -> None:
        self.marks: Marks = []

    def note(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def begin(self, root: object, master: object) -> None: ...

    def goes_on(self, root: object, master: object) -> None: ...

    def epoch_began(self, epoch: int) -> None: ...

    def updated(self, version: int, n_samples: int, logs: Record) -> None: ...

    def epoch_ended(self, epoch: int, record: Record) -> None:
        self.note()

    def end(self) -> None: ...


class Dense(ModelBuilder):
    """A torch network of 4 equal hidden layers: 9 M parameters at a width of 1600."""

    def __init__(self, width: int) -> None:
        self.width = width

    def build_model(self) -> Any:
        from torch import nn

        widths = [784, *[self.width] * 4]
        hidden = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(self.width, 10))


class Images(Data):
    """Random pictures in memory, as many for each rank."""

    def __init__(self, options: argparse.Namespace, n_ranks: int) -> None:
        super().__init__(options.batch)
        self._arrays = images(options, n_ranks)

    def load_data(self, file: str) -> Any:
        return self._arrays


def images(options: argparse.Namespace, n_ranks: int, rank: int | None = None) -> Any:
    """x, y of all ranks, or of one."""
    n = options.batch * options.steps
    random = np.random.default_rng(0)
    x = random.random((n * n_ranks, 28, 28, 1), np.float32)
    y = np.eye(10, dtype=np.float32)[random.integers(10, size=len(x))]
    part = slice(None) if rank is None else slice(rank * n, (rank + 1) * n)
    return x[part], y[part]


# The comparison ---------------------------------------------------------------------------


def compare(options: argparse.Namespace) -> None:
    """Take turns and print."""
    found: dict[str, list[tuple[float, float]]] = {part: [] for part in options.only}
    for turn in range(options.rounds):
        # Whoever goes first in one round goes last in the next.
        for part in options.only[:: -1 if turn % 2 else 1]:
            found[part].append(rates(options, part))
    print(f"{'':42}{'samples/s':>10}{'per CPU s':>11}{'against':>9}{'ratio':>8}{'per CPU s':>11}")
    for part, pairs in found.items():
        wall, cpu = np.median(pairs, axis=0)
        line = f"{TITLES[part]:42}{wall:10.0f}{cpu:11.0f}"
        other = AGAINST.get(part, "")
        if other in found:
            ratios = np.median(np.divide(pairs, found[other]), axis=0)
            line += f"{other:>9}{ratios[0]:8.3f}{ratios[1]:11.3f}"
        print(line)
    if find_spec("horovod") is None:
        print("Horovod is not installed: it builds against neither torch nor TensorFlow of today")
    print(f"ratios: medians over rounds; load {os.getloadavg()[0]:.1f}")


def rates(options: argparse.Namespace, part: str) -> tuple[float, float]:
    """Samples of a rank per second of the clock, and of rank 0's processor time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "marks.json"
        start = [sys.executable]
        if RANKS[part] > 1:
            start += ["-m", "nnlo.cli.launch", "-n", str(RANKS[part]), "--threads", "1"]
        program = [*sys.argv, "--part", part, "--out", str(file)]
        environ = {**os.environ, **dict.fromkeys(THREADS, "1"), "TF_CPP_MIN_LOG_LEVEL": "3"}
        ended = subprocess.run([*start, *program], env=environ, capture_output=True, check=False)
        if ended.returncode:
            sys.exit(f"{part} failed:\n{ended.stderr.decode()}")
        marks: Marks = json.loads(file.read_text())
    n = options.batch * options.steps
    wall, cpu = np.median(np.diff(marks, axis=0), axis=0)
    return n / wall, n / cpu


THREADS = (*THREAD_NAMES, "TF_NUM_INTEROP_THREADS")


if __name__ == "__main__":
    main()
