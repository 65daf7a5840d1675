"""Starts the runs of the cases, waits for the moment of the fault, and strikes."""

import json
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from sklearn.datasets import load_digits

from tests.distributed.cases import (
    BATCH,
    EPOCHS,
    FAULTS,
    MODES,
    N_TRAIN,
    SHAPES,
    TRAINING_S,
    Case,
)
from tests.distributed.conftest import Run, command


def write_data(folder: Path, n_files: int = 6) -> None:
    """Digits with the number of each sample as its last feature."""
    x, y = load_digits(return_X_y=True)
    x = np.column_stack([x / 16.0, np.arange(len(x))]).astype(np.float32)
    labels = np.eye(10, dtype=np.float32)[y]
    order = np.random.default_rng(0).permutation(len(x))
    x, labels = x[order], labels[order]
    x[:N_TRAIN, -1] = np.arange(N_TRAIN)
    parts = {"train": (0, N_TRAIN, n_files), "test": (N_TRAIN, len(x), 1)}
    for name, (start, stop, n) in parts.items():
        files = [f"{name}_{index}.h5" for index in range(n)]
        edges = np.linspace(start, stop, n + 1).astype(int)
        for file, a, b in zip(files, edges, edges[1:], strict=False):
            with h5py.File(folder / file, "w") as h5:
                h5["features"], h5["labels"] = x[a:b], labels[a:b]
        (folder / f"{name}.list").write_text("\n".join(files))


def begin(case: Case, folder: Path, *more: object, **launch: Any) -> Run:
    """Start it in ``folder``, with its fault's orders unless there are ``more`` words.

    launch: tolerant and restarts, where they are not the fault's.
    """
    (folder / "trace").mkdir(exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    env = {"NNLO_TRACE": str(folder / "trace"), "TMPDIR": str(folder / "tmp")}
    if case.order and not more:
        env["NNLO_FAULT"] = json.dumps(case.order)
    return Run(
        [*_launch_words(case, **launch), *_train_words(case), *map(str, more)], folder, **env
    )


def _launch_words(
    case: Case, tolerant: bool | None = None, restarts: int | None = None
) -> list[str]:
    fault = FAULTS[case.fault]
    tolerant = fault.tolerant if tolerant is None else tolerant
    restarts = fault.restarts if restarts is None else restarts
    words = command(case.n_ranks)
    at = words.index("-m", words.index("-m") + 1)
    flags = ["--fault-tolerant"] if tolerant else []
    flags += ["--max-restarts", str(restarts)] if restarts else []
    return [*words[:at], *flags, *words[at:]]


def _train_words(case: Case) -> list[str]:
    fault = FAULTS[case.fault]
    pause = TRAINING_S * case.n_trainers * BATCH / (EPOCHS * N_TRAIN)
    words = [
        *("--model", Path(__file__).with_name("victim.py"), "--param", f"pause={pause:.4f}"),
        *("--train-data", "train.list", "--val-data", "test.list"),
        *("--epochs", EPOCHS, "--batch", BATCH, "--seed", case.seed % 1000),
        *("--suspect-after", fault.suspect_after, *SHAPES[case.shape].words, *MODES[case.mode]),
        *(("--spares", case.spares) if case.spares else ()),
        *fault.words,
    ]
    return [*map(str, words)]


def progress(folder: Path) -> float:
    """The share of the training that has been done, by what the ranks have noted."""
    sizes = [entry.stat().st_size for entry in os.scandir(folder / "trace")]
    return sum(sizes) / 4 / (N_TRAIN * EPOCHS)


def ranks_of(run: Run) -> dict[int, int]:
    """The process of each rank that has one."""
    found: dict[int, int] = {}
    for pid in sorted(run.processes()):
        with suppress(OSError, StopIteration, IndexError):
            lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            rank = next(line for line in lines if line.startswith(b"OMPI_COMM_WORLD_RANK="))
            found.setdefault(int(rank.split(b"=")[1]), pid)
    return found


def await_moment(case: Case, run: Run, folder: Path, limit_s: float) -> bool:
    """Wait for the moment of the fault; False where the run ended or hung before."""
    begun = time.monotonic()
    while run.process.poll() is None and time.monotonic() - begun < limit_s:
        if case.moment < 0:  # a share of the time that a start takes
            late = time.monotonic() - begun > -case.moment * (1.0 + 0.8 * case.n_ranks)
            if late and ranks_of(run).keys() >= set(case.victims):
                return True
        elif progress(folder) >= case.moment:
            return True
        time.sleep(0.01)
    return False


def strike(case: Case, run: Run, folder: Path) -> str:
    """Do what the case says, now; returns what was done."""
    do = FAULTS[case.fault].do
    ranks = ranks_of(run)
    pids = [ranks[victim] for victim in case.victims if victim in ranks]
    if do == "kill":
        send(pids, signal.SIGKILL)
    elif do == "freeze":
        send(pids, signal.SIGSTOP)
        if case.freeze_s is not None:
            time.sleep(case.freeze_s)
            send(pids, signal.SIGCONT)
    elif do == "cut":
        file = folder / "train_0.h5"
        os.truncate(file, file.stat().st_size // 2)
    elif do == "stop":
        send([run.process.pid], signal.SIGTERM)
    elif do == "end":
        send(run.processes(), signal.SIGKILL)
    return f"{do} {list(case.victims)} {pids}"


def send(pids: Iterable[int], number: int) -> None:
    """A signal to those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def cut_newest_checkpoint(folder: Path) -> None:
    """Leave half of it, where there is one before it."""
    files = sorted((folder / "runs").glob("*/checkpoints/cp-*.npz"))
    if len(files) > 1:
        os.truncate(files[-1], files[-1].stat().st_size // 2)
