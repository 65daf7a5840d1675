"""Losses that are far above what was usual just before: a sign of bad data or too high a rate."""

import logging
import math

log = logging.getLogger(__name__)

KEPT = 0.99
"""Of the running moments at each update: about the last hundred updates count."""
WARM_UP = 50
"""Updates before anything is called a spike."""
N_DEVIATIONS, FACTOR = 6.0, 2.0
"""A spike is more than so many deviations above the mean, and more than so many times it."""


class Spikes:
    """Exponential mean and deviation of the loss of each update, in constant time.

    A spike enters the moments as the most that is none, so that one does not hide the next and
    a new level still becomes the usual one.
    """

    def __init__(self) -> None:
        self.mean = 0.0
        self._variance = 0.0
        self._n = 0
        self._n_spikes = 0

    def see(self, loss: float) -> bool:
        """Count one update's loss; return whether it is a spike. ``mean`` is that before it."""
        limit = max(self.mean + N_DEVIATIONS * math.sqrt(self._variance), FACTOR * self.mean)
        is_spike = self._n >= WARM_UP and loss > limit
        self._n += 1
        weight = max(1.0 - KEPT, 1.0 / self._n)  # a plain mean at first
        change = (limit if is_spike else loss) - self.mean
        self.mean += weight * change
        self._variance = (1.0 - weight) * (self._variance + weight * change * change)
        return is_spike

    def watch(self, loss: float, rank: int, epoch: int) -> None:
        """``see``, and warn of the 1st, 2nd, 4th, 8th ... spike. epoch: from 1."""
        usual = self.mean
        if not self.see(loss):
            return
        self._n_spikes += 1
        if self._n_spikes & (self._n_spikes - 1) == 0:
            log.warning(
                "the loss of rank %d in epoch %d is %.4g where %.4g is usual; %d such updates so "
                "far",
                *(rank, epoch, loss, usual, self._n_spikes),
            )
