"""What the root knows beyond the weights: epochs, validation, stopping, history.

Epochs are counted in samples: one ends when as many samples have been applied as the training
data holds, whatever the number of workers and the size of their updates.
"""

import copy
import logging
import math
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np

from nnlo.algo import kernels
from nnlo.algo.base import Vector
from nnlo.checkpoint import Checkpoint
from nnlo.errors import CheckpointError, TrainingError
from nnlo.history import History, Record
from nnlo.mpi.evaluate import Background
from nnlo.mpi.frame import N_TIMES, Header
from nnlo.mpi.master import Master
from nnlo.mpi.plan import RootPlan
from nnlo.mpi.refusal import Refusal, RefusalBook
from nnlo.mpi.saving import Draft, Saver, check_end, is_sound
from nnlo.mpi.spikes import Spikes
from nnlo.mpi.tally import count_rank

log = logging.getLogger(__name__)

LAST_VALIDATION_S = 1.5
"""Seconds that a validation under way may still take after an interruption."""


class Root:
    """Observes the root master; validation runs in ``background``."""

    def __init__(self, plan: RootPlan, background: Background, saver: Saver | None = None) -> None:
        self.history = History()
        self.best: Vector | None = None
        self.snapshot: Vector | None = None  # weights of the record that is being finished
        self.interrupted = ""  # set by a signal: its name
        self.unsaved: CheckpointError | None = None  # why the last checkpoint is not there
        self._plan = plan
        self.background = background
        self._saver = saver
        self._samples = 0  # applied since the start of the run
        self._epoch = 0  # complete ones
        self._first_epoch = 0  # where the workers began
        self._places: dict[int, int] = {}  # epoch in which each child is
        self._refused = RefusalBook(plan.max_refused)
        self._spikes = Spikes()
        self._sums = np.zeros(1 + len(plan.metric_names))
        self._staleness = np.zeros(2)  # updates of this epoch, sum of their staleness
        self._evaluation: tuple[Future[Any], Vector, Record] | None = None
        self._earlier_s = 0.0
        self._earlier_ranks: dict[str, list[Record]] = {}
        self._started = self._epoch_started = 0.0
        self._master: Master | None = None
        self._is_captured = False
        self._is_left = False

    @property
    def n_samples(self) -> int:
        """Samples of an epoch."""
        return self._plan.n_samples

    @property
    def progress(self) -> float:
        """Epochs of samples applied since the start of the run."""
        return self._samples / self._plan.n_samples

    @property
    def metric_names(self) -> list[str]:
        """Names of a whole record's metrics, those of the validation among them."""
        names, validates = self._plan.metric_names, self._plan.validate is not None
        return [*names, *(f"val_{name}" for name in names if validates)]

    def restore(self, checkpoint: Checkpoint, whole_epochs: bool = False) -> None:
        """Go on from the clock and the history of a checkpoint.

        whole_epochs: the workers begin the epoch anew, since nobody knows where they were.
        """
        meta = checkpoint.meta
        self.history = History.from_json(meta["history"])
        self.history.stopped = ""
        self._epoch = self._first_epoch = meta["least_epoch" if whole_epochs else "epoch"]
        # The end of a run may have added a record of an epoch that now goes on.
        self.history.epochs = [r for r in self.history.epochs if r["epoch"] <= self._epoch]
        self.best = checkpoint.arrays.get("best")
        if whole_epochs:
            self._samples = self._epoch * self._plan.n_samples
            self._sums[:] = 0.0
            self._staleness[:] = 0.0
        else:
            self._samples = meta["samples"]
            self._sums[:] = meta["sums"]
            self._staleness[:] = meta["staleness"]
        self._earlier_s = self.history.train_time_s

    def begin(self, master: Master, follows: "Root | None" = None) -> None:
        """The workers start now; follows: the root before this one, whose ranks were lost."""
        self._master = master
        self._earlier_ranks = copy.deepcopy(self.history.ranks)  # of the run that goes on
        self._started = self._epoch_started = time.perf_counter()
        for listener in self._plan.listeners:
            if follows is None:
                listener.begin(self, master)
            else:
                listener.goes_on(self, master)
            listener.epoch_began(self._epoch)
        if follows is not None:
            self.interrupted = follows.interrupted
            self._is_left = follows._is_left
            if follows.history.stopped:
                self.stop(master, follows.history.stopped)

    # What the master reports ------------------------------------------------------------------

    def counted(self, child: int, header: Header, tail: Vector, staleness: int) -> None:
        """An update of ``child`` has been applied."""
        self._places[child] = header.epoch
        self._samples += header.n_samples
        self._sums += tail[N_TIMES:]
        self._staleness += [1, staleness]
        self._refused.applied()
        known = header._replace(sender=self._plan.number(header.sender))
        loss = float(tail[N_TIMES + 1] / tail[N_TIMES])
        self._spikes.watch(loss, known.sender, self._epoch + 1)
        count_rank(self.history, known, tail, self._plan.metric_names)

    def refused(self, master: Master, refusals: Sequence[Refusal]) -> None:
        """What was refused is lost, but its samples have had their turn in this epoch."""
        self._samples += sum(one.n_samples for one in refusals)
        known = [one._replace(rank=self._plan.number(one.rank)) for one in refusals]
        self._refused.note(known, self.history, master.version)

    def stepped(self, master: Master) -> None:
        """The version has grown by one."""
        if not np.isfinite(self._sums[1]):
            raise TrainingError(
                f"the loss must be finite, got {self._sums[1]} at version {master.version}; "
                "lower the learning rate"
            )
        logs = self._means()
        for listener in self._plan.listeners:
            listener.updated(master.version, int(self._sums[0]), logs)
        self._follow_clock(master)

    def _follow_clock(self, master: Master) -> None:
        epoch = self._samples // self._plan.n_samples
        if epoch > self._epoch:
            self._end_epoch(master, epoch)

    def state_came(self, child: int, state: bytes, leaves: bool) -> None:
        if self._saver:
            self._saver.take(child, state, leaves)

    # Epochs -----------------------------------------------------------------------------------

    def _end_epoch(self, master: Master, epoch: int) -> None:
        """``epoch`` epochs are complete; a large update may have completed several at once."""
        plan = self._plan
        # At most one validation at a time: where it is slower than training, training waits
        # here, so that every epoch has its result.
        self._collect(master, wait=True)
        record = self._record(master, epoch)
        before, self._epoch = self._epoch, epoch
        last = epoch >= plan.n_epochs
        every = plan.checkpoint_every
        if self._saver and (epoch // every > before // every or last):
            self._saver.poll(master.active)
            draft = self._draft(master)
            if is_sound(draft):
                master.ask_states(self._saver.begin(draft))
        every = plan.validate_every
        self._validate(master, record, due=epoch // every > before // every or last)
        if not last and not master.stopping:
            for listener in plan.listeners:
                listener.epoch_began(epoch)

    def _record(self, master: Master, epoch: int) -> Record:
        now = time.perf_counter()
        time_s = max(now - self._epoch_started, 1e-9)
        n_updates, staleness = self._staleness
        record = {
            "epoch": epoch,
            **self._means(),
            "samples": int(self._sums[0]),
            "time_s": time_s,
            "samples_per_s": float(self._sums[0]) / time_s,
            "version": master.version,
            "learning_rate": master.half.learning_rate,
            "staleness": float(staleness / max(n_updates, 1)),
        }
        if self._plan.kl is not None:
            schedule, n_samples = self._plan.kl
            record["kl_weight"] = schedule.before(epoch) / n_samples
        self._sums[:] = 0.0
        self._staleness[:] = 0.0
        self._epoch_started = now
        return record

    def _means(self) -> dict[str, float]:
        # Where all samples have been refused, nothing is known of them.
        means = self._sums[1:] / self._sums[0] if self._sums[0] else self._sums[1:] + np.nan
        return {name: float(v) for name, v in zip(self._plan.metric_names, means, strict=True)}

    def _validate(self, master: Master, record: Record, due: bool) -> None:
        if self._plan.validate is None or not due:
            self._finish_record(master, record)
            return
        snapshot = master.weights.copy()
        self._evaluation = (
            self.background.submit(self._plan.validate, snapshot),
            snapshot,
            record,
        )
        self._collect(master)

    def _collect(self, master: Master, wait: bool = False) -> None:
        if self._evaluation is None or not (wait or self._evaluation[0].done()):
            return
        future, snapshot, record = self._evaluation
        self._evaluation = None
        try:
            record |= future.result()
        except CancelledError:
            log.warning("epoch %d has no validation: the run was interrupted", record["epoch"])
        else:
            self._keep_best(snapshot, record)
        self.snapshot = snapshot
        self._finish_record(master, record)
        self.snapshot = None

    def _keep_best(self, snapshot: Vector, record: Record) -> None:
        metric, best = self._plan.monitor, self.history.best
        smaller_is_better = not self._plan.larger_is_better

        def cost(value: float) -> float:
            return math.inf if math.isnan(value) else value if smaller_is_better else -value

        if not kernels.is_finite(snapshot):
            return
        if best is None or best["metric"] != metric or cost(record[metric]) < cost(best["value"]):
            self.best = snapshot
            self.history.best = {
                "metric": metric,
                "value": record[metric],
                "epoch": record["epoch"],
            }

    def _finish_record(self, master: Master, record: Record) -> None:
        self.history.epochs.append(record)
        for listener in self._plan.listeners:
            listener.epoch_ended(record["epoch"] - 1, record)
        for stopper in self._plan.stoppers:
            if stopper.reached(self.history.values(stopper.metric)):
                self.stop(master, str(stopper))
        if self._saver:
            rate = master.half.learning_rate  # a callback may just have changed it
            self._saver.validated(record["epoch"], self._history_text(), self.best, rate)

    # The run ----------------------------------------------------------------------------------

    def stop(self, master: Master, reason: str) -> None:
        """End the run; ``reason`` goes into the history."""
        if not master.stopping:
            self.history.stopped = reason
            log.info("stopping in epoch %d: %s", self._epoch + 1, reason)
            if not self._is_captured:  # else the next root tells the workers, there are others
                master.stop()

    def leave(self, master: Master, reason: str) -> None:
        """End a run whose result nobody waits for: it can go on later, as after a signal, but
        what it did in an unfinished epoch is not validated."""
        self._is_left = True
        self.stop(master, reason)

    def poll(self, master: Master) -> None:
        """Take up what has happened beside the loop: validation results, signals."""
        if self.interrupted:
            self.stop(master, self.interrupted)
        self._collect(master)
        if master.error is None:
            self._follow_clock(master)  # an epoch may have ended with a refusal
        if self._saver:
            self._saver.poll(master.active)

    def finish(self, master: Master) -> None:
        """All children have left: last validation, last checkpoint, the history's end.

        Raises TrainingError where all that the workers did was refused, or the final weights
        are not finite and there are no best ones.
        """
        self._refused.check(master.version)
        self._follow_clock(master)
        draft = self._draft(master)
        if self.interrupted and self._evaluation is not None:
            futures.wait([self._evaluation[0]], timeout=LAST_VALIDATION_S)
            self.background.cancelled.set()
        self._collect(master, wait=True)
        is_whole = not (self.interrupted or self._is_left)
        if self._sums[0] and is_whole:  # samples beyond the last whole epoch
            self._validate(master, self._record(master, self._epoch + 1), due=True)
            self._collect(master, wait=True)
        self.history.stopped = self.history.stopped or "epochs"
        self._history_text()
        if self._saver:
            draft.results = (self._history_text(), self.best, master.half.learning_rate)
            self._saver.finish(draft if is_sound(draft) else None)
            self.unsaved = self._saver.unsaved
        check_end(draft.arrays["weights"], self.best is not None)
        for listener in self._plan.listeners:
            listener.end()

    def join(self, books: Mapping[str, Sequence[Record]]) -> None:
        """Put what sub-masters have noted of workers in the place of what was heard of them."""
        if books:
            self.history.ranks = self._earlier_ranks
            self.history.add_ranks(books)

    @property
    def has_begun(self) -> bool:
        return self._master is not None

    def capture(self) -> Checkpoint:
        """The present state for a new root, as in a file but without the workers' states.

        After ``begin``. Waits for a validation under way; raises what has ended the run.
        """
        assert self._master is not None
        if self._master.error is not None:
            raise self._master.error
        self._is_captured = True
        self._collect(self._master, wait=True)
        draft = self._draft(self._master)
        best = {} if self.best is None else {"best": self.best}
        half = self._master.half
        clock = {
            "epoch": draft.epoch,
            "version": draft.version,
            "history": self._history_text(),
            "learning_rate": half.learning_rate,
            "base_learning_rate": self._master.base_learning_rate,
        }
        return Checkpoint(draft.arrays | best, draft.meta | clock)

    def _least_epoch(self, master: Master) -> int:
        """The epoch that is to begin anew where the work is dealt out anew: that of the child
        which is the last in its data, so that nothing is forgotten."""
        places = [self._places.get(child, 0) for child in master.active]
        return max(min(places, default=self._epoch), self._first_epoch)

    def _history_text(self) -> str:
        self.history.train_time_s = self._earlier_s + time.perf_counter() - self._started
        return self.history.to_json()

    def _draft(self, master: Master) -> Draft:
        state = {f"algo/{name}": np.copy(value) for name, value in master.state().items()}
        return Draft(
            self._epoch,
            master.version,
            {"weights": master.weights.copy()} | state,
            {
                "least_epoch": self._least_epoch(master),
                "samples": self._samples,
                "sums": self._sums.tolist(),
                "staleness": self._staleness.tolist(),
            },
            set(master.active),
            copy.deepcopy(self.history.ranks),
        )
