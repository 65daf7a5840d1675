"""How few trials each searcher needs, and how long it thinks; see README.md."""

import argparse
import heapq
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnlo.errors import ConfigError
from nnlo.optimize.coordinator import Coordinator
from nnlo.optimize.events import End, Event, Finished, Idle, Limits, Start, Write
from nnlo.optimize.pruning import Never
from nnlo.optimize.searcher import SEARCHERS, Told, make_searcher
from nnlo.optimize.space import Params, Space
from nnlo.optimize.study import Study
from nnlo.optimize.trials import Record

N_BLOCKS = 4


class Function(NamedTuple):
    """Something to minimise, with its space and what its minimum is."""

    tune: Sequence[str]
    minimum: float
    value: Callable[..., float]
    goal: float


def branin(x: float, y: float) -> float:
    """Two dimensions, three equal minima."""
    curve = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return curve * curve + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def hartmann6(**xs: float) -> float:
    """Six dimensions, several minima, of which -3.203 is easier to find than the best."""
    a = np.array(
        [
            [10, 3, 17, 3.5, 1.7, 8],
            [0.05, 10, 17, 0.1, 8, 14],
            [3, 3.5, 1.7, 10, 17, 8],
            [17, 8, 0.05, 10, 0.1, 14],
        ]
    )
    p = 1e-4 * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    inner = (a * (np.array(list(xs.values())) - p) ** 2).sum(axis=1)
    return float(-np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-inner))


def mixed(
    lr: float,
    layers: int,
    width: int,
    dropout: float,
    optimizer: str,
    activation: str,
    batch_norm: bool,
) -> float:
    """A made-up loss of a training: which rate is best depends on the optimizer and the depth."""
    best_rate = {"sgd": -1.0, "momentum": -1.9, "adam": -3.0, "rmsprop": -3.4}[optimizer]
    away = math.log10(lr) - best_rate + 0.15 * (layers - 4)
    loss = 0.25 * away**2 * (1.0 if batch_norm else 1.6)
    loss += {"adam": 0.0, "rmsprop": 0.02, "momentum": 0.03, "sgd": 0.08}[optimizer]
    loss += {"gelu": 0.0, "relu": 0.015, "tanh": 0.06}[activation]
    loss += 0.0 if batch_norm else 0.01 + 0.02 * layers
    loss += 0.012 * (layers - 4) ** 2 + 0.05 * math.log2(width / 180) ** 2
    loss += 0.6 * (dropout - 0.1 - 0.2 * math.log2(180 / 16) / 5) ** 2
    return 2.3 * (1 - math.exp(-loss / 2.3))  # no worse than guessing


FUNCTIONS = {
    "branin": Function(("x=-5.0:10.0", "y=0.0:15.0"), 0.3978873577, branin, 0.001),
    "hartmann6": Function(tuple(f"x{i}=0.0:1.0" for i in range(6)), -3.3223680114, hartmann6, 0.2),
    "mixed7": Function(
        (
            "lr=1e-5:1.0:log",
            "layers=1:8",
            "width=16:1024:log",
            "dropout=0.0:0.7",
            "optimizer=sgd,momentum,adam,rmsprop",
            "activation=relu,tanh,gelu",
            "batch_norm=true,false",
        ),
        0.0,
        mixed,
        0.005,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searchers", nargs="+", default=list(SEARCHERS), choices=SEARCHERS)
    parser.add_argument("--functions", nargs="+", default=list(FUNCTIONS), choices=FUNCTIONS)
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--noise", type=float, default=0.0, help="deviation, on merits alone")
    parser.add_argument("--told", nargs="*", type=int, default=[10, 100, 300, 1000])
    parser.add_argument("--blocks", type=int, default=0, help="emulate so many, in real time")
    parser.add_argument("--ahead", nargs="*", type=int, default=[0, 1, 2, 4, 8])
    options = parser.parse_args()
    if options.blocks:
        print("share of a block's time that it waits for its next trial, of 1 s; mean and worst")
        print(
            f"{'searcher':12}{'told before':>12}"
            + "".join(f"{q:>9} ahead   " for q in options.ahead)
        )
        for searcher in options.searchers:
            for n_told in options.told:
                throughput(searcher, n_told, options)
        print(f"load {os.getloadavg()[0]:.1f}")
        return
    print(
        f"{'searcher':12}"
        + "".join(f"{name + ' @30':>16}{'@60':>10}{'worst':>10}" for name in options.functions)
        + f"{'s/ask':>9}"
    )
    for searcher in options.searchers:
        efficiency(searcher, options)
    if options.told:
        print("\nprocessor seconds of two asks after a result; mixed7, 3 and 4 running")
        print(f"{'searcher':12}" + "".join(f"{n:>9} told      " for n in options.told))
        for searcher in options.searchers:
            latency(searcher, options.told)
    print(f"load {os.getloadavg()[0]:.1f}")


def efficiency(searcher: str, options: argparse.Namespace) -> None:
    """Print a line: median regrets over the seeds."""
    line, seconds, n_asks = f"{searcher:12}", 0.0, 0
    for name in options.functions:
        regrets = []
        for seed in range(options.seeds):
            try:
                curve, spent = search(searcher, FUNCTIONS[name], seed, options)
            except ConfigError as error:
                print(f"{searcher}: {error}")
                return
            regrets.append(curve)
            seconds += spent
            n_asks += len(curve)
        found = np.array(regrets)
        half = np.median(found[:, min(29, options.trials - 1)])
        line += f"{half:16.4f}{np.median(found[:, -1]):10.4f}{found[:, -1].max():10.4f}"
    print(f"{line}{seconds / n_asks:9.3f}", flush=True)


def search(
    searcher: str, function: Function, seed: int, options: argparse.Namespace
) -> tuple[list[float], float]:
    """The regret after each end of a trial, in a search by 4 blocks; and seconds of all asks.

    Trials last for a log-normal time of a simulated clock. The regret is the true value of the
    trial that has the best merit so far.
    """
    space = Space.from_tune(function.tune)
    made = make_searcher(searcher, space, seed)
    told: list[Told] = []
    running: dict[int, Params] = {}
    ends: list[tuple[float, int]] = []
    spent, now, asked = 0.0, 0.0, 0
    best, curve = (math.inf, math.inf), []
    while len(curve) < options.trials:
        while len(running) < N_BLOCKS and asked < options.trials:
            start = time.process_time()
            params = made.ask(asked, told, running)
            spent += time.process_time() - start
            assert params is not None
            running[asked] = params
            rng = np.random.default_rng([seed, asked, 1])
            heapq.heappush(ends, (now + rng.lognormal(0, 0.5), asked))
            asked += 1
        now, trial = heapq.heappop(ends)
        params = running.pop(trial)
        value = function.value(**params)
        noise = options.noise * np.random.default_rng([seed, trial, 2]).normal()
        told.append(Told(trial, params, value + noise))
        best = min(best, (value + noise, value))
        curve.append(best[1] - function.minimum)
    return curve, spent


def latency(searcher: str, sizes: Sequence[int]) -> None:
    """Print a line: how long an ask takes."""
    function = FUNCTIONS["mixed7"]
    space = Space.from_tune(function.tune)
    line = f"{searcher:12}"
    for n in sizes:
        rng = np.random.default_rng(0)
        draws = [space.sample(rng) for _ in range(n + 3)]
        told = [Told(i, params, function.value(**params)) for i, params in enumerate(draws[:n])]
        running: dict[int, Any] = dict(enumerate(draws[n:], n))
        try:
            made = make_searcher(searcher, space, 0)
        except ConfigError:
            return
        spent = []
        for trial in (n + 3, n + 4):
            start = time.process_time()
            params = made.ask(trial, told, running)
            spent.append(time.process_time() - start)
            running[trial] = params
        line += f"{spent[0]:9.3f}{spent[1]:10.3f}"
    print(line, flush=True)


def throughput(searcher: str, n_told: int, options: argparse.Namespace) -> None:
    """Print a line: how long blocks wait for the next trial, on the real clock."""
    line = f"{searcher:12}{n_told:12}"
    for n_ahead in options.ahead:
        with tempfile.TemporaryDirectory() as folder, Study.create(Path(folder), {}) as study:
            study.append(*past(n_told))
            waits = emulated(searcher, n_ahead, study, options)
        line += f"{np.mean(waits):9.2%}{np.max(waits):9.2%}"
    print(line, flush=True)


def past(n: int) -> list[Record]:
    """The log of a search with ``n`` results."""
    function, rng = FUNCTIONS["mixed7"], np.random.default_rng(0)
    space = Space.from_tune(function.tune)
    found: list[Record] = []
    for trial in range(n):
        params = space.sample(rng)
        end = {"merit": function.value(**params), "merits": [], "epochs": 1, "seconds": 1.0}
        found += [
            {"event": "asked", "trial": trial, "params": params, "told": 0, "running": []},
            {"event": "finished", "trial": trial, **end, "metrics": {}, "files": {}},
        ]
    return found


def emulated(
    searcher: str, n_ahead: int, study: Study, options: argparse.Namespace
) -> list[float]:
    """Seconds that blocks wait after each result, while trials of about 1 s only pass."""
    function, rng = FUNCTIONS["mixed7"], np.random.default_rng(1)
    made = make_searcher(searcher, Space.from_tune(function.tune), 0)
    limits = Limits(len(study.trials) + options.trials, n_ahead=n_ahead)
    coordinator = Coordinator(made, limits, Never(1), study.records())
    start = time.monotonic()
    events: list[tuple[float, int, Event]] = [
        (start, block, Idle(block)) for block in range(options.blocks)
    ]
    waits: list[float] = []
    while events:
        due, block, event = heapq.heappop(events)
        time.sleep(max(0.0, due - time.monotonic()))
        actions = coordinator.handle(event, due)
        study.append(*(one.record for one in actions if isinstance(one, Write)))
        now = time.monotonic()
        for one in actions:
            if isinstance(one, Start):
                if isinstance(event, Finished):
                    waits.append(now - due)
                end = Finished(block, one.trial, function.value(**one.params), epochs=1)
                heapq.heappush(events, (now + rng.normal(1, 0.1), block, end))
            elif isinstance(one, End):
                return waits
    return waits


if __name__ == "__main__":
    main()
