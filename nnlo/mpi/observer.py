"""Who watches a master's weights: the root, a rank in the middle, or nobody."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nnlo.mpi.frame import Header
from nnlo.mpi.refusal import Refusal

if TYPE_CHECKING:
    from nnlo.mpi.master import Master


class Observer(Protocol):
    """Who watches the weights: epochs, validation, stopping, checkpoints (``root.py``)."""

    def counted(self, child: int, header: Header, tail: np.ndarray, staleness: int) -> None:
        """An update has been applied."""

    def refused(self, master: "Master", refusals: Sequence[Refusal]) -> None:
        """Updates that were not finite have not been sent."""

    def stepped(self, master: "Master") -> None:
        """The version has grown by one."""

    def state_came(self, child: int, state: bytes, leaves: bool) -> None:
        """A worker's local state, asked for by a checkpoint or sent as it leaves."""


class Nobody:
    """The observer of a rank whose records nobody asks for."""

    def counted(self, *_report: Any) -> None: ...

    def refused(self, *_report: Any) -> None: ...

    def stepped(self, master: "Master") -> None: ...

    def state_came(self, *_report: Any) -> None: ...
