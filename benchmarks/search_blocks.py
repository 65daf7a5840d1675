"""What a search over MPI costs its blocks: trials that only sleep; see README.md."""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from search import FUNCTIONS

from nnlo.mpi import link
from nnlo.optimize.attempt import Part
from nnlo.optimize.events import Limits
from nnlo.optimize.pruning import Never
from nnlo.optimize.search import Plan, Search
from nnlo.optimize.searcher import SEARCHERS, make_searcher
from nnlo.optimize.space import Space
from nnlo.optimize.teller import Voice
from nnlo.optimize.wire import PartEnd

SPREAD = 0.2  # of the logarithm of a trial's seconds


class Sleeper:
    """Trains nothing: a trial sleeps, then has the function's value. Notes when, in ``file``."""

    def __init__(self, function: str, seconds: float, file: Path) -> None:
        self._value = FUNCTIONS[function].value
        self._seconds = seconds
        self._file = file

    def __call__(self, part: Part, voice: Voice) -> PartEnd | None:
        if not part.is_first:
            return None
        rng = np.random.default_rng(part.trial)
        begin = time.time()
        end = begin + self._seconds * float(np.exp(SPREAD * rng.normal()))
        while (left := end - time.time()) > 0:
            if voice.verdict():
                return PartEnd("left")
            time.sleep(min(left, 0.05))
        with self._file.open("a") as stream:
            stream.write(json.dumps([part.trial, begin, time.time()]) + "\n")
        return PartEnd("done", merits=(self._value(**part.params),), epochs=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searcher", default="bayesian", choices=[*SEARCHERS])
    parser.add_argument("--function", default="mixed7", choices=[*FUNCTIONS])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a trial, the median")
    parser.add_argument("--ahead", type=int, default=0, help="as --ask-ahead")
    options = parser.parse_args()
    comm = link.world()
    if comm is None:
        parser.error("start it on rank 0 and some blocks: nnlorun -n 17")
    name = tempfile.mkdtemp() if comm.rank == 0 else ""
    folder = Path(comm.bcast(name))
    plan = None
    if comm.rank == 0:
        space = Space.from_tune(FUNCTIONS[options.function].tune)
        searcher = make_searcher(options.searcher, space, 0)
        limits = Limits(options.trials, n_ahead=options.ahead)
        plan = Plan(space, searcher, limits, Never(1), ("merit",), {"space": space.to_json()})
    perform = Sleeper(options.function, options.seconds, folder / f"rank-{comm.rank}")
    search = Search(comm, folder, perform, plan)
    begin, worked = time.time(), time.process_time()
    search.run()
    if comm.rank == 0:
        share = (time.process_time() - worked) / (time.time() - begin)
        _show(folder, options, share)
    search.close()


def _show(folder: Path, options: argparse.Namespace, share: float) -> None:
    print(f"{options.searcher}, ahead {options.ahead}; load {os.getloadavg()[0]:.1f}")
    blocks = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted(folder.glob("rank-*"))
    ]
    for first, last in _ranges(options.trials):
        gaps, seconds = [], 0.0
        for block in blocks:
            for before, after in itertools.pairwise(block):
                if first <= after[0] < last:
                    gaps.append(after[1] - before[2])
                    seconds += after[2] - after[1]
        idle = sum(gaps)
        print(
            f"trials {first:4d} to {last:4d}: blocks idle for {idle / (idle + seconds):7.3%}, "
            f"between two trials {median(gaps) * 1e3:6.1f} ms (median), "
            f"{max(gaps) * 1e3:6.1f} ms (most)"
        )
    print(f"rank 0 took {share:.1%} of a core")


def _ranges(n: int) -> Iterator[tuple[int, int]]:
    """The first trials of each block have nothing before them."""
    for first in range(0, n, 200):
        yield first, min(n, first + 200)


if __name__ == "__main__":
    main()
