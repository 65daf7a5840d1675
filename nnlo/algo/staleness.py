"""How much an update counts that is based on old weights.

Staleness is the number of updates the master applied since it sent the weights that an update
is based on; with W equal workers it is W - 1 on average.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from nnlo.errors import ConfigError


def none(staleness: int) -> float:
    """Every update counts in full."""
    return 1.0


def inverse(staleness: int) -> float:
    """1 / (1 + staleness) (Zhang et al. 2016, "Staleness-aware async-SGD", arXiv:1511.05950)."""
    return 1.0 / (1.0 + staleness)


POLICIES: Mapping[str, Callable[[int], float]] = MappingProxyType(
    {"none": none, "inverse": inverse}
)


def policy(name: str) -> Callable[[int], float]:
    """The function from staleness to a factor on the learning rate."""
    try:
        return POLICIES[name]
    except KeyError:
        raise ConfigError(
            f"staleness policy must be one of {', '.join(POLICIES)}, got {name!r}"
        ) from None
