"""Seeds that depend on what they are for, never on the rank that uses them."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What random numbers are drawn for; part of every seed, so that no two agree."""

    INIT = 0
    ORDER = 1
    BOOTSTRAP = 2
    STEP = 3
    DRAW = 4
    MASK = 5
    MESSAGE = 6


def derive(seed: int, purpose: Purpose, *numbers: int) -> int:
    """A seed below 2^32 for one purpose; ``numbers``: of a particle, an epoch, a draw..."""
    return int(np.random.SeedSequence([seed, purpose, *numbers]).generate_state(1)[0])


def generator(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """A generator of its own for one purpose."""
    return np.random.default_rng([seed, purpose, *numbers])


def at_step(bases: NDArray[np.uint64], clock: int) -> NDArray[np.uint64]:
    """A seed below 2^32 for each base at a step: the finaliser of splitmix64 (Steele 2014)."""
    with np.errstate(over="ignore"):
        z = (bases << np.uint64(32)) + np.uint64(clock)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))) >> np.uint64(32)
