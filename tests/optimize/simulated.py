"""A search with blocks that only pretend to train: virtual time, seeded durations and faults."""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from nnlo.optimize.coordinator import Coordinator
from nnlo.optimize.events import (
    BlockLost,
    Dismiss,
    End,
    Event,
    Failed,
    Finished,
    Idle,
    Interrupted,
    Limits,
    Reported,
    Start,
    Tick,
    Verdict,
    Write,
)
from nnlo.optimize.pruning import Never, Pruner
from nnlo.optimize.searcher import Searcher, Told
from nnlo.optimize.space import Params
from nnlo.optimize.trials import Record


class Guess:
    """A searcher without a model, whose answers depend on all that it is told."""

    name = "guess"

    def __init__(self, seed: int = 0, size: float = math.inf) -> None:
        self.seed = seed
        self.size = size

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        if trial >= self.size:
            return None
        best = min((t.merit for t in told[-50:] if t.merit is not None), default=0.5)
        rng = np.random.default_rng([self.seed, trial, len(told), len(running)])
        x = (best + sum(running) / 997 + rng.random()) % 1
        return {"x": round(x, 9), "n": int(rng.integers(1, 9)), "kind": "ab"[trial % 2]}


def curve(params: Params, epoch: int) -> float:
    """A learning curve that falls with the epochs."""
    x = params["x"]
    assert isinstance(x, float)
    return abs(x - 0.3) + 1 / (1 + epoch)


@dataclass
class Faults:
    """Probabilities, of a trial (by its number) or of an epoch of a block (by its order)."""

    error: float = 0.0
    nan: float = 0.0
    death: float = 0.0
    rebirth: bool = True  # a dead block comes up again
    saves: float = 1.0  # share of epochs with a checkpoint


@dataclass
class Simulation:
    """Blocks that carry out a coordinator's actions, and notes on what they did."""

    n_blocks: int = 4
    n_trials: int = 40
    epochs: int = 1
    seed: int = 0
    faults: Faults = field(default_factory=Faults)
    searcher: Searcher = field(default_factory=Guess)
    pruner: Pruner | None = None
    past: Sequence[Record] = ()
    limits: Limits | None = None
    n_ahead: int = 0
    merit: Callable[[Params, int], float] = curve
    spread: float = 0.4  # of the durations' logarithm
    stop_after: float = math.inf  # events
    interrupt_after: float = math.inf  # events

    def __post_init__(self) -> None:
        pruner = self.pruner or Never(self.epochs)
        limits = self.limits or Limits(
            self.n_trials,
            max_errors_in_a_row=10**9,
            max_failures_in_a_row=10**9,
            n_ahead=self.n_ahead,
        )
        self.coordinator = Coordinator(self.searcher, limits, pruner, self.past)
        self.records: list[Record] = list(self.past)
        self.trained: Counter[tuple[int, int]] = Counter()  # (trial, epoch) -> how often
        self.starts: list[Start] = []
        self.verdicts: list[Verdict] = []
        self.dismissed: set[int] = set()
        self.end: End | None = None
        self.now = 0.0
        self.busy_s = 0.0
        self.n_idle_moments = 0  # events after which a block was free though trials were left
        self.times: list[tuple[float, int, float]] = []  # when, trial, merit
        self._queue: list[tuple[float, int, Event]] = []
        self._order = count()
        self._rng = np.random.default_rng([self.seed, len(self.records)])
        self._running: dict[int, tuple[Start, int]] = {}

    def run(self) -> "Simulation":
        for block in range(self.n_blocks):
            self._later(0.0, Idle(block))
        n_events = 0
        while self._queue and self.end is None and n_events < self.stop_after:
            self.now, _, event = heapq.heappop(self._queue)
            n_events += 1
            if isinstance(event, Idle | Finished | Failed | BlockLost):
                self._running.pop(event.block, None)
            self._obey(self.coordinator.handle(event, self.now))
            if n_events == self.interrupt_after:
                self._obey(self.coordinator.handle(Interrupted("a signal"), self.now))
            is_open = len(self.coordinator.trials) < self.n_trials
            self.n_idle_moments += is_open and self.coordinator.n_idle > 0
        self.coordinator.close()
        return self

    def _later(self, delay: float, event: Event) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), event))

    def _obey(self, actions: Iterable[object]) -> None:
        for action in actions:
            match action:
                case Write(record):
                    self.records.append(record)
                case Start(block):
                    self.starts.append(action)
                    assert block not in self._running, "it is busy"
                    self._train(action, action.from_epoch, action.to_epoch)
                case Verdict(block, trial, verdict, to_epoch):
                    self.verdicts.append(action)
                    self._hear(block, trial, verdict, to_epoch)
                case Dismiss(block):
                    self.dismissed.add(block)
                case End():
                    self.end = action

    def _hear(self, block: int, trial: int, verdict: str, to_epoch: int) -> None:
        start, epoch = self._running.get(block, (None, 0))
        if start is None or start.trial != trial:
            return
        if verdict == "continue":
            self._train(start, epoch, to_epoch)
        else:
            self._later(0.0, Idle(block))

    def _train(self, start: Start, epoch: int, to_epoch: int) -> None:
        """One epoch more; each is reported, the last one as the end."""
        block, trial, total = start.block, start.trial, self.coordinator._pruner.epochs
        self._running[block] = (start, epoch + 1)
        is_broken, is_nan = self._fate(trial)
        delay = math.exp(self.spread * self._rng.normal())
        self.busy_s += delay
        if self._rng.random() < self.faults.death:
            self._later(delay, BlockLost(block, returns=self.faults.rebirth))
            if self.faults.rebirth:
                self._later(delay + 1, Idle(block))
            return
        if is_broken:
            self._later(delay, Failed(block, trial, f"trial {trial} is broken"))
            return
        epoch = min(epoch + 1, total)
        self.trained[trial, epoch] += 1
        merit = math.nan if is_nan else self.merit(start.params, epoch)
        self.times.append((self.now + delay, trial, merit))
        if epoch == total:
            self._later(delay, Finished(block, trial, merit, epochs=epoch, seconds=delay))
        else:
            saved = self._rng.random() < self.faults.saves
            self._later(delay, Reported(block, trial, epoch, merit, {"loss": merit}, saved))

    def _fate(self, trial: int) -> tuple[bool, bool]:
        """Whether it raises, whether its merit is nan; the same whenever it is tried."""
        if not self.faults.error and not self.faults.nan:
            return False, False
        is_broken, is_nan = np.random.default_rng([self.seed, 7, trial]).random(2)
        return bool(is_broken < self.faults.error), bool(is_nan < self.faults.nan)


def proposals(records: Iterable[Record]) -> list[Params]:
    return [record["params"] for record in records if record["event"] == "asked"]


def ends(records: Iterable[Record]) -> Counter[int]:
    """How often each trial came to an end."""
    over = ("finished", "failed")
    return Counter(
        record["trial"]
        for record in records
        if record["event"] in over or record.get("verdict") == "stop"
    )


__all__ = ["Faults", "Guess", "Simulation", "Tick", "curve", "ends", "proposals"]
