"""Seeds that depend on what they are for, never on the rank that uses them."""

from enum import IntEnum

import numpy as np


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
