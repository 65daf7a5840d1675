"""What faults do to real runs: hundreds of them, one fault at a random moment of each.

The runs and what is asked of them are in tests/distributed: cases.py, injector.py, verdict.py.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fault_tables import read, table  # noqa: E402
from tests.distributed import cases, injector, verdict  # noqa: E402
from tests.distributed.conftest import Run  # noqa: E402

Record = dict[str, Any]
Draw = Callable[[int], cases.Case]


def main() -> int:
    """Run what is asked for; the exit code says whether all runs ended as promised."""
    options = build_parser().parse_args()
    if options.table:
        print(table(read(options.table)))
        return 0
    if options.exact:
        return int(not all([exact(case, options.exact) for case in SMALL]))
    if options.overhead:
        return int(not overhead(SMALL[1], options.overhead))
    draw = cases.undisturbed if options.undisturbed else cases.draw
    seeds = options.undisturbed or options.seeds
    records = campaign(draw, seeds, options.jobs, options.results, options.keep)
    return int(any(record["problems"] for record in records))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--seeds", type=numbers, default=range(224), metavar="A-B,C", help="runs with a fault")
    add("--undisturbed", type=numbers, metavar="A-B,C", help="runs without one, to compare with")
    add("--jobs", type=int, default=2, help="runs at a time (default 2)")
    add("--results", type=Path, default=Path("faults.jsonl"), help="a line for each run")
    add("--keep", type=Path, help="where the folders of runs with problems go")
    add("--table", type=Path, metavar="RESULTS", help="show the tables of these results")
    add("--exact", type=int, metavar="KILLS", help="kill a job so often: does it end the same?")
    add("--overhead", type=int, metavar="PAIRS", help="what --fault-tolerant costs without faults")
    return parser


def numbers(text: str) -> list[int]:
    """``a-b``, b among them, or ``a``, or several of these with commas between."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


# Many runs ------------------------------------------------------------------------------------


def campaign(
    draw: Draw, seeds: Iterable[int], n_jobs: int, results: Path, keep: Path | None
) -> list[Record]:
    """Run the seeds that ``results`` does not hold yet, and add them to it."""
    runs = [draw(seed) for seed in seeds]
    known = {(r["seed"], r["fault"] == "none") for r in read(results)}
    runs = [case for case in runs if (case.seed, case.fault == "none") not in known]
    begun, found = time.monotonic(), []
    with ThreadPoolExecutor(n_jobs) as pool:
        futures = [pool.submit(run_one, case, keep) for case in runs]
        for done, future in enumerate(as_completed(futures), 1):
            record = future.result()
            found.append(record)
            with results.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            left = (time.monotonic() - begun) / done * (len(runs) - done)
            print(f"{describe(record)}; {left / 60:.0f} min left", flush=True)
    return found


def run_one(case: cases.Case, keep: Path | None) -> Record:
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        found = verdict.run_case(case, folder)
        if found.problems and keep is not None:
            shutil.copytree(folder, keep / f"{case.fault[:4]}-{case.seed}", dirs_exist_ok=True)
        return found.record()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def describe(record: Record) -> str:
    about = [record[name] for name in ("seed", "shape", "mode", "fault", "n_ranks")]
    what = "; ".join(record["problems"]) or "as promised"
    return f"{about} at {record['moment']}: {record['codes']} {record['seconds']} s: {what}"


# One run again and again ----------------------------------------------------------------------


SMALL = [
    cases.Case(3, "synchronous star", "downpour", "none", 3, 0, 1.0),
    cases.Case(3, "star", "downpour", "none", 2, 0, 1.0),
]
"""A synchronous star, and a single worker: what is restored there must be exact."""
EXACT_EPOCHS = 60


def exact(case: cases.Case, n_kills: int) -> bool:
    """Kill all processes of a run at random moments, restore it, compare with an undisturbed one.

    In turn nnlorun is left alone and starts the run again by --max-restarts, or is killed too.
    """
    chance = random.Random(case.n_ranks)
    words = ("--epochs", EXACT_EPOCHS, "--param", "pause=0.005", *cases.SAVING)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        whole, cut = Path(name, "whole"), Path(name, "cut")
        for folder in (whole, cut):
            folder.mkdir()
            injector.write_data(folder)
        wait(injector.begin(case, whole, *words))
        n_killed = n_starts = 0
        code: int | None = None
        while code != 0:
            restores = ("--restore", "cp") if checkpoints(cut) else ()
            run = injector.begin(case, cut, *words, *restores, restarts=1)
            n_starts += 1
            try:
                for spared in ([run.process.pid], []):
                    if n_killed < n_kills and await_training(run, cut, chance):
                        injector.send(set(run.processes()) - set(spared), signal.SIGKILL)
                        n_killed += 1
                code = run.ended(300.0).code
            finally:
                run.close()
            print(f"{case.shape}: {n_killed} killed, {len(checkpoints(cut))} files", flush=True)
        return compare(case, n_killed, outcome(whole), outcome(cut))


def await_training(run: Run, folder: Path, chance: random.Random) -> bool:
    """Wait till up to three more epochs have been done; False where the run has ended."""
    target = injector.progress(folder) + chance.uniform(0.0, 3.0) / cases.EPOCHS
    while run.process.poll() is None and injector.progress(folder) < target:
        time.sleep(0.01)
    return run.process.poll() is None


def wait(run: Run) -> None:
    try:
        ended = run.ended(600.0)
        assert ended.code == 0, ended.output
    finally:
        run.close()


def checkpoints(folder: Path) -> list[Path]:
    return [*folder.glob("runs/*/checkpoints/cp-*.npz")]


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same bit for bit: weights, best weights, history but for times."""
    run = next(folder.glob("runs/*/history.json")).parent
    history = json.loads((run / "history.json").read_text())
    times = ("time_s", "samples_per_s", "busy_s", "wait_s", "train_time_s")
    parts: dict[str, Any] = {}
    for name in ("weights.npz", "best.weights.npz"):
        with np.load(run / name) as arrays:
            parts[name] = [arrays[key].tobytes() for key in sorted(arrays.files)]

    def timeless(rows: list[Record]) -> list[Record]:
        return [{k: v for k, v in row.items() if k not in times} for row in rows]

    parts["epochs"] = timeless(history["epochs"])
    parts["ranks"] = {rank: timeless(rows) for rank, rows in history["ranks"].items()}
    parts["best"] = history["best"]
    return parts


def compare(case: cases.Case, n_killed: int, one: Record, other: Record) -> bool:
    unequal = [name for name in one if one[name] != other[name]]
    print(
        f"{case.shape}, {case.n_ranks} ranks, {EXACT_EPOCHS} epochs, killed {n_killed} times: "
        f"{'unequal ' + ', '.join(unequal) if unequal else 'equal bit for bit'}",
        flush=True,
    )
    return not unequal


def overhead(case: cases.Case, n_pairs: int) -> bool:
    """Samples per second with --fault-tolerant against those without, in turn."""
    ratios = {}
    for width in (32, 20_000):
        epochs = 40 if width == 32 else 6
        found = []
        for index in range(n_pairs):
            turn = (True, False) if index % 2 else (False, True)
            rates = {tolerant: rate(case, width, epochs, tolerant) for tolerant in turn}
            found.append(rates[True] / rates[False])
            print(f"{width}: {found[-1]:.3f}", flush=True)
        low, median, high = np.percentile(found, (25, 50, 75))
        ratios[width] = median
        print(
            f"{case.shape}, {75 * width + 10:,} weights: {median:.3f} of the rate without "
            f"(quartiles {low:.3f} to {high:.3f}, {len(found)} pairs)"
        )
    return all(ratio > 0.97 for ratio in ratios.values())


def rate(case: cases.Case, width: int, epochs: int, tolerant: bool) -> float:
    """Samples per second of the epochs after the first, which compiles."""
    words = ("--epochs", epochs, "--param", "pause=0", f"width={width}")
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        injector.write_data(Path(name))
        wait(injector.begin(case, Path(name), *words, tolerant=tolerant))
        file = next(Path(name).glob("runs/*/history.json"))
        rows = json.loads(file.read_text())["epochs"][1:]
    return sum(row["samples"] for row in rows) / sum(row["time_s"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
