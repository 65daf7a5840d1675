"""NNLO trains, tunes and questions neural networks on MPI machines."""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnlo.algo import Algo
    from nnlo.data import Data, H5Data
    from nnlo.model import ModelBuilder, ModelFromJson, ModelFromPython
    from nnlo.mpi.manager import MPIManager

__version__ = "0.1.0"
__all__ = [
    "Algo",
    "Data",
    "H5Data",
    "MPIManager",
    "ModelBuilder",
    "ModelFromJson",
    "ModelFromPython",
]

_HOMES = MappingProxyType(
    {
        "Algo": "nnlo.algo",
        "Data": "nnlo.data",
        "H5Data": "nnlo.data",
        "MPIManager": "nnlo.mpi.manager",
        "ModelBuilder": "nnlo.model",
        "ModelFromJson": "nnlo.model",
        "ModelFromPython": "nnlo.model",
    }
)


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: ``import nnlo`` loads neither MPI nor a backend."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nnlo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
