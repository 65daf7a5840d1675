"""Whole runs in one process on the models and data of ``fakes.py``: root, master, workers."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnlo.algo import Algorithm, Downpour
from nnlo.algo.optimizers import SGD
from nnlo.checkpoint import Checkpoint, CheckpointStore, read
from nnlo.mpi.evaluate import Background, evaluate
from nnlo.mpi.frame import up_frame
from nnlo.mpi.loopback import Loopback, run_in_process
from nnlo.mpi.master import Master
from nnlo.mpi.plan import RootPlan
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.root import Root
from nnlo.mpi.saving import Saver
from nnlo.mpi.worker import Worker
from nnlo.mpi.workerplan import WorkerPlan, load_worker_state
from tests.mpi.fakes import LinearModel, LineData

SGD_005 = Downpour(SGD(learning_rate=0.05))
TIMES = ("time_s", "samples_per_s", "busy_s", "wait_s", "train_time_s")


def validate(weights: Any) -> dict[str, float]:
    """The loss on nine other samples."""
    return evaluate(LinearModel(), LineData(9, 4), weights)


@dataclass
class Job:
    """One run. restore: a checkpoint to go on from. plan: more fields of RootPlan. bad: samples
    whose label is not a number."""

    n_workers: int = 1
    n_epochs: int = 3
    n_samples: int = 23
    batch: int = 4
    algo: Algorithm = SGD_005
    quorum: float | None = None
    validate: Callable[[Any], dict[str, float]] | None = validate
    folder: Path | None = None
    restore: Checkpoint | None = None
    whole_epochs: bool = False
    in_line: bool = True
    model: LinearModel = field(default_factory=LinearModel)
    plan: dict[str, Any] = field(default_factory=dict)
    bad: Sequence[int] = ()

    def __post_init__(self) -> None:
        background = Background(self.in_line)
        saver = None
        if self.folder is not None:
            about = {"base_learning_rate": self.algo.learning_rate}
            saver = Saver(CheckpointStore(self.folder / "cp"), background, about)
        plan = {"metric_names": ("loss",), "validate": self.validate} | self.plan
        self.root = Root(RootPlan(self.n_samples, self.n_epochs, **plan), background, saver)
        manifest = self.model.manifest
        protocol = MasterProtocol(range(self.n_workers), self.quorum)
        self.link, half = Loopback(), self.algo.master(manifest.n_trainable, self.n_workers)
        weights, version = np.zeros(manifest.size, np.float32), 0
        if self.restore:
            weights, version = self.restore.arrays["weights"], self.restore.meta["version"]
        self.master = Master(manifest, half, protocol, self.link, self.root, weights, version)
        if self.restore:
            half.load_state(self.restore.part("algo/"))
            half.learning_rate = self.restore.meta["learning_rate"]
            self.root.restore(self.restore, self.whole_epochs)

    def worker(self, index: int, weights: Any) -> Worker:
        """weights: those from which it will run."""
        data, model = LineData(self.n_samples, self.batch), copy.deepcopy(self.model)
        data.y[list(self.bad)] = np.nan
        data.set_shard(index, self.n_workers)
        half = self.algo.worker(model.manifest.n_trainable, self.n_workers)
        start = (0, 0)
        if self.restore:
            state = self.restore.part(f"worker/{index}/")
            start = (self.restore.meta["epoch"], 0)
            if state:
                start = load_worker_state(state, model, half, weights)
        return Worker(
            index,
            model,
            data,
            half,
            up_frame(model.manifest, 2, 1 << 16)(),
            WorkerPlan(
                n_epochs=self.n_epochs,
                sync_every=self.algo.sync_every,
                trains_locally=self.algo.trains_locally,
                base_rate=self.model.learning_rate,
                pulls=self.algo.pulls,
                start=start,
                version=self.master.version,
                sends_state=self.folder is not None,
            ),
        )

    def run(
        self,
        order: Callable[[Sequence[int]], int] = min,
        *,
        interrupt_at: int | None = None,
        stop_at: int | None = None,
    ) -> "Job":
        """Train to the end, or as if a signal or a stop had come at this version."""
        root, master = self.root, self.master
        starts = [master.weights.copy() for _ in range(self.n_workers)]
        runs = {i: self.worker(i, weights).run(weights) for i, weights in enumerate(starts)}

        def poll() -> None:
            if interrupt_at is not None and master.version >= interrupt_at:
                root.interrupted = "SIGINT"
            root.poll(master)
            if stop_at is not None and master.version >= stop_at:
                root.stop(master, "asked")

        with root.background:
            root.begin(master)
            run_in_process(master, self.link, runs, order, poll)
            if master.error is not None:
                raise master.error
            root.finish(master)
        return self

    @property
    def history(self) -> Any:
        return self.root.history

    def files(self) -> list[str]:
        assert self.folder is not None
        return sorted(path.name for path in self.folder.iterdir())

    def checkpoint(self, name: str) -> Checkpoint:
        assert self.folder is not None
        return read(self.folder / name)


def timeless(content: Any) -> Any:
    """A history's content without what the clock says."""
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if key not in TIMES}
    return [timeless(value) for value in content] if isinstance(content, list) else content
