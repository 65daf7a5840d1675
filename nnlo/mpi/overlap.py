"""Reductions that begin while the gradient is still being computed.

A backward pass ends with the first layers, so the gradient is reduced from its end on, in
buckets of whole tensors (Li et al. 2020, "PyTorch Distributed", arXiv:2006.15704, section 3.2).
All ranks begin the buckets in the same order, whatever order their gradients come in. What
travels are sums over samples: how many samples the others have need not be known.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.algo.base import Vector
from nnlo.errors import ConfigError
from nnlo.model.adapter import Batch, EarlyGradient, ModelAdapter
from nnlo.model.manifest import Manifest
from nnlo.mpi import link, ulfm
from nnlo.mpi.frame import Frame
from nnlo.mpi.refusal import Refusal
from nnlo.mpi.ring import Member
from nnlo.mpi.ringend import RingEnd

if TYPE_CHECKING:
    from mpi4py import MPI

BUCKET_BYTES = 25 << 20

Ready = Callable[[Vector, int, int], None]
"""Told ``vector, start, stop``: that part of the sum of this rank's gradients is complete."""


def check_overlap(adapter: ModelAdapter) -> None:
    """Raise ConfigError where the gradient comes all at once."""
    if not isinstance(adapter, EarlyGradient):
        raise ConfigError(
            f"overlap must come with a native torch model, got {type(adapter).__name__}, whose "
            "backend hands the gradient over as a whole; leave overlap out"
        )


def buckets(manifest: Manifest, limit: int = BUCKET_BYTES) -> list[slice]:
    """Cut ``[T | S]`` into parts of whole tensors, in the order of their reduction.

    T from its end on, each part of at most ``limit`` bytes unless a single tensor is longer;
    then S.
    """
    cuts: list[slice] = []
    start = stop = manifest.n_trainable
    for entry in reversed([one for one in manifest.entries if one.kind == "T"]):
        if start < stop and 4 * (stop - entry.offset) > limit:
            cuts.append(slice(start, stop))
            stop = start
        start = entry.offset
    cuts.append(slice(start, stop))
    if manifest.n_state:
        cuts.append(slice(manifest.n_trainable, manifest.size))
    return cuts


class EarlyMember(Member):
    """A member that says which parts of the sum of its gradients are ready, as they come."""

    _adapter: Any  # a ModelAdapter that is an EarlyGradient

    def __init__(self, ready: Ready, *args: Any, **named: Any) -> None:
        """ready: told of the last batch before a reduction. Then as for Member."""
        super().__init__(*args, **named)
        self._ready = partial(ready, self._up.vector)

    def _train(self, batch: Batch, epoch: int, index: int) -> None:
        # Where an epoch ends before sync_every batches, no batch is known to be the last.
        is_last = self._n_steps + 1 == self._plan.sync_every
        sums = self._adapter.gradient_sum(
            batch, self._up.vector, self._ready if is_last else None, adds=self._n_steps > 0
        )
        self._add(sums, epoch, index)

    def _vet(self) -> None:
        """Name itself where its loss is not finite; its gradient may be on its way already, so
        that all ranks refuse the sum."""
        if self._sums[0] and not np.isfinite(self._sums[1]):
            norm = float(self._sums[1])
            self._refusals.append(Refusal(self.rank, *self._place, 0, 0, norm))


class EarlyRing(RingEnd):
    """The end of an ``EarlyMember``, which hands sums of gradients instead of means to it.

    buckets: a communicator of the same ranks as ``ring``, on which nothing else goes on between
    a vector's first ``ready`` and its exchange.
    """

    def __init__(
        self,
        ring: "MPI.Intracomm",
        buckets: "MPI.Intracomm",
        down: Frame,
        cuts: list[slice],
        n_trainable: int,
    ) -> None:
        """cuts: of the vectors, see ``buckets``."""
        super().__init__(ring, down)
        self._comm = buckets
        self._cuts = cuts
        self._n_trainable = n_trainable
        self._reset()

    def _reset(self) -> None:
        self._missing = [cut.stop - cut.start for cut in self._cuts]
        self._begun: list[MPI.Request] = []

    def ready(self, vector: Vector, start: int, stop: int) -> None:
        """Begin what can begin now that ``vector[start:stop]`` is complete."""
        for index, cut in enumerate(self._cuts):
            if cut.start <= start < stop <= cut.stop:
                self._missing[index] -= stop - start
        while len(self._begun) < len(self._cuts) and not self._missing[len(self._begun)]:
            self._begin_next(vector)
        with ulfm.losses(self._comm):
            for request in self._begun:
                request.Test()  # MPI moves data within calls only

    def _begin_next(self, vector: Vector) -> None:
        part = vector[self._cuts[len(self._begun)]]
        self._begun.append(link.begin_to_add_up(self._comm, part))

    def _average(self, vector: Vector, n_samples: int, total: int) -> None:
        vector[self._n_trainable :] *= np.float32(n_samples)  # S is no sum
        self._add_up(vector)
        vector /= np.float32(total)

    def _add_up(self, vector: Vector) -> None:
        while len(self._begun) < len(self._cuts):
            self._begin_next(vector)
        for request in self._begun:
            request.Wait()  # not politely: since the vote all members are there
        self._reset()

    def _give_up(self, up: Frame) -> Frame:
        self._add_up(up.vector)  # a reduction that any rank has begun ends where all join it
        return super()._give_up(up)
