"""Train MNIST in every mode and shape at its defaults, and print the accuracies that they reach.

    GetData mnist --out DIR
    python benchmarks/accuracy.py --data DIR [--json found.jsonl]
    python benchmarks/accuracy.py --data DIR --modes diloco --shapes star -- --sync-every 20

Each run is a command that a user would type. With --json what has been found is kept, and the
next call goes on from there. What comes after ``--`` is added to every command.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnlo.algo import MODES
from nnlo.cli.threads import THREAD_NAMES

PLAIN = "plain"
TWIN = str(Path(__file__).resolve().parents[1] / "examples" / "example_mnist_torch.py")
MODELS = {"mnist": "Keras", TWIN: "torch"}
"""The same network twice."""
SHAPES = {
    "three": ("3 ranks", ["-n", "3"], []),
    "star": ("7 ranks", ["-n", "7"], []),
    "tree": ("7 ranks, tree of 3 masters", ["-n", "7"], ["--n-masters", "3"]),
    "rings": ("7 ranks, rings of 2", ["-n", "7"], ["--n-processes", "2"]),
}
MASTERLESS = ("three", "star")
"""Shapes of a mode without a master."""

GRACE_S = 20.0  # for a launcher that was told to end
THREADS = (*THREAD_NAMES, "TF_NUM_INTEROP_THREADS")


@dataclass(frozen=True)
class Row:
    """One run. ``extra``: options beside those of the mode and the shape, as typed."""

    model: str
    mode: str
    shape: str
    seed: int
    epochs: int
    batch: int
    extra: str = ""


def main() -> None:
    """Run what is asked for and not known yet, then print the table."""
    options = parse(sys.argv[1:])
    if options.part:
        fit = {"mnist": fit_keras, TWIN: fit_torch}[options.part]
        options.out.write_text(json.dumps(fit(options, options.seeds[0])))
        return
    options.data = options.data.resolve()
    known = load(options.json)
    for row in rows(options):
        if row in known:
            continue
        found = run(row, options)
        known[row] = found
        print(f"{text(row)}: {found}", file=sys.stderr)
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps({**asdict(row), **found}) + "\n")
    report(known, options)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with train_mnist.list")
    add("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    add("--modes", nargs="+", choices=[PLAIN, *MODES], default=[PLAIN, *MODES])
    add("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    add("--seeds", nargs="+", type=int, default=[0], help="a run each; the table has medians")
    add("--epochs", type=int, default=10)
    add("--batch", type=int, default=100, help="samples of a worker's batch")
    add("--json", type=Path, help="file of JSON lines that keeps what has been found")
    add("--limit", type=float, default=600.0, help="seconds of a run")
    add("--part", choices=MODELS, help=argparse.SUPPRESS)
    add("--out", type=Path, help=argparse.SUPPRESS)
    cut = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:cut])
    options.extra = shlex.join(words[cut + 1 :])
    return options


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """All runs that are asked for and make sense."""
    numbers = (options.epochs, options.batch)
    for model in options.models:
        if PLAIN in options.modes and not options.extra:
            yield from (Row(model, PLAIN, "one", seed, *numbers) for seed in options.seeds)
        for shape in options.shapes:
            for mode in options.modes:
                if mode == PLAIN or (not MODES[mode].has_master and shape not in MASTERLESS):
                    continue
                for seed in options.seeds:
                    yield Row(model, mode, shape, seed, *numbers, options.extra)


# One run ----------------------------------------------------------------------------------


def run(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """Accuracies on the test images, the last epoch's first, and seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        if row.mode == PLAIN:
            accuracies = run_plain(row, options, Path(folder))
        else:
            accuracies = run_ranks(row, options, Path(folder))
        took = round(time.perf_counter() - start, 1)
    if not accuracies:
        return {"last": None, "best": None, "took_s": took}
    return {"last": accuracies[-1], "best": max(accuracies), "took_s": took}


def command(row: Row) -> list[str]:
    """What a user would type."""
    _, ranks, shape = SHAPES[row.shape]
    line = ["nnlorun", *ranks, "TrainingDriver", "--model", row.model, "--mode", row.mode, *shape]
    line += ["--epochs", str(row.epochs), "--loss", "categorical_crossentropy"]
    line += ["--train-data", "train_mnist.list", "--val-data", "test_mnist.list"]
    if row.seed:
        line += ["--seed", str(row.seed)]
    if row.batch != 100:
        line += ["--batch", str(row.batch)]
    return [*line, *shlex.split(row.extra)]


def run_ranks(row: Row, options: argparse.Namespace, folder: Path) -> list[float]:
    line = [*command(row), "--output", str(folder)]
    if not call(line, options, dict(os.environ)):
        return []
    (history,) = folder.glob("*/history.json")
    return [one["val_accuracy"] for one in json.loads(history.read_text())["epochs"]]


def run_plain(row: Row, options: argparse.Namespace, folder: Path) -> list[float]:
    """One process of the backend alone, in one thread as a rank has."""
    out = folder / "accuracies.json"
    line = [sys.executable, __file__, "--data", str(options.data), "--part", row.model]
    line += ["--out", str(out), "--epochs", str(row.epochs), "--batch", str(row.batch)]
    line += ["--seeds", str(row.seed)]
    if not call(line, options, {**os.environ, **dict.fromkeys(THREADS, "1")}):
        return []
    accuracies: list[float] = json.loads(out.read_text())
    return accuracies


def call(line: list[str], options: argparse.Namespace, environ: dict[str, str]) -> bool:
    """Run a command where the data are; False, and its last words, where it fails."""
    process = subprocess.Popen(
        line, cwd=options.data, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output, _ = process.communicate(timeout=options.limit)
    except subprocess.TimeoutExpired:
        process.terminate()  # nnlorun ends its ranks
        try:
            output, _ = process.communicate(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    if process.returncode:
        print(output.decode(errors="replace")[-2000:], file=sys.stderr)
    return process.returncode == 0


# One process without NNLO's training ------------------------------------------------------


def arrays(options: argparse.Namespace, name: str) -> Any:
    """All images of a list, (n, 28, 28, 1) in [0, 1], and their one-hot labels."""
    import numpy as np

    from nnlo.data import H5Data, read_list

    data = H5Data(options.batch)
    data.set_files(read_list(options.data / f"{name}_mnist.list"))
    features, labels = zip(*data.epoch(0), strict=True)
    return np.concatenate(features).astype(np.float32), np.concatenate(labels)


def fit_keras(options: argparse.Namespace, seed: int) -> list[float]:
    """Keras' own ``fit``, with adam."""
    import keras

    from nnlo.model import load_builder

    keras.utils.set_random_seed(seed)
    model = load_builder("mnist").build_model()
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    x, y = arrays(options, "train")
    test = arrays(options, "test")
    fitted = model.fit(x, y, options.batch, options.epochs, verbose=0, validation_data=test)
    accuracies: list[float] = fitted.history["val_accuracy"]
    return accuracies


def fit_torch(options: argparse.Namespace, seed: int) -> list[float]:
    """The loop of every PyTorch tutorial, with adam."""
    import torch
    from torch.nn import functional

    from nnlo.model import load_builder

    torch.manual_seed(seed)
    model = load_builder(TWIN).build_model()
    optimizer = torch.optim.Adam(model.parameters())
    x, y = (torch.from_numpy(one) for one in arrays(options, "train"))
    test, truth = (torch.from_numpy(one) for one in arrays(options, "test"))
    accuracies = []
    for _ in range(options.epochs):
        model.train()
        order = torch.randperm(len(x))
        for part in torch.split(order, options.batch):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[part]), y[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = model(test).argmax(1) == truth.argmax(1)
        accuracies.append(right.double().mean().item())
    return accuracies


# The table --------------------------------------------------------------------------------

Found = dict[Row, dict[str, Any]]


def load(file: Path | None) -> Found:
    """What earlier calls have found."""
    if file is None or not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    names = Row.__dataclass_fields__
    return {Row(**{name: one[name] for name in names}): one for one in lines}


def text(row: Row) -> str:
    return f"plain {MODELS[row.model]}" if row.mode == PLAIN else shlex.join(command(row))


def report(found: Found, options: argparse.Namespace) -> None:
    """Print medians over the seeds of the last epoch's accuracy, as Markdown."""
    columns = [(model, shape) for model in options.models for shape in options.shapes]
    titles = [f"{MODELS[model]}, {SHAPES[shape][0]}" for model, shape in columns]
    print("| mode | " + " | ".join(titles) + " |")
    print("|---" * (len(titles) + 1) + "|")
    for mode in options.modes:
        if mode == PLAIN:
            continue
        cells = (cell(found, options, model, mode, shape) for model, shape in columns)
        print(f"| `{mode}` | " + " | ".join(cells) + " |")
    for model in options.models:
        print(f"\nplain {MODELS[model]}: {cell(found, options, model, PLAIN, 'one')}")


def cell(found: Found, options: argparse.Namespace, model: str, mode: str, shape: str) -> str:
    extra = "" if mode == PLAIN else options.extra
    numbers = (options.epochs, options.batch, extra)
    asked = [Row(model, mode, shape, seed, *numbers) for seed in options.seeds]
    last = [found[row]["last"] for row in asked if row in found]
    done = [one for one in last if one is not None]
    failed = f" ({len(last) - len(done)} failed)" if len(done) < len(last) else ""
    return (f"{statistics.median(done):.4f}" if done else "-") + failed


if __name__ == "__main__":
    main()
