"""How many epochs early stopping saves, and what it costs in merit; see README.md."""

import argparse
import contextlib
import io
import math
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from nnlo.cli.optimize import main as optimize
from nnlo.optimize.study import read
from nnlo.optimize.trials import Record

MODEL = '''
"""Digits by a network of two dense layers."""
from nnlo.data.fetch import dataset_files
from skopt.space import Categorical, Integer, Real
from torch import nn


def get_model(width=64, dropout=0.1, activation="relu"):
    kind = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}[activation]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), kind(), nn.Dropout(dropout),
        nn.Linear(width, width), kind(), nn.Dropout(dropout), nn.Linear(width, 10),
    )


get_model.parameter_range = [
    Integer(8, 256, prior="log-uniform", name="width"),
    Real(0.0, 0.7, name="dropout"),
    Categorical(["relu", "tanh", "gelu"], name="activation"),
]


def get_loss():
    return "categorical_crossentropy"


def get_train():
    return dataset_files("digits")[0]


def get_val():
    return dataset_files("digits")[1]
'''
TUNED = ("learning_rate=1e-5:1e-1:log", "batch=16,32,64,128")


class Found(NamedTuple):
    """What a search has come to. epochs: trained by all trials together. best: the merits of
    finished trials that were the best so far, by the epochs that the search had trained then."""

    epochs: int
    best: list[tuple[int, float]]

    def by(self, epochs: float) -> float:
        """The best merit after so many epochs."""
        return min((merit for at, merit in self.best if at <= epochs), default=math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", nargs="+", default=["none", "median", "asha", "asha-stop"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=27)
    parser.add_argument("--merit", default="val_loss")
    parser.add_argument("--searcher", default="bayesian")
    options = parser.parse_args()
    found: dict[str, list[Found]] = {rule: [] for rule in options.rules}
    for seed in options.seeds:
        for rule in options.rules:
            one = search(options, rule, seed)
            found[rule].append(one)
            print(f"seed {seed}, {rule}: {one.epochs} epochs, {one.best}", flush=True)
    whole = options.trials * options.epochs
    print(f"\n{options.trials} trials of {options.epochs} epochs, {options.searcher}")
    print("rule        epochs  best (median) at 20 %     40 %    100 % of all epochs")
    for rule, ones in found.items():
        share = median(one.epochs for one in ones) / whole
        bests = [median(one.by(part * whole) for one in ones) for part in (0.2, 0.4, 1.0)]
        print(f"{rule:10s}  {share:6.1%}  {bests[0]:23.5f}  {bests[1]:7.5f}  {bests[2]:7.5f}")


def search(options: argparse.Namespace, rule: str, seed: int) -> Found:
    """One search for digits in this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mlp.py").write_text(MODEL)
        words: list[object] = ["--model", folder / "mlp.py"]
        words += ["--tune", *TUNED, "--epochs", options.epochs, "--seed", seed]
        words += ["--num-iterations", options.trials, "--pruning", rule, "--output", folder]
        words += ["--hyper-opt", options.searcher, "--merit", options.merit]
        words += ["--keep-models", 1, "--log-level", "error"]
        with contextlib.redirect_stdout(io.StringIO()):
            optimize([*map(str, words)])
        return found_in(read(folder / "mlp-search" / "study.log"))


def found_in(records: list[Record]) -> Found:
    """What the log of a search in one process tells."""
    reached: dict[int, int] = {}
    best: list[tuple[int, float]] = []
    for record in records:
        if record["event"] == "reported":
            before = reached.get(record["trial"], 0)
            reached[record["trial"]] = max(before, record["epoch"])
        elif record["event"] == "finished":
            merit = record["merit"]
            if not best or merit < best[-1][1]:
                best.append((sum(reached.values()), round(merit, 5)))
    return Found(sum(reached.values()), best)


if __name__ == "__main__":
    main()
