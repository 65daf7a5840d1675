"""Rings: ranks that make up one worker, each with a shard of its own, and one reduction a step.

All members see the same weights, the same end and the same errors at the same step. A member
whose data of an epoch has ended takes part with nothing until the others are through, so that
shards need not be equal. In ``allreduce`` mode all ranks are one ring and nobody is above it.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice

import numpy as np

from nnlo.algo import kernels
from nnlo.algo.base import Vector
from nnlo.model.adapter import Batch
from nnlo.mpi.agenda import after
from nnlo.mpi.frame import N_TIMES, Flag, Frame, Header, Kind
from nnlo.mpi.refusal import pack_refusals, read_extra
from nnlo.mpi.worker import Worker


class Member(Worker):
    """The part of one rank in a worker: yields REDUCE frames besides what a worker yields.

    The answer to a REDUCE is the same frame with the mean over all members, weighted by
    samples, in its vector, their sums in its tail and their samples in its header. Every
    member yields the same messages; that of the ring's leader goes up.
    """

    def run(self, weights: Vector) -> Generator[Frame, Frame, None]:
        self._begin(weights)
        first, done = self._position
        for epoch in range(first, self._plan.n_epochs):
            skip = done if epoch == first else 0
            own = np.random.SeedSequence([self._plan.seed, epoch]).generate_state(1)[0]
            self._adapter.seed(int(own))
            with closing(self._data.epoch(epoch, skip)) as batches:
                if (yield from self._run_epoch(epoch, enumerate(batches, skip))):
                    break
            self._position = (epoch + 1, 0)
        else:
            yield from self._wind_up()
        yield self._message(Kind.BYE)

    def _begin(self, weights: Vector) -> None:
        self._done = np.zeros_like(self._sums)  # of all members since the last exchange
        self._n_reduced = 0
        self._is_joint = True
        ends = {self._data.n_batches(shard) for shard in range(self._data.n_shards)}
        self._end = ends.pop() if len(ends) == 1 else None  # of all members alike
        super()._begin(weights)

    def _run_epoch(
        self, epoch: int, batches: Iterator[tuple[int, Batch]]
    ) -> Generator[Frame, Frame, bool]:
        """Train until no member has data of ``epoch``; True where the run has ended."""
        local = self._plan.trains_locally
        whole = None if self._kl is None else self._data.n_batches(self._data.shard_index)
        while True:
            self._sums[:] = 0.0
            # Gradients at equal weights may be summed up before they are reduced.
            for index, batch in islice(batches, 1 if local else self._plan.sync_every):
                if self._kl is not None:
                    self._kl.begin(epoch, index, whole)
                self._take(batch, epoch, index)
                self._position = after(epoch, index, self._end)
                if not np.isfinite(self._sums[1]):
                    break
            reduced = yield self._to_reduce()
            header = reduced.header
            refused = bool(header.flags & Flag.REFUSED)
            self._refusals = read_extra(reduced)[0]
            self._count(reduced)
            if header.flags & Flag.STOP:
                yield from self._wind_up()
                return True
            if not header.n_samples and not refused:
                return False
            due = self._n_reduced >= (self._plan.sync_every if local else 1)
            if (due or refused or not np.isfinite(self._done[1])) and (
                yield from self._exchange()
            ):
                return True

    def _take(self, batch: Batch, epoch: int, index: int) -> None:
        if self._plan.trains_locally and self._adapter.has_gradient:
            self._add(self._adapter.gradient(batch, self._up.vector), epoch, index)
        else:
            self._train(batch, epoch, index)

    def _to_reduce(self) -> Frame:
        """What this member has, in the frame; a model's own step is shared as weights."""
        if self._plan.trains_locally and not self._adapter.has_gradient:
            self._adapter.get_flat(self._up.vector)
        self._vet()
        self._up.header = Header(
            Kind.REDUCE,
            Flag.REFUSED if self._refusals else Flag(0),
            self.rank,
            n_samples=int(self._sums[0]),
            layout=self._layout,
            n_extra=self._up.set_extra(pack_refusals(self._refusals)),
        )
        return self._up

    def _vet(self) -> None:
        """Take part with nothing where what this member has is not finite."""
        if not self._sums[0] or self._is_finite():
            return
        self._is_joint = False
        self._refuse()
        self._is_joint = True
        if self._plan.trains_locally and not self._adapter.has_gradient:
            self._adapter.reset_optimizer()  # it has made the step; others have not

    def _is_finite(self) -> bool:
        return bool(np.isfinite(self._sums[1])) and kernels.is_finite(self._up.vector)

    def _count(self, reduced: Frame) -> None:
        """Note what all members have done, and make the step that follows from it."""
        local = self._plan.trains_locally
        if not reduced.header.n_samples:
            # Where all have refused, S or a model's own steps may be ruined on some of them: all
            # refuse what they have done since the last exchange.
            if reduced.header.flags & Flag.REFUSED:
                self._done[1] = np.nan
            return
        self._done += self._sums
        self._n_reduced += 1
        if not local:
            return
        if self._is_finite():
            self._step(reduced)
        else:  # nobody has made a step that is not finite
            self._done[1] = np.nan

    def _step(self, reduced: Frame) -> None:
        if self._adapter.has_gradient:
            self._adapter.apply_gradient(reduced.vector)
        else:
            self._adapter.set_flat(reduced.vector)
        if self._kl is not None:
            self._kl.state_came(reduced.vector)

    def _collect(self) -> None:
        self._sums[:] = self._done
        # Where nothing has been reduced since the last exchange there is nothing to send.
        self._n_steps = self._n_reduced
        super()._collect()

    def _wind_up(self) -> Generator[Frame, Frame, None]:
        self._n_steps = self._n_reduced
        yield from super()._wind_up()

    def _reset(self) -> None:
        super()._reset()
        self._done[:] = 0.0
        self._n_reduced = 0


def reduce_in_process(frames: Sequence[Frame]) -> None:
    """What a ring's reduction does, for members in one process; in rank order."""
    headers = [frame.header for frame in frames]
    total = sum(header.n_samples for header in headers)
    vector = np.zeros_like(frames[0].vector)
    for frame, header in zip(frames, headers, strict=True):
        if header.n_samples:
            vector += frame.vector * np.float32(header.n_samples)
    if total:
        vector /= np.float32(total)
    sums = np.sum([frame.tail[N_TIMES:] for frame in frames], axis=0)
    refusals = pack_refusals([one for frame in frames for one in read_extra(frame)[0]])
    flags = Flag(0)
    for header in headers:
        flags |= header.flags
    for frame, header in zip(frames, headers, strict=True):
        frame.vector[:] = vector
        frame.tail[N_TIMES:] = sums
        n_extra = frame.set_extra(refusals)
        frame.header = header._replace(n_samples=total, flags=flags, n_extra=n_extra)


def ring_in_process(
    members: Sequence[Generator[Frame, Frame, None]],
) -> Generator[Frame, Frame, None]:
    """One worker made of ``members``, of which the first leads, all in this process."""
    messages = [next(member) for member in members]
    while True:
        if messages[0].header.kind is Kind.REDUCE:
            reduce_in_process(messages)
            answers = messages
        else:
            down = yield messages[0]
            answers = [down] * len(members)
        try:
            messages = [
                member.send(answer) for member, answer in zip(members, answers, strict=True)
            ]
        except StopIteration:
            return
