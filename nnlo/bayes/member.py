"""A particle as its handlers see it."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnlo.algo.optimizers import Optimizer, OptimizerState
from nnlo.bayes.future import Future
from nnlo.errors import ConfigError

Vector = NDArray[np.float32]


class Post(Protocol):
    """What carries the wishes of the particles of a rank."""

    def send(self, sender: "Member", to: int, name: str, args: Sequence[Any]) -> Future: ...

    def meet(self, member: "Member", kind: str, value: Any) -> Future: ...

    def gradient(self, member: "Member", batch: Any) -> Future: ...

    def outputs(self, member: "Member", x: Any) -> Any: ...


class Member:
    """One particle of a society; handlers get it as their first argument.

    pid: its number, from 0 to n - 1. rng: its generator, of the seed and ``pid``. state: a
    dict for whatever handlers want to remember. Nothing here depends on the rank it lives on.
    """

    def __init__(
        self, pid: int, n: int, weights: Vector, rng: np.random.Generator, post: Post
    ) -> None:
        self.pid = pid
        self.n = n
        self.rng = rng
        self.state: dict[str, Any] = {}
        self.rule: Optimizer | None = None
        self._memory: OptimizerState | None = None
        self._weights = weights
        self._post = post

    @property
    def weights(self) -> Vector:
        """Its weights, (n_weights,) float32, to read and write; ``weights = x`` copies."""
        return self._weights

    @weights.setter
    def weights(self, values: Any) -> None:
        self._weights[...] = values

    def others(self) -> list[int]:
        """The numbers of all other particles."""
        return [pid for pid in range(self.n) if pid != self.pid]

    def send(self, pid: int, name: str, *args: Any) -> Future:
        """Have particle ``pid``, maybe this one, handle ``name``; the future has the answer.

        ``args`` are copied at once. Messages of one particle to another arrive in order. Raises
        ConfigError for an unknown particle or name, or a value that cannot be sent.
        """
        return self._post.send(self, pid, name, args)

    def view(self, pid: int) -> Future:
        """A copy of the weights of another particle, as they are when it is asked."""
        return self._post.send(self, pid, VIEW, ())

    def gather(self, value: Any) -> Future:
        """The ``value`` of every particle, a list by number; all particles must call it.

        Arrays in it are read-only: all particles of a rank share them.
        """
        return self._post.meet(self, "gather", value)

    def allreduce(self, value: Any) -> Future:
        """The sum of a number or array over all particles, all of which must call it.

        Added up in float64 in the order of the particles, so it is the same on any ranks;
        rounded to the type of ``value``. The array is read-only.
        """
        return self._post.meet(self, "allreduce", np.asarray(value))

    def barrier(self) -> Future:
        """None, once all particles have called it."""
        return self._post.meet(self, "barrier", None)

    def gradient(self, batch: Any) -> Future:
        """The gradient of the mean loss over a batch ``(x, y)``, and that loss.

        Particles of a rank that ask in the same round share the computation where the backend
        can.
        """
        return self._post.gradient(self, batch)

    def outputs(self, x: Any) -> Any:
        """What its model says to ``x``, in inference mode: arrays, samples along axis 0."""
        return self._post.outputs(self, x)

    async def step(self, batch: Any) -> float:
        """Take one step of the society's optimizer along the gradient; the loss before it."""
        gradient, loss = await self.gradient(batch)
        if self.rule is None:
            raise ConfigError(
                "a step must have an optimizer, got None; make Society(..., optimizer='adam')"
            )
        if self._memory is None:
            self._memory = self.rule.init(self._weights.size)
        self.rule.update(self._memory, self._weights, gradient, self._weights)
        return float(loss)


VIEW = "view"
"""The message of ``Member.view``; handlers of users cannot take its name."""


def show(member: Member) -> Vector:
    """The handler of ``VIEW``."""
    return member.weights
