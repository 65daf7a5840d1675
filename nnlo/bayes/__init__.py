"""Networks that say how sure they are: variational layers, particles, predictions."""

from importlib import import_module
from types import MappingProxyType
from typing import Any

_HOMES = MappingProxyType(
    {
        "Conv1DFlipout": "nnlo.bayes.keras_layers",
        "Conv1DReparameterization": "nnlo.bayes.keras_layers",
        "Conv1dFlipout": "nnlo.bayes.torch_layers",
        "Conv1dReparameterization": "nnlo.bayes.torch_layers",
        "Conv2DFlipout": "nnlo.bayes.keras_layers",
        "Conv2DReparameterization": "nnlo.bayes.keras_layers",
        "Conv2dFlipout": "nnlo.bayes.torch_layers",
        "Conv2dReparameterization": "nnlo.bayes.torch_layers",
        "Conv3DFlipout": "nnlo.bayes.keras_layers",
        "Conv3DReparameterization": "nnlo.bayes.keras_layers",
        "Conv3dFlipout": "nnlo.bayes.torch_layers",
        "Conv3dReparameterization": "nnlo.bayes.torch_layers",
        "DeepEnsemble": "nnlo.bayes.ensemble",
        "DenseFlipout": "nnlo.bayes.keras_layers",
        "DenseReparameterization": "nnlo.bayes.keras_layers",
        "DepthwiseConv2DFlipout": "nnlo.bayes.keras_layers",
        "DepthwiseConv2DReparameterization": "nnlo.bayes.keras_layers",
        "KLWeight": "nnlo.bayes.keras_convert",
        "LinearFlipout": "nnlo.bayes.torch_layers",
        "LinearReparameterization": "nnlo.bayes.torch_layers",
        "MCDropout": "nnlo.bayes.dropout",
        "Moped": "nnlo.bayes.priors",
        "MultiSWAG": "nnlo.bayes.swag",
        "Normal": "nnlo.bayes.priors",
        "Particles": "nnlo.bayes.particles",
        "Point": "nnlo.bayes.variational",
        "Posterior": "nnlo.bayes.posterior",
        "Prediction": "nnlo.bayes.predict",
        "Refresh": "nnlo.bayes.refresh",
        "Report": "nnlo.bayes.evaluate",
        "SVGD": "nnlo.bayes.svgd",
        "ScaleMixture": "nnlo.bayes.priors",
        "Society": "nnlo.bayes.society",
        "Variational": "nnlo.bayes.variational",
        "judge": "nnlo.bayes.evaluate",
        "likelihood_of": "nnlo.bayes.likelihood",
        "Vectors": "nnlo.bayes.crowd",
        "load": "nnlo.bayes.methods",
        "make_method": "nnlo.bayes.methods",
        "set_kl_weight": "nnlo.bayes.keras_convert",
        "to_bayesian": "nnlo.bayes.convert",
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
