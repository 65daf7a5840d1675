"""A call that all particles make: gather, allreduce or barrier."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnlo.bayes.future import Future
from nnlo.bayes.message import Array
from nnlo.errors import ConfigError


class Meeting:
    """said: what was called and with what, by particle. futures: of this rank's particles."""

    def __init__(self) -> None:
        self.said: dict[int, tuple[str, Any]] = {}
        self.futures: list[Future] = []

    def results(self) -> Any:
        kinds = {kind: pid for pid, (kind, _) in self.said.items()}
        if len(kinds) > 1:
            calls = " but ".join(f"{kind} by particle {pid}" for kind, pid in kinds.items())
            raise ConfigError(f"all particles must make the same calls in order, got {calls}")
        values = [self.said[pid][1] for pid in sorted(self.said)]
        (kind,) = kinds
        if kind == "gather":
            return values
        return _sum(values) if kind == "allreduce" else None


def _sum(values: Sequence[Array]) -> Any:
    first = values[0]
    layouts = {(one.shape, one.dtype.str): pid for pid, one in enumerate(values)}
    if len(layouts) > 1 or first.dtype.kind not in "iufc":
        found = " but ".join(f"{code} of shape {shape}" for shape, code in layouts)
        raise ConfigError(f"all particles must add up numbers of one layout, got {found}")
    is_real = first.dtype.kind == "f"
    total = first.astype(np.result_type(first, np.float64) if is_real else first.dtype)
    for one in values[1:]:
        total += one
    return total.astype(first.dtype)[()]
