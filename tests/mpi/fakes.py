"""A model, data and observers that need no backend, for tests of the loops."""

from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from nnlo.data import Data
from nnlo.model.manifest import Entry, Manifest

N_FEATURES = 3


class LinearModel:
    """Least squares on N_FEATURES weights, and a state S that follows the mean of x."""

    suffix = ".fake"
    metric_names = ("loss",)
    has_gradient = True
    has_test_step = True
    is_variational = False
    learning_rate = 0.1

    def __init__(self, with_state: bool = True) -> None:
        entries = [Entry("model", "w", (N_FEATURES,), "T", 0)]
        if with_state:
            entries.append(Entry("model", "mean", (1,), "S", N_FEATURES))
        self.manifest = Manifest(entries)
        self.flat = np.zeros(self.manifest.size, np.float32)
        self.rng = 0
        self.n_resets = 0

    def get_flat(self, out: Any) -> None:
        out[:] = self.flat

    def set_flat(self, vector: Any) -> None:
        self.flat[:] = vector

    def gradient(self, batch: Any, out: Any) -> Any:
        x, y = batch
        error = x @ self.flat[:N_FEATURES] - y
        out[:N_FEATURES] = 2 * x.T @ error / len(x)
        if self.manifest.n_state:
            out[N_FEATURES:] = 0.9 * self.flat[N_FEATURES:] + 0.1 * x.mean()
        self.rng += 1
        return np.array([len(x), float(error @ error)])

    def train_step(self, batch: Any) -> Any:
        gradient = np.zeros_like(self.flat)
        sums = self.gradient(batch, gradient)
        self.apply_gradient(gradient)
        return sums

    def apply_gradient(self, vector: Any) -> None:
        self.flat[:N_FEATURES] -= np.float32(self.learning_rate) * vector[:N_FEATURES]
        self.flat[N_FEATURES:] = vector[N_FEATURES:]

    def test_step(self, batch: Any) -> Any:
        x, y = batch
        error = x @ self.flat[:N_FEATURES] - y
        return np.array([len(x), float(error @ error)])

    def seed(self, seed: int) -> None:
        self.rng = seed

    def local_state(self) -> dict[str, Any]:
        return {"rng": np.array(self.rng)}

    def load_local_state(self, state: dict[str, Any]) -> None:
        self.rng = int(state["rng"])

    def reset_optimizer(self) -> None:
        self.n_resets += 1

    def save(self, path: Path) -> list[Path]:
        path.write_bytes(self.flat.tobytes())
        return [path]

    def summary(self) -> str:
        return "linear"


class LineData(Data):
    """``n`` samples of a noiseless line in two "files"; remembers which samples it gave out."""

    def __init__(self, n: int, batch_size: int, **options: Any) -> None:
        super().__init__(batch_size, **options)
        rng = np.random.default_rng(5)
        self.x = rng.normal(size=(n, N_FEATURES)).astype(np.float32)
        self.y = self.x @ np.float32([1.0, -2.0, 0.5])
        self.set_files([f"0:{n // 3}", f"{n // 3}:{n}"])
        self.seen: list[tuple[int, float]] = []

    def load_data(self, file: str) -> Any:
        rows = slice(*(int(edge) for edge in file.split(":")))
        return self.x[rows], self.y[rows]

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        for x, y in super().epoch(epoch, skip):
            self.seen += [(epoch, float(value)) for value in y]
            yield x, y


class JointData(LineData):
    """What ``n_shards`` trainers of a LineData see at one step, as the batches of one."""

    def __init__(self, n: int, batch_size: int, n_shards: int) -> None:
        super().__init__(n, batch_size)
        self.parts = [LineData(n, batch_size) for _ in range(n_shards)]
        for index, part in enumerate(self.parts):
            part.set_shard(index, n_shards)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        steps = zip_longest(*(part.epoch(epoch) for part in self.parts))
        for together in islice(steps, skip, None):
            batches = [batch for batch in together if batch is not None]
            yield tuple(np.concatenate(side) for side in zip(*batches, strict=True))


class Silent:
    """An observer that only remembers."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int]] = []
        self.states: dict[int, bytes] = {}
        self.refusals: list[Any] = []

    def counted(self, child: int, header: Any, tail: Any, staleness: int) -> None:
        self.counts.append((child, header.n_samples))

    def refused(self, master: Any, refusals: Any) -> None:
        self.refusals += refusals

    def stepped(self, master: Any) -> None: ...

    def state_came(self, child: int, state: bytes, leaves: bool) -> None:
        self.states[child] = state
