"""Time two workers and a master on two cores against a plain Keras fit on one.

    GetData mnist --out DIR
    python benchmarks/train.py --data DIR [--model mnist] [--epochs 4] [--rounds 3]

Every process computes in one thread. ``fit`` runs bound to one core with its data in memory;
``two fits`` are two of them at once, each on its core, which shows what the cores share. The
parts take turns within a round; the first epoch of each, which compiles, is left out, and a
row shows quartiles over the others.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnlo.algo import Algo
from nnlo.algo.base import Update, Vector
from nnlo.cli.threads import THREAD_NAMES
from nnlo.data import Batch, Data, H5Data, read_list
from nnlo.history import Record
from nnlo.model import load_builder
from nnlo.mpi import link
from nnlo.mpi.manager import MPIManager
from nnlo.mpi.master import Master

CORES = (0, 1)
PAUSE_S, PAUSES = 1.0, 4  # of a worker that sleeps: per batch, per epoch
Found = dict[str, list[float]]


def main() -> None:
    """Run one part where asked to, else all of them in turns, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with train_mnist.list")
    add("--model", default="mnist", help="a Keras model that takes this data")
    add("--batch", type=int, default=100, help="samples of a batch, of a worker or of fit")
    add("--epochs", type=int, default=4, help="of each part and round, at least 2")
    add("--rounds", type=int, default=3, help="turns of each part")
    add("--part", choices=PARTS, help=argparse.SUPPRESS)
    add("--core", type=int, help=argparse.SUPPRESS)
    add("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is None:
        compare(options)
        return
    found = PARTS[options.part](options)
    if found:
        options.out.write_text(json.dumps(found))


# The parts --------------------------------------------------------------------------------


def fit(options: argparse.Namespace) -> Found:
    """Plain Keras on one core: samples/s of each epoch after the first."""
    os.sched_setaffinity(0, {options.core})
    import keras

    builder = load_builder(options.model)
    data = make_data(options)
    features, labels = zip(*data.epoch(0), strict=True)
    model = builder.build_model()
    model.compile(optimizer="adam", loss=builder.loss, metrics=["accuracy"])
    ends: list[float] = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    x, y = np.concatenate(features), np.concatenate(labels)
    model.fit(x, y, options.batch, options.epochs, verbose=0, callbacks=[note])
    return {"rates": [len(x) / seconds for seconds in np.diff(ends)]}


def train(options: argparse.Namespace) -> Found:
    """A rank of NNLO. Rank 0: samples/s of each epoch after the first, shares of a core."""
    return run(options, make_data(options), read_list(options.data / "train_mnist.list"))


def wait(options: argparse.Namespace) -> Found:
    """A rank of NNLO whose workers sleep. Rank 0: the shares of a core that waiting takes."""
    return run(options, Sleepers(batch_size=1), [])


PARTS = {"fit": fit, "train": train, "wait": wait}


def run(options: argparse.Namespace, data: Data, files: list[str]) -> Found:
    comm = link.world()
    meter = Meter()
    manager = MPIManager(
        comm,
        data,
        Algo("adam"),
        builder := load_builder(options.model),
        loss=builder.loss,
        train_list=files,
        listeners=[meter],
        num_epochs=options.epochs,
    )
    history = manager.train()
    manager.close()
    if history is None:
        return {}
    rates = [record["samples_per_s"] for record in history.epochs[1:]]
    rows = [row for rank in history.ranks.values() for row in rank[1:]]
    steps = sum(row["steps"] for row in rows)
    per_step = {f"{key}, ms": 1e3 * sum(row[key] for row in rows) / steps for key in TIMES}
    return {"rates": rates, **meter.shares(), **{k: [v] for k, v in per_step.items()}}


TIMES = ("busy_s", "wait_s")


class Meter:
    """A listener that reads the processor time of rank 0 and of its arithmetic."""

    def __init__(self) -> None:
        self._arithmetic = 0.0
        self._marks: list[tuple[float, float, float]] = []

    def begin(self, root: object, master: Master) -> None:
        half: Any = master.half
        apply = half.apply

        def timed(weights: Vector, updates: Sequence[Update], out: Vector) -> None:
            start = time.thread_time()
            apply(weights, updates, out)
            self._arithmetic += time.thread_time() - start

        half.apply = timed

    def goes_on(self, root: object, master: object) -> None: ...

    def epoch_began(self, epoch: int) -> None: ...

    def updated(self, version: int, n_samples: int, logs: Record) -> None: ...

    def epoch_ended(self, epoch: int, record: Record) -> None:
        self._marks.append((time.perf_counter(), time.process_time(), self._arithmetic))

    def end(self) -> None: ...

    def shares(self) -> Found:
        """Percent of a core between the ends of the first epoch and the last."""
        wall, cpu, arithmetic = np.subtract(self._marks[-1], self._marks[0])
        return {"cpu": [100 * cpu / wall], "arithmetic": [100 * arithmetic / wall]}


class Sleepers(Data):
    """One sample a second."""

    shards_itself = True

    def generate_data(self) -> Iterator[Batch]:
        for _ in range(PAUSES):
            time.sleep(PAUSE_S)
            yield np.zeros((1, 28, 28, 1), np.float32), np.eye(1, 10, dtype=np.float32)


def make_data(options: argparse.Namespace) -> H5Data:
    builder = load_builder(options.model)
    data = H5Data(options.batch, builder.features, builder.labels)
    data.set_files(read_list(options.data / "train_mnist.list"))
    return data


# The comparison ---------------------------------------------------------------------------


def compare(options: argparse.Namespace) -> None:
    """Take turns and print."""
    one: list[float] = []
    two: list[float] = []
    parts: dict[str, Found] = {"train": {}, "wait": {}}
    for _ in range(options.rounds):
        one += join(start("fit", core=CORES[0]))["rates"]
        pair = [start("fit", core=core) for core in CORES]
        first, second = (join(started)["rates"] for started in pair)
        two += [sum(rates) for rates in zip(first, second, strict=True)]
        add_to(parts["train"], join(start("train")))
    add_to(parts["wait"], join(start("wait")))
    report(one, two, parts["train"], parts["wait"])


def start(part: str, core: int | None = None) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a part in processes of its own; ``core`` for one that is bound."""
    file, name = tempfile.mkstemp(suffix=".json")
    os.close(file)
    program = [*sys.argv, "--part", part, "--out", name]
    environ = {key: value for key, value in os.environ.items() if key not in THREADS}
    if core is None:
        command = [sys.executable, "-m", "nnlo.cli.launch", "-n", "3", *program]
    else:
        command = [sys.executable, *program, "--core", str(core)]
        environ |= dict.fromkeys(THREADS, "1")
    environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE)
    return process, Path(name)


THREADS = (*THREAD_NAMES, "TF_NUM_INTEROP_THREADS")


def join(started: tuple[subprocess.Popen[bytes], Path]) -> Found:
    """What a part has found, once it ends."""
    process, file = started
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"{process.args!r} failed:\n{errors.decode()}")
    found: Found = json.loads(file.read_text())
    file.unlink()
    return found


def add_to(total: Found, found: Found) -> None:
    for key, values in found.items():
        total.setdefault(key, []).extend(values)


def report(one: list[float], two: list[float], train: Found, wait: Found) -> None:
    """Print the table, the ratios and the master's share of a core."""
    ours = train["rates"]
    print(f"{'':34}{'samples/s':>10}{'quartiles':>16}{'of 2 x fit':>12}{'of two fits':>13}")
    double, both = 2 * np.median(one), np.median(two)
    rows = (("fit, one core", one), ("two fits, two cores", two), ("2 workers + master", ours))
    for name, rates in rows:
        low, median, high = np.percentile(rates, (25, 50, 75))
        spread = f"{low:.0f} to {high:.0f}"
        print(f"{name:34}{median:10.0f}{spread:>16}{median / double:12.3f}{median / both:13.3f}")
    work, pause = np.median(train["busy_s, ms"]), np.median(train["wait_s, ms"])
    print(f"a worker's step: {work:.1f} ms of work, {pause:.2f} ms of exchange")
    for name, found in (("training", train), ("only waiting", wait)):
        cpu, arithmetic = np.median(found["cpu"]), np.median(found["arithmetic"])
        print(f"master, {name}: {cpu:.1f} % of a core, {arithmetic:.1f} % in arithmetic")
    print(f"goals: of 2 x fit at least 0.92, waiting under 5 %; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
