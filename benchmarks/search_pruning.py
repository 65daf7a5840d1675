"""How many epochs early stopping saves, and what it costs in merit; see README.md."""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from nnlo.cli.optimize import main as optimize
from nnlo.optimize.study import read
from nnlo.optimize.trials import Trials

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
    """best: merit. epochs: trained by all trials together."""

    best: float
    epochs: int


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
            found[rule].append(search(options, rule, seed))
            print(f"seed {seed}, {rule}: {found[rule][-1]}", flush=True)
    print(f"\n{options.trials} trials of {options.epochs} epochs, {options.searcher}")
    print("rule        best (median)  worse than none (median)     epochs of none")
    for rule, ones in found.items():
        base = found[options.rules[0]]
        away = median(a.best - b.best for a, b in zip(ones, base, strict=True))
        share = median(a.epochs / b.epochs for a, b in zip(ones, base, strict=True))
        best = median(one.best for one in ones)
        print(f"{rule:10s}  {best:13.5f}  {away:+24.5f}  {share:17.1%}")


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
        trials = Trials(read(folder / "mlp-search" / "study.log")).rows
    done = [one.merit for one in trials if one.state == "finished" and one.merit is not None]
    return Found(min(done), sum(one.epochs for one in trials))


if __name__ == "__main__":
    main()
