"""Streaming a large HDF5 set against the same samples held in memory: speed and memory.

    OMP_NUM_THREADS=1 python benchmarks/stream.py [--gb 2] [--rounds 5] [--hidden 512]

A two-layer perceptron in numpy trains on batches of 100 images of 28 x 28 float32. The first
pass streams files that the system's file cache does not hold; the rounds after it alternate.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np

from nnlo.data import Batch, H5Data

BATCH, PIXELS, CLASSES, FILES = 100, 784, 10, 24
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="Streaming HDF5 against arrays in memory.")
    parser.add_argument("--gb", type=float, default=2.0, help="size of the set (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of passes (default: 5)")
    parser.add_argument("--hidden", type=int, default=512, help="hidden units (default: 512)")
    parser.add_argument("--dir", help="where to write the set (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nnlo-stream-", dir=options.dir) as folder:
        run(Path(folder), options.gb, options.rounds, options.hidden)


def run(folder: Path, gb: float, rounds: int, hidden: int) -> None:
    """Write the set, measure and print the table."""
    files = write(folder, int(gb * 1e9 / (4 * (PIXELS + CLASSES))))
    data = H5Data(BATCH)
    data.set_files(files)
    n = data.n_samples
    train(random_batches(20), hidden)  # the arithmetic's own memory is there before we look
    drop_from_cache(files)
    with MemoryPeak() as memory:
        cold = train(data.epoch(0), hidden)
    arrays = in_memory(files, n)
    held, streamed = [], []
    for k in range(rounds):
        held.append(train(shuffled(*arrays, k), hidden))
        streamed.append(train(data.epoch(k), hidden))
    print(f"{n} samples, {gb} GB, {FILES} files, batch {BATCH}, {hidden} hidden units")
    print(f"best of {rounds} rounds{'samples/s':>27}{'ratio':>8}{'CPU us/sample':>15}")
    base = best(held)
    rows = (("in memory", base), ("streamed", best(streamed)), ("streamed, from disk", cold))
    for name, (wall, cpu) in rows:
        print(f"{name:32}{n / wall:12.0f}{base[0] / wall:8.3f}{1e6 * cpu / n:15.2f}")
    print(f"memory grew by {memory.growth / MIB:.0f} MiB while streaming")


def best(times: list[tuple[float, float]]) -> tuple[float, float]:
    """Smallest wall and CPU seconds: what the machine does when nobody disturbs it."""
    return min(wall for wall, _ in times), min(cpu for _, cpu in times)


def write(folder: Path, n: int) -> list[str]:
    """Write ``n`` random samples; return the names of the files."""
    rng, names = np.random.default_rng(0), []
    for k, rows in enumerate(np.array_split(np.arange(n), FILES)):
        names.append(str(folder / f"{k}.h5"))
        with h5py.File(names[-1], "w") as file:
            file["features"] = rng.random((len(rows), PIXELS), np.float32)
            file["labels"] = np.eye(CLASSES, dtype=np.float32)[rows % CLASSES]
    return names


def train(batches: Iterable[Batch], hidden: int) -> tuple[float, float]:
    """One epoch of plain gradient descent; return its wall and CPU seconds."""
    rng = np.random.default_rng(1)
    first = rng.normal(0, 0.05, (PIXELS, hidden)).astype(np.float32)
    second = rng.normal(0, 0.05, (hidden, CLASSES)).astype(np.float32)
    start, cpu = time.perf_counter(), time.process_time()
    for x, y in batches:
        h = np.maximum(x @ first, 0)
        error = (h @ second - y) / np.float32(len(x))
        back = (error @ second.T) * (h > 0)
        second -= np.float32(0.1) * (h.T @ error)
        first -= np.float32(0.1) * (x.T @ back)
    return time.perf_counter() - start, time.process_time() - cpu


def random_batches(n: int) -> Iterator[Batch]:
    for _ in range(n):
        yield np.zeros((BATCH, PIXELS), np.float32), np.zeros((BATCH, CLASSES), np.float32)


def in_memory(files: list[str], n: int) -> Batch:
    x, y = np.empty((n, PIXELS), np.float32), np.empty((n, CLASSES), np.float32)
    at = 0
    for name in files:
        with h5py.File(name) as file:
            size = len(file["labels"])
            file["features"].read_direct(x, np.s_[:], np.s_[at : at + size])
            file["labels"].read_direct(y, np.s_[:], np.s_[at : at + size])
        at += size
    return x, y


def shuffled(x: np.ndarray, y: np.ndarray, seed: int) -> Iterator[Batch]:
    order = np.random.default_rng(seed).permutation(len(x))
    for start in range(0, len(x), BATCH):
        rows = order[start : start + BATCH]
        yield x.take(rows, axis=0), y.take(rows, axis=0)


def drop_from_cache(files: list[str]) -> None:
    """Ask the system to forget the files' contents; a hint that most file systems follow."""
    for name in files:
        with open(name, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class MemoryPeak:
    """Largest growth of this process' resident memory, looked at every 2 ms, in bytes."""

    growth = 0

    def __enter__(self) -> "MemoryPeak":
        self._before = resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.growth = max(self.growth, resident() - self._before)


def resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
