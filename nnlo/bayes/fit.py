"""The training loop of particles: batches, gradients, steps, epochs, checkpoints."""

import logging
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.algo.kernels import is_finite
from nnlo.bayes.chronicle import Sums, measured, note_epoch, warn_of_equals
from nnlo.bayes.feed import Feed, Wish
from nnlo.bayes.fit_settings import FitSettings
from nnlo.bayes.method import Method, Setting, Source, Stepper
from nnlo.bayes.posterior import Posterior
from nnlo.bayes.saving import Progress, restore, write_checkpoint
from nnlo.bayes.seeds import Purpose, at_step, derive
from nnlo.checkpoint import CheckpointStore
from nnlo.data import Data
from nnlo.errors import CheckpointError, ConfigError, DataError, TrainingError
from nnlo.history import History
from nnlo.mpi.serve import handled_signals
from nnlo.mpi.setup import together

if TYPE_CHECKING:
    from nnlo.bayes.particles import Particles

log = logging.getLogger(__name__)

HEAR_S = 1.0
"""Seconds, about, in which ranks of particles that train alone hear of a signal or a failure."""


class Fit:
    """One training of ``particles``; every rank makes one and runs it.

    ``interrupted``: the signal that ended it early. ``history``: on rank 0. ``unsaved``: the
    error of the last checkpoint, where the disk did not take it.
    """

    def __init__(
        self, particles: "Particles", method: Method, data: Data, settings: FitSettings
    ) -> None:
        self.history: History | None = None
        self.interrupted = ""
        self.unsaved: CheckpointError | None = None
        self._particles, self._team = particles, particles.team
        self._method, self._data, self._settings = method, data, settings
        self._progress = Progress(sums=self._no_sums())
        self._left = self._between = 1  # steps until ranks hear of each other
        self._heard = time.perf_counter()
        self._meets = self._team.group is not None or (
            method.meets and self._team.comm is not None
        )

    def run(self) -> Posterior:
        """Train; collective. Raises the same NNLOError on all ranks."""
        particles, team = self._particles, self._team
        self._feed, self._stepper = together(team.comm, self._begin)
        if self._settings.restore is not None:
            self._restore(self._settings.restore)
        else:
            warn_of_equals(particles)
        if team.rank == 0:
            self.history = self._progress.history
        bases = [derive(particles.seed, Purpose.STEP, pid) for pid in particles.pids]
        self._bases = np.array(bases, np.uint64)
        self._gradient = np.empty_like(particles.weights)
        stopped = "epochs"
        with handled_signals(self._note if team.rank == 0 else signal.SIG_IGN):
            while self._progress.epoch < self._settings.epochs:
                if self._epoch():
                    stopped = self.interrupted or "interruption"
                    break
        if self.history is not None:
            self.history.stopped = stopped
        return self._method.posterior(self.source())

    def _restore(self, path: Path) -> None:
        self._progress = restore(self._particles, self._method, self._stepper, path)
        done, wanted = self._progress.epoch, self._settings.epochs
        if done >= wanted:
            raise ConfigError(
                f"epochs must be above the {done} that {path} has behind it, got {wanted}; "
                "ask for more"
            )

    def _begin(self) -> tuple[Feed, Stepper]:
        particles, team, method = self._particles, self._team, self._method
        if team.rank == 0 and self._settings.checkpoint is not None:
            CheckpointStore(self._settings.checkpoint).prepare()
        wish = Wish(
            particles.pids,
            particles.seed,
            shared=method.shares_batches,
            bootstrap=self._settings.bootstrap,
            member=team.member,
            group_size=team.placement.group_size,
        )
        if wish.shared and wish.bootstrap:
            raise ConfigError(
                f"bootstrap must go with particles that train alone, got it with {method.name}, "
                "which has one posterior of all the data; leave it out"
            )
        method.check(particles.adapter)
        feed = Feed(self._data, wish)
        stepper = method.start(
            Setting(
                manifest=particles.adapter.manifest,
                pids=particles.pids,
                n_particles=particles.n,
                n_samples=feed.n_samples,
                n_epochs=self._settings.epochs,
                steps_per_epoch=feed.steps,
                seed=particles.seed,
                leaders=team.leaders,
            )
        )
        return feed, stepper

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.interrupted = f"interruption ({signal.Signals(number).name})"

    def _epoch(self) -> bool:
        """Train for what is left of this epoch; whether the run was stopped."""
        progress = self._progress
        begin = time.perf_counter()
        stops = False
        error: BaseException | None = None
        is_over = False
        with closing(self._feed.epoch(progress.epoch, progress.step)) as batches:
            while not stops:
                if error is None:
                    error, is_over = self._guarded(lambda: self._compute(batches))
                n_failed, n_stopping, n_over = self._meet(error, is_over=is_over)
                if n_failed or n_over:
                    break
                stops = n_stopping > 0
                error, _ = self._guarded(self._move)
        together(self._team.comm, lambda: self._check_epoch(error, n_over))
        stops = bool(self._team.count(bool(self.interrupted))[0])
        progress.time_s += time.perf_counter() - begin
        if progress.step >= self._feed.steps or not stops:
            self._end_epoch()
        is_last = progress.epoch >= self._settings.epochs
        self._save(is_due=stops or is_last or progress.epoch % self._interval == 0)
        return stops and not is_last

    @property
    def _interval(self) -> int:
        return self._settings.checkpoint_interval

    def _guarded(self, work: Callable[[], bool]) -> tuple[BaseException | None, bool]:
        """Do ``work`` and return what it does; what it raises waits until all ranks can hear."""
        try:
            return None, work()
        except BaseException as error:
            if self._team.comm is None:
                raise
            return error, False

    def _compute(self, batches: Any) -> bool:
        """Gradients on the next batch; True where there is none."""
        batch = next(batches, None)
        if batch is None:
            return True
        x, y = batch
        particles, feed = self._particles, self._feed
        clock = self._progress.epoch * feed.steps + self._progress.step
        self._before = particles.state.copy() if self._team.group is not None else particles.state
        self._sums = particles.rows.gradients(
            particles.weights,
            particles.state,
            x,
            y,
            self._gradient,
            at_step(self._bases, clock * self._team.placement.group_size + self._team.member),
            shared=feed.is_shared,
        )
        self._check_finite()
        return False

    def _check_finite(self) -> None:
        bad = ~np.isfinite(self._sums[:, 1])
        if bad.any():
            pid = self._particles.pids[int(np.argmax(bad))]
            raise TrainingError(
                f"the loss must stay finite, got {self._sums[bad, 1][0]} for particle {pid} in "
                f"epoch {self._progress.epoch + 1}; lower the learning rate or check the data"
            )

    def _meet(self, error: BaseException | None, *, is_over: bool) -> tuple[int, int, int]:
        """On how many ranks the step has failed, how many want to stop, how many are through."""
        flags = error is not None, bool(self.interrupted), is_over
        if self._team.comm is None:
            return int(flags[0]), int(flags[1]), int(is_over)
        self._left -= 1
        if not (self._meets or error or is_over) and self._left > 0:
            return 0, 0, 0
        n_failed, n_stopping, n_over, self._left = self._team.count(*flags, self._pace())
        return n_failed, n_stopping, n_over

    def _pace(self) -> int:
        """On rank 0, whose word counts for all, the steps until particles that train alone hear
        of signals and failures again: those of ``HEAR_S``, at most twice as many as before."""
        if self._team.rank > 0:
            return 0
        now = time.perf_counter()
        n_steps = self._between - self._left  # fewer than planned where an epoch ends
        fitting = int(n_steps * HEAR_S / max(now - self._heard, 1e-9))
        self._between = max(1, min(2 * self._between, fitting))
        self._heard = now
        return self._between

    def _check_epoch(self, error: BaseException | None, n_over: int) -> None:
        """Raises what has failed on this rank, or is wrong with what the epoch has left."""
        if error is not None:
            raise error
        n_ranks = self._team.placement.n_ranks
        if self._team.comm is not None and 0 < n_over < n_ranks:
            raise DataError(
                f"all ranks must read as many batches, got fewer on {n_over} of {n_ranks}; "
                "generate_data must yield the same everywhere"
            )
        particles = self._particles
        for pid, weights, state in zip(
            particles.pids, particles.weights, particles.state, strict=True
        ):
            if not (is_finite(weights) and is_finite(state)):
                raise TrainingError(
                    f"weights must stay finite, got others of particle {pid} after epoch "
                    f"{self._progress.epoch + 1}; lower the learning rate or check the data"
                )

    def _move(self) -> bool:
        """Take the step; False, for there may be more."""
        particles, sums = self._particles, self._sums
        if self._team.group is not None:
            self._join_group()
        self._stepper.step(particles.weights, self._gradient)
        self._progress.sums += sums
        self._progress.step += 1
        return False

    def _join_group(self) -> None:
        """Make gradients and states those of the whole batch."""
        particles, sums = self._particles, self._sums
        share = sums[:, :1].astype(np.float32)
        self._gradient *= share
        moved = (particles.state - self._before) * share
        self._team.add_up(self._gradient, moved, sums)
        total = sums[:, :1].astype(np.float32)
        self._gradient /= total
        particles.state[:] = self._before + moved / total

    def _end_epoch(self) -> None:
        progress, particles = self._progress, self._particles
        self._stepper.end_epoch(progress.epoch, particles.weights, particles.state)
        sums = self._team.collect(progress.sums)
        tested = self._validate()
        record = self._stepper.record()
        if self.history is not None:
            numbers: dict[str, float] = {"version": (progress.epoch + 1) * self._feed.steps}
            numbers |= {"learning_rate": self._stepper.rate, **record}
            names = particles.adapter.metric_names
            row = note_epoch(self.history, names, (sums, tested), progress.time_s, numbers)
            for listener in self._settings.listeners:
                listener.epoch_ended(progress.epoch, row)
        progress.sums, progress.step, progress.time_s = self._no_sums(), 0, 0.0
        progress.epoch += 1

    def _validate(self) -> Sums | None:
        """Sums of each particle over the validation data, where they are due; collective."""
        epoch, data = self._progress.epoch + 1, self._settings.validation
        due = epoch % self._settings.validate_every == 0 or epoch == self._settings.epochs
        if data is None or not due:
            return None
        sums = together(self._team.comm, lambda: measured(self._particles, data))
        self._team.add_up(sums)
        return self._team.collect(sums)

    def _no_sums(self) -> Sums:
        particles = self._particles
        return np.zeros((len(particles.pids), 1 + len(particles.adapter.metric_names)))

    def _save(self, *, is_due: bool) -> None:
        base = self._settings.checkpoint
        if base is not None and is_due:
            progress = self._progress
            progress.history = self.history or History()
            try:
                write_checkpoint(self._particles, self._method, self._stepper, progress, base)
                self.unsaved = None
            except CheckpointError as error:  # the same on all ranks
                self.unsaved = error
                if self._team.rank == 0:
                    log.error("%s; the run goes on", error)  # noqa: TRY400

    def source(self) -> Source:
        """The particles of this rank as they are."""
        particles = self._particles
        return Source(
            manifest=particles.adapter.manifest,
            pids=particles.pids,
            n_particles=particles.n,
            seed=particles.seed,
            weights=particles.weights,
            state=particles.state,
            kept=self._stepper.kept(),
            holds=self._team.holds,
        )
