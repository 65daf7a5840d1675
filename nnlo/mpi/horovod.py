"""Gradients reduced by Horovod instead of MPI, where it is installed.

Votes, counts and metrics still go over MPI: they are few bytes, and end a run on all ranks.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnlo.algo.base import Vector
from nnlo.errors import ConfigError
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi.frame import Frame
from nnlo.mpi.ringend import RingEnd

if TYPE_CHECKING:
    from mpi4py import MPI

NAME = "nnlo.gradient"
"""Of the one tensor that is reduced, the same on all ranks."""


def find_horovod(adapter: ModelAdapter) -> Any:
    """Return Horovod's module for the adapter's backend, not initialised.

    Raises ConfigError where there is none or it cannot be imported.
    """
    backend = "torch" if adapter.suffix == ".pt" else sys.modules["keras"].backend.backend()
    if backend not in _ADD_UP:
        raise ConfigError(
            f"engine horovod must serve a model on {' or '.join(_ADD_UP)}, got {backend}; "
            "use the engine mpi"
        )
    try:
        return import_module(f"horovod.{backend}")
    except ImportError as error:
        raise ConfigError(
            f"engine horovod must find horovod.{backend}, got {type(error).__name__} ({error}); "
            "use the engine mpi, or install Horovod (its last release, 0.28.1, does not build "
            "against today's TensorFlow and PyTorch)"
        ) from error


class HorovodRing(RingEnd):
    """A ring of all ranks of ``ring``; ``horovod`` is what ``find_horovod`` has returned."""

    def __init__(self, ring: "MPI.Intracomm", down: Frame, horovod: Any) -> None:
        """Initialise Horovod on these ranks; ConfigError where it runs on others already."""
        super().__init__(ring, down)
        if not horovod.is_initialized():
            horovod.init(comm=ring)
        if horovod.size() != ring.size:
            raise ConfigError(
                f"Horovod must run on the {ring.size} ranks of this job, got {horovod.size()}; "
                "use the engine mpi for jobs on parts of the ranks"
            )
        self._horovod = horovod
        self._add_up_by = _ADD_UP[horovod.__name__.rpartition(".")[2]]

    def _add_up(self, vector: Vector) -> None:
        self._add_up_by(self._horovod, vector)


def _by_torch(horovod: Any, vector: Vector) -> None:
    tensor = sys.modules["torch"].from_numpy(vector)  # the same memory
    horovod.allreduce_(tensor, name=NAME, op=horovod.Sum)


def _by_tensorflow(horovod: Any, vector: Vector) -> None:
    tensor = sys.modules["tensorflow"].convert_to_tensor(vector)
    vector[:] = horovod.allreduce(tensor, name=NAME, op=horovod.Sum).numpy()


_ADD_UP = {"torch": _by_torch, "tensorflow": _by_tensorflow}
