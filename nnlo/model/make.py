"""The adapter that fits a model, chosen by the model's type."""

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nnlo.errors import ConfigError, ModelError
from nnlo.model.adapter import Batch, ModelAdapter
from nnlo.model.builder import ModelBuilder
from nnlo.model.losses import Loss


def make_adapter(
    model: Any,
    loss: Loss | Sequence[Loss],
    metrics: Sequence[str] | None = None,
    *,
    optimizer: str | Mapping[str, Any] | None = None,
    learning_rate: float | None = None,
    clip_norm: float | None = None,
    example: Batch | None = None,
) -> ModelAdapter:
    """Return the adapter of a Keras model or a torch module.

    loss: a name of ``losses.LOSSES`` or a function; a list for several outputs.
    metrics: names of ``losses.METRICS``; None for accuracy with a loss of classification.
    optimizer: of ``train_step``: a name, or a mapping with "name" and its parameters, of
    Keras for Keras models and of ``torch.optim`` for torch modules; None: gradients only.
    learning_rate: of the optimizer; None for its own default.
    clip_norm: largest norm of the gradient in ``train_step``.
    example: a batch that builds a model which does not know its input shape yet.
    Raise ModelError for what is no model or has no fixed shape, ConfigError for unknown names.
    """
    # a model of a backend can only exist where the backend is imported
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    options: dict[str, Any] = {"optimizer": optimizer, "learning_rate": learning_rate}
    options |= {"clip_norm": clip_norm, "example": example}
    if keras is not None and isinstance(model, keras.Model):
        from nnlo.model.keras_adapter import KerasAdapter

        return KerasAdapter(model, loss, metrics, **options)
    if torch is not None and isinstance(model, torch.nn.Module):
        from nnlo.model.torch_adapter import TorchAdapter

        return TorchAdapter(model, loss, metrics, **options)
    raise ModelError(
        f"build_model must return a Keras 3 model or a torch module, got {type(model).__name__}; "
        "return the model itself, made by keras (not tf_keras) or torch.nn"
    )


def build_adapter(
    builder: ModelBuilder,
    loss: Loss | Sequence[Loss] | None = None,
    *,
    seed: int | None = None,
    **options: Any,
) -> ModelAdapter:
    """Build a model and return its adapter; equal seeds give equal first weights.

    loss: None for the builder's own; ConfigError where it has none either.
    seed: of the initial weights; None leaves them to chance. options: of ``make_adapter``.
    The global random generators are put back to where they were.
    """
    name = builder.name  # runs a model file, so that its backend is imported and can be seeded
    loss = builder.loss if loss is None else loss
    if loss is None:
        raise ConfigError(f"a loss must be given for the model {name}, got none; name one")
    with _seeded(seed):
        model = builder.build_model()
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
