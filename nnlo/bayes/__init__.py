"""Networks that say how sure they are: variational layers, particles, predictions."""

from importlib import import_module
from types import MappingProxyType
from typing import Any

_HOMES = MappingProxyType(
    {
        "DeepEnsemble": "nnlo.bayes.ensemble",
        "MCDropout": "nnlo.bayes.dropout",
        "MultiSWAG": "nnlo.bayes.swag",
        "Particles": "nnlo.bayes.particles",
        "Posterior": "nnlo.bayes.posterior",
        "Refresh": "nnlo.bayes.refresh",
        "SVGD": "nnlo.bayes.svgd",
        "Society": "nnlo.bayes.society",
        "load": "nnlo.bayes.methods",
    }
)
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, and no backend before one is needed."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nnlo.bayes' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
