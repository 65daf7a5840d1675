"""Dropout that stays on while the rest of a torch module is in inference mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

KINDS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.MultiheadAttention,
    nn.RNNBase,
)
"""Modules that draw masks, and do nothing else, in training mode; subclasses count."""


def dropout_modules(module: nn.Module) -> list[nn.Module]:
    """Return all modules of ``KINDS`` with a rate above 0; not calls of torch's functions."""
    found = [one for one in module.modules() if isinstance(one, KINDS)]
    return [one for one in found if getattr(one, "p", 0) or getattr(one, "dropout", 0)]


@contextmanager
def forced_dropout(module: nn.Module) -> Iterator[None]:
    """Have the dropout of a module in inference mode draw masks inside the block."""
    forced = dropout_modules(module)
    # the fused transformer layers of inference know no dropout
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for one in forced:
        one.training = True  # not by train(), which goes on to the parts of an attention
    try:
        yield
    finally:
        for one in forced:
            one.training = False
        torch.backends.mha.set_fastpath_enabled(fused)
