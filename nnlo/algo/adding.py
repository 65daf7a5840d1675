"""The master half of algorithms whose workers have done all the arithmetic: EASGD, GEM."""

from collections.abc import Sequence

from nnlo.algo import kernels
from nnlo.algo.base import Merge, State, Update, Vector
from nnlo.algo.recipe import load_slots, samples, vectors


class AddingMaster:
    """Adds the merged updates to the weights, and remembers nothing.

    learning_rate: what callbacks and schedules change for the workers; the updates that come
    have been scaled by it already, so that no arithmetic is done with it here.
    """

    def __init__(self, learning_rate: float, merge: Merge) -> None:
        self.learning_rate = learning_rate
        self._merge = merge

    def apply(self, weights: Vector, updates: Sequence[Update], out: Vector) -> None:
        vector, scale = kernels.merged(self._merge, vectors(updates), samples(updates))
        kernels.add(weights, vector, scale, out)

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None:
        load_slots("this master", {}, state)
