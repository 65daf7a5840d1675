"""What must be true of a run in which the injector has done its worst."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.distributed import injector
from tests.distributed.cases import (
    BATCH,
    EPOCHS,
    EXACT,
    FAULTS,
    N_TRAIN,
    ORDERED,
    Case,
    draw,
)
from tests.distributed.conftest import Ended, Run

GRACE_S = 60.0
"""How long after its expected end a run counts as hanging."""

CORES = len(os.sched_getaffinity(0))


@dataclass
class Verdict:
    """problems: kinds (hang, code, words, left, history, lost) with what was seen."""

    case: Case
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    done: str = "too late"
    accuracy: float | None = None
    samples: int | None = None
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: object, kind: str, text: str) -> None:
        if not holds:
            self.problems.append(f"{kind}: {text}")

    def record(self) -> dict[str, Any]:
        ended = {name: getattr(self, name) for name in ("codes", "done", "accuracy", "samples")}
        about = {"seconds": round(self.seconds, 1), "problems": self.problems}
        return self.case.record() | ended | about


def run_case(case: Case, folder: Path) -> Verdict:
    """Run it in an empty folder and judge it; nothing of it is left running."""
    verdict = Verdict(case)
    injector.write_data(folder)
    begun = time.monotonic()
    first = _start(case, folder, verdict)
    outputs = [first.output]
    if FAULTS[case.fault].again and not verdict.problems:
        if FAULTS[case.fault].damage:
            injector.cut_newest_checkpoint(folder)
        is_saved = any((folder / "runs").glob("*/checkpoints/cp-*.npz"))
        more = ("--restore", "cp") if is_saved else ("--seed", case.seed % 1000)
        outputs.append(_start(case, folder, verdict, *more).output)
    verdict.seconds = time.monotonic() - begun
    text = "\n".join(outputs)
    (folder / "output.txt").write_text(text)
    if not any(problem.startswith("hang") for problem in verdict.problems):
        _judge_codes(verdict)
        _judge_words(verdict, text)
        _judge_files(verdict, folder)
        if verdict.codes[-1:] == [0]:
            _judge_history(verdict, folder, text)
    return verdict


def _start(case: Case, folder: Path, verdict: Verdict, *more: object) -> Ended:
    """Start it, strike if this is the first start, and wait for its end."""
    run = injector.begin(case, folder, *more)
    begun = time.monotonic()
    busy = max(1.0, os.getloadavg()[0] / (3 * CORES))  # other programs take their share
    limit_s = busy * case.limit_s + GRACE_S
    try:
        if case.order:
            verdict.done = "ordered"
        elif not more and injector.await_moment(case, run, folder, limit_s):
            verdict.done = injector.strike(case, run, folder)
        while run.process.poll() is None and time.monotonic() - begun < limit_s:
            time.sleep(0.02)
        code = run.process.poll()
        if code is None:
            verdict.expect(False, "hang", f"not ended within {limit_s:.0f} s")
            (folder / "stacks.txt").write_text(_stacks(run))
        else:
            verdict.codes.append(code)
            _judge_processes(verdict, run)
        return Ended(-1 if code is None else code, run.output)
    finally:
        run.close()


def _stacks(run: Run) -> str:
    """Where every process of the run is, by py-spy where that is installed."""
    texts = []
    for rank, pid in injector.ranks_of(run).items():
        words = ["py-spy", "dump", "--nonblocking", "--pid", str(pid)]
        try:
            found = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
            texts.append(f"-- rank {rank}\n{found.stdout}{found.stderr}")
        except (OSError, subprocess.TimeoutExpired) as error:
            texts.append(f"-- rank {rank}: {error}")
    return "\n".join(texts)


def _judge_processes(verdict: Verdict, run: Run) -> None:
    is_killed = FAULTS[verdict.case.fault].do == "end"
    deadline = time.monotonic() + (15.0 if is_killed else 3.0)
    while (left := run.processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    verdict.expect(not left, "left", f"processes {left}")


def _judge_codes(verdict: Verdict) -> None:
    fault, codes = FAULTS[verdict.case.fault], verdict.codes
    late = (0,) if verdict.done == "too late" or fault.do in ("cut", "stop") else ()
    allowed = (*fault.codes, *late)
    verdict.expect(codes[0] in allowed, "code", f"{codes[0]} instead of {allowed}")
    if len(codes) > 1:
        verdict.expect(codes[1] == 0, "code", f"{codes[1]} of the second start")


def _judge_words(verdict: Verdict, text: str) -> None:
    fault = FAULTS[verdict.case.fault]
    errors = [line for line in text.splitlines() if "error:" in line]
    n_tracebacks = text.count("Traceback (most recent call last)")
    is_done = verdict.done != "too late" and verdict.codes[0] in fault.codes
    tracebacks = fault.tracebacks if is_done else 0
    verdict.expect(n_tracebacks == tracebacks, "words", f"{n_tracebacks} tracebacks")
    expected = sum(code == 1 for code in verdict.codes)
    # Ranks that have lost one that they need say so before nnlorun starts them again.
    excused = sum("start it again" in line for line in errors) if fault.restarts else 0
    verdict.expect(
        len(errors) - excused == expected, "words", f"{len(errors)} errors: {errors[:3]}"
    )
    if is_done and fault.says:
        verdict.expect(re.search(fault.says, text), "words", f"nothing like {fault.says!r}")


def _judge_files(verdict: Verdict, folder: Path) -> None:
    """No temporary file, no lock that is held."""
    parts = [*folder.glob("runs/**/.*.part")]
    is_killed = verdict.codes[-1] == -9
    verdict.expect(is_killed or not parts, "left", f"{parts}")
    temporary = [*(folder / "tmp").glob("nnlorun-*")]
    verdict.expect(-9 in verdict.codes or not temporary, "left", f"{temporary}")
    for lock in folder.glob("runs/*/.lock"):
        deadline = time.monotonic() + 2.0  # a process is gone from /proc before it lets go
        while (is_held := _is_held(lock)) and time.monotonic() < deadline:
            time.sleep(0.05)
        verdict.expect(not is_held, "left", f"{lock} is held")


def _is_held(lock: Path) -> bool:
    with lock.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _judge_history(verdict: Verdict, folder: Path, text: str) -> None:
    file = next(folder.glob("runs/*/history.json"), None)
    if file is None:
        verdict.expect(False, "history", "none was written")
        return
    history = json.loads(file.read_text())
    epochs = [row["epoch"] for row in history["epochs"]]
    whole = [*range(1, EPOCHS + 1)]
    # Where others begin anew, or stop in the middle of an epoch, a short record may follow.
    verdict.expect(epochs[:EPOCHS] == whole, "history", f"epochs {epochs}")
    rows = [row for own in history["ranks"].values() for row in own]
    verdict.samples = sum(row["samples"] for row in rows)
    verdict.accuracy = history["epochs"][-1].get("val_accuracy")
    verdict.expect(verdict.accuracy is not None, "history", "no validation at the end")
    _judge_samples(verdict, rows, history["epochs"], folder, text)


def _judge_samples(
    verdict: Verdict,
    rows: list[dict[str, Any]],
    epochs: list[dict[str, Any]],
    folder: Path,
    text: str,
) -> None:
    """None is lost; in a star none counts twice."""
    case, total = verdict.case, N_TRAIN * EPOCHS
    counted = sum(row["samples"] for row in epochs)
    refused = sum(row.get("refused", 0) for row in rows)
    most_refused = refused * BATCH * 10 * (2 if case.shape == "rings" else 1)
    goes_on = verdict.done != "too late" and (
        FAULTS[case.fault].again or FAULTS[case.fault].restarts
    )
    if case.shape in EXACT and not goes_on:
        lost = total - (verdict.samples or 0)
        verdict.expect(0 <= lost <= most_refused, "lost", f"{lost} of {total} by the ranks' rows")
        verdict.expect(counted == verdict.samples, "lost", f"epochs count {counted}")
    elif not goes_on:
        verdict.expect(
            counted >= total - most_refused, "lost", f"epochs count {counted} of {total}"
        )
    seen = trained(folder)
    times = min(seen.get(index, 0) for index in range(N_TRAIN))
    verdict.expect(times >= EPOCHS, "lost", f"a sample was trained on {times} times")
    if goes_on and case.shape in ORDERED:
        after = [int(k) for k in re.findall(r"going on (?:after epoch|in epoch) (\d+)", text)]
        needed = EPOCHS - max(after, default=0)
        _judge_last_start(verdict, folder, needed)


def _judge_last_start(verdict: Verdict, folder: Path, n_epochs: int) -> None:
    files = sorted((folder / "trace").iterdir(), key=lambda file: file.stat().st_mtime)
    seen = trained(folder, files[-verdict.case.n_trainers :])
    times = min(seen.get(index, 0) for index in range(N_TRAIN))
    verdict.expect(times >= n_epochs, "lost", f"{times} times in the last start, not {n_epochs}")


def trained(folder: Path, files: list[Path] | None = None) -> Counter[int]:
    """How often each sample was trained on, as all processes have noted, or those of ``files``."""
    found: Counter[int] = Counter()
    for path in files or (folder / "trace").iterdir():
        found.update(np.fromfile(path, np.float32).astype(int).tolist())
    return found


if __name__ == "__main__":
    seed, where = int(sys.argv[1]), Path(sys.argv[2])
    where.mkdir(parents=True)
    print(json.dumps(run_case(draw(seed), where).record(), indent=1))
