"""A model of ordinary layers made Bayesian, of either family."""

import sys
from importlib import import_module
from typing import Any

from nnlo.bayes.priors import Prior


def to_bayesian(
    model: Any,
    *,
    flipout: bool = True,
    prior: Prior | None = None,
    bayesian_bias: bool = False,
) -> Any:
    """Return the model with variational layers in place of dense and convolutional ones.

    A Keras model is copied, a torch module changed in place. Means begin at the present
    weights. flipout: or reparameterization. prior: None for Normal(0, 1); ``Moped()`` for one
    around the present weights. Raise ModelError where nothing can be converted.
    """
    keras = sys.modules.get("keras")  # a model can only exist where its backend is imported
    family = "keras" if keras is not None and isinstance(model, keras.Model) else "torch"
    convert = import_module(f"nnlo.bayes.{family}_convert").to_bayesian
    return convert(model, flipout=flipout, prior=prior, bayesian_bias=bayesian_bias)
