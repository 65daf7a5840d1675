"""Dropout that stays on while the rest of a Keras model is in inference mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from keras import layers

KINDS = (
    layers.Dropout,
    layers.GaussianDropout,
    layers.AlphaDropout,
    layers.Attention,
    layers.SimpleRNN,
    layers.SimpleRNNCell,
    layers.GRU,
    layers.GRUCell,
    layers.LSTM,
    layers.LSTMCell,
    layers.ConvLSTM1D,
    layers.ConvLSTM2D,
    layers.ConvLSTM3D,
)
"""Layers that draw masks, and do nothing else, where ``training`` is True; subclasses count.

Those of SpatialDropout derive from Dropout; attention with several heads holds a Dropout."""

RATES = ("rate", "dropout", "recurrent_dropout")
"""Attributes that hold a layer's rate of dropout."""


def dropout_layers(model: Any) -> list[Any]:
    """Return all layers of ``KINDS`` with a rate above 0, however deep they are nested."""
    # no public way goes into lists of a subclass and into wrappers
    found = [one for one in model._flatten_layers() if isinstance(one, KINDS)]
    return [one for one in found if any((getattr(one, name, 0) or 0) > 0 for name in RATES)]


@contextmanager
def forced_dropout(model: Any) -> Iterator[None]:
    """Have the model's dropout layers draw masks in any call or trace inside the block."""
    forced = dropout_layers(model)
    for layer in forced:
        # not by setattr: Keras and torch would look at it
        vars(layer)["call"] = partial(_call_training, layer.call)
    try:
        yield
    finally:
        for layer in forced:
            del vars(layer)["call"]


def _call_training(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return call(*args, **kwargs | {"training": True})
