"""A Keras model made Bayesian, and the weight of the KL divergence in plain Keras training."""

from collections.abc import Callable, Iterable
from typing import Any

import keras

from nnlo.bayes import keras_layers as bayes
from nnlo.bayes.keras_variational import Variational
from nnlo.bayes.priors import Prior
from nnlo.errors import ConfigError, ModelError
from nnlo.model.keras_vector import value_of

FORMS = {
    keras.layers.Dense: (bayes.DenseReparameterization, bayes.DenseFlipout),
    keras.layers.Conv1D: (bayes.Conv1DReparameterization, bayes.Conv1DFlipout),
    keras.layers.Conv2D: (bayes.Conv2DReparameterization, bayes.Conv2DFlipout),
    keras.layers.Conv3D: (bayes.Conv3DReparameterization, bayes.Conv3DFlipout),
    keras.layers.DepthwiseConv2D: (
        bayes.DepthwiseConv2DReparameterization,
        bayes.DepthwiseConv2DFlipout,
    ),
}
"""Of each layer that can be converted, the variational ones."""
NOT_KEPT = ("regularizer", "constraint", "initializer")
"""Of a kernel: the prior takes the place of the first two; its weights are there already."""


def to_bayesian(
    model: Any,
    *,
    flipout: bool = True,
    prior: Prior | None = None,
    bayesian_bias: bool = False,
    layers: Iterable[str] | None = None,
) -> Any:
    """Return a copy of a built Sequential or functional model with variational layers.

    Means begin at the model's present weights, so that both predict the same; rho begins at
    N(-3, 0.1^2). With ``prior=Moped(delta=0.1)`` the prior is centred at these weights and
    sigma begins at delta |weight|. ``model`` stays as it is, the copy is not compiled.

    flipout: whether by Flipout or by reparameterization. layers: names of the layers to convert,
    None for every Dense, Conv1D to Conv3D and DepthwiseConv2D that is trained. A regularizer or
    constraint of a converted kernel is dropped: the prior takes its place.
    ModelError for a subclassed or unbuilt model, for unknown names, and where nothing fits.
    """
    if not getattr(model, "built", False):
        raise ModelError(
            f"a model must be built to become Bayesian, got the unbuilt {model!r}; "
            "start it with keras.Input(shape)"
        )
    wanted = None if layers is None else set(layers)
    pairs: list[tuple[Any, Any]] = []

    def renew(layer: Any) -> Any:
        new = layer.__class__.from_config(layer.get_config())
        if type(layer) in FORMS and _is_wanted(layer, wanted):
            options = {"prior": prior, "bayesian_bias": bayesian_bias}
            new = _variational(layer, flipout, options)
        pairs.append((layer, new))
        return new

    copy = _cloned(model, renew)
    converted = {new.name for _, new in pairs if isinstance(new, Variational)}
    if not converted or (wanted is not None and converted != wanted):
        missing = ", ".join(sorted((wanted or set()) - converted)) or "none"
        kinds = ", ".join(kind.__name__ for kind in FORMS)
        raise ModelError(
            f"layers to convert must be of {kinds}, got {missing} in {model.name!r}; "
            "see model.summary() for the names"
        )
    for layer, new in pairs:
        _hand_over(layer, new)
    return copy


def set_kl_weight(model: Any, weight: float) -> None:
    """Set what the KL divergence of every variational layer counts in the loss of ``model``.

    With a loss that is a mean over samples, as in ``fit``, 1 / N for N training samples. For
    models that train by ``fit``: NNLO's own training sets it. ModelError without such layers.
    """
    variables = [one for one in model.non_trainable_variables if one.name == "kl_weight"]
    if not variables:
        raise ModelError(
            f"a model must have variational layers to weigh them, got {model.name!r} without; "
            "build it of nnlo.bayes' layers or by to_bayesian"
        )
    for one in variables:
        one.assign(weight)


class KLWeight(keras.callbacks.Callback):  # type: ignore[misc]
    """For ``model.fit``: weighs the KL divergence by beta(epoch) / n_samples.

    n_samples: of the training data. beta: function of the epoch, 0 the first; None for 1. A
    linear warm-up over 5 epochs is ``lambda epoch: min(1.0, (epoch + 1) / 5)``.
    """

    def __init__(self, n_samples: int, beta: Callable[[int], float] | None = None) -> None:
        super().__init__()
        if n_samples < 1:
            raise ConfigError(f"n_samples must be 1 or more, got {n_samples}; give len(x_train)")
        self.n_samples = n_samples
        self.beta = beta

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        beta = 1.0 if self.beta is None else self.beta(epoch)
        set_kl_weight(self.model, beta / self.n_samples)


def _is_wanted(layer: Any, wanted: set[str] | None) -> bool:
    return bool(layer.trainable) if wanted is None else layer.name in wanted


def _variational(layer: Any, flipout: bool, options: dict[str, Any]) -> Any:
    kind = FORMS[type(layer)][flipout]
    config = layer.get_config()
    for part in NOT_KEPT:
        config.pop(f"{kind.kernel_argument}_{part}", None)
    return kind.from_config(config | options)


def _cloned(model: Any, renew: Callable[[Any], Any]) -> Any:
    try:
        return keras.models.clone_model(model, clone_function=renew, recursive=True)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise ModelError(
            f"a model must be Sequential or functional to become Bayesian, got a "
            f"{type(model).__name__} ({str(error).splitlines()[0]}); build it of our layers"
        ) from error


def _hand_over(layer: Any, new: Any) -> None:
    """Give a copy of a layer the weights of the layer."""
    if isinstance(new, Variational):
        new.begin_at(_copied(layer.kernel), None if layer.bias is None else _copied(layer.bias))
        return
    for mine, theirs in zip(new.weights, layer.weights, strict=True):
        mine.assign(_copied(theirs))


def _copied(variable: Any) -> Any:
    # JAX would share the array, and training deletes what it replaces
    return value_of(variable).copy()
