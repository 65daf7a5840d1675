"""The book of what each rank has done."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from nnlo.history import History
from nnlo.mpi.frame import BUSY_S, N_TIMES, WAIT_S, Header


def count_rank(
    history: History, header: Header, tail: NDArray[Any], metric_names: Sequence[str]
) -> None:
    """Add an update to the rows of its sender; ``header`` and ``tail`` are of its message."""
    history.add_to_rank(
        header.sender,
        header.epoch + (header.batch > 0),
        header.n_samples,
        dict(zip(metric_names, tail[N_TIMES + 1 :], strict=True)),
        steps=header.n_steps,
        busy_s=float(tail[BUSY_S]),
        wait_s=float(tail[WAIT_S]),
    )
