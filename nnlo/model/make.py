"""The adapter that fits a model, chosen by the model's type."""

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nnlo.errors import ConfigError, ModelError
from nnlo.model.adapter import Batch, ModelAdapter
from nnlo.model.builder import ModelBuilder
from nnlo.model.losses import Loss
from nnlo.model.own_training import check_own_losses


def make_adapter(
    model: Any,
    loss: Loss | Sequence[Loss] | None,
    metrics: Sequence[str] | None = None,
    *,
    optimizer: str | Mapping[str, Any] | None = None,
    learning_rate: float | None = None,
    clip_norm: float | None = None,
    example: Batch | None = None,
    keep_own: bool = False,
) -> ModelAdapter:
    """Return the adapter of a Keras model or a torch module.

    A model with its own ``train_step`` is trained by that (see docs/models.md).
    loss: a name of ``losses.LOSSES`` or a function; a list for several outputs. None, like
    metrics, for a model with its own ``train_step``, and only then.
    metrics: names of ``losses.METRICS``; None for accuracy with a loss of classification.
    optimizer: of ``train_step``: a name, or a mapping with "name" and its parameters, of
    Keras for Keras models and of ``torch.optim`` for torch modules; None: gradients only, or
    the optimizers that a model with its own ``train_step`` brings.
    learning_rate: of the optimizer; None for its own default.
    clip_norm: largest norm of the gradient in ``train_step``.
    keep_own: whether the optimizers that a model with its own ``train_step`` brings, if any,
    stay in place of ``optimizer``.
    example: a batch that builds a model which does not know its input shape yet.
    Raise ModelError for what is no model or has no fixed shape, ConfigError for unknown names.
    """
    is_keras, is_own = _is_keras(model), has_own_train_step(model)
    if keep_own and is_own and _brings_optimizers(model):
        optimizer = learning_rate = None
    options: dict[str, Any] = {"optimizer": optimizer, "learning_rate": learning_rate}
    options |= {"clip_norm": clip_norm, "example": example}
    if is_own:
        check_own_losses(loss, metrics)
    elif loss is None:
        raise ConfigError("a model must have a loss to be trained by, got none; name one")
    else:
        options |= {"loss": loss, "metrics": metrics}
    return _adapter_class(is_keras, is_own)(model, **options)


def has_own_train_step(model: Any) -> bool:
    """Tell whether a Keras model overrides ``train_step`` or a torch module has one.

    Raise ModelError for what is neither.
    """
    if _is_keras(model):
        return type(model).train_step is not sys.modules["keras"].Model.train_step
    return callable(getattr(model, "train_step", None))


def _brings_optimizers(model: Any) -> bool:
    return bool(getattr(model, "optimizers", None) or getattr(model, "optimizer", None))


def _is_keras(model: Any) -> bool:
    """Tell a Keras model from a torch module; raise ModelError for what is neither."""
    # a model of a backend can only exist where the backend is imported
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    if keras is not None and isinstance(model, keras.Model):  # a torch module too, on torch
        return True
    if torch is not None and isinstance(model, torch.nn.Module):
        return False
    raise ModelError(
        f"build_model must return a Keras 3 model or a torch module, got {type(model).__name__}; "
        "return the model itself, made by keras (not tf_keras) or torch.nn"
    )


def _adapter_class(is_keras: bool, is_own: bool) -> Callable[..., ModelAdapter]:
    if is_keras and is_own:
        from nnlo.model.keras_own import OwnKerasAdapter

        return OwnKerasAdapter
    if is_keras:
        from nnlo.model.keras_adapter import KerasAdapter

        return KerasAdapter
    if is_own:
        from nnlo.model.torch_own import OwnTorchAdapter

        return OwnTorchAdapter
    from nnlo.model.torch_adapter import TorchAdapter

    return TorchAdapter


def build_adapter(
    builder: ModelBuilder,
    loss: Loss | Sequence[Loss] | None = None,
    *,
    seed: int | None = None,
    **options: Any,
) -> ModelAdapter:
    """Build a model and return its adapter; equal seeds give equal first weights.

    loss: None for the builder's own, or for a model with its own ``train_step``; ConfigError
    where there is neither.
    seed: of the initial weights; None leaves them to chance. options: of ``make_adapter``.
    The global random generators are put back to where they were.
    """
    name = builder.name  # runs a model file, so that its backend is imported and can be seeded
    with _seeded(seed):
        model = builder.build_model()
    loss = builder.loss if loss is None else loss
    if loss is None and not has_own_train_step(model):
        raise ConfigError(f"a loss must be given for the model {name}, got none; name one")
    return make_adapter(model, loss, **options)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Start the generators that initial weights come from: Python's (Keras) and torch's."""
    if seed is None:
        yield
        return
    torch = sys.modules.get("torch")
    python, numpy_state = random.getstate(), np.random.get_state()
    torch_state = None if torch is None else torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch is not None:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        if torch is not None:
            torch.set_rng_state(torch_state)
