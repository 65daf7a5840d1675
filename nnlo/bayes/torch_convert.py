"""A torch module made Bayesian: its layers replaced by variational ones, in place."""

from collections import Counter
from typing import Any

from torch import nn

from nnlo.bayes.priors import Prior
from nnlo.bayes.torch_layers import (
    Conv1dFlipout,
    Conv1dReparameterization,
    Conv2dFlipout,
    Conv2dReparameterization,
    Conv3dFlipout,
    Conv3dReparameterization,
    LinearFlipout,
    LinearReparameterization,
    Variational,
)
from nnlo.errors import ModelError

CONVOLUTIONS: dict[type[nn.Module], tuple[type[Variational], type[Variational]]] = {
    nn.Conv1d: (Conv1dReparameterization, Conv1dFlipout),
    nn.Conv2d: (Conv2dReparameterization, Conv2dFlipout),
    nn.Conv3d: (Conv3dReparameterization, Conv3dFlipout),
}


def to_bayesian(
    module: nn.Module,
    *,
    flipout: bool = True,
    prior: Prior | None = None,
    bayesian_bias: bool = False,
) -> nn.Module:
    """Replace every ``nn.Linear`` and ``nn.ConvNd`` that is trained; return the module.

    In place, but for a module that is itself such a layer. Means begin at the present weights.
    prior: see ``Variational``; ``Moped()`` begins with a posterior and a prior around the
    present weights. Subclasses of these layers and frozen ones stay as they are. ModelError
    where nothing is replaced, a layer is lazy, or shares its weight with another one.
    """
    owners = Counter(
        id(one) for layer in module.modules() for one in layer.parameters(recurse=False)
    )
    made: dict[nn.Module, nn.Module] = {}
    for name, layer in module.named_modules():
        if type(layer) is not nn.Linear and type(layer) not in CONVOLUTIONS:
            continue
        if not layer.weight.requires_grad:
            continue
        if owners[id(layer.weight)] > 1:
            raise ModelError(
                f"a Bayesian layer must have weights of its own, got {name or 'a layer'}, which "
                "shares them; convert the other layers one by one"
            )
        made[layer] = _bayesian(layer, flipout, {"prior": prior, "bayesian_bias": bayesian_bias})
    if not made:
        raise ModelError(
            f"a module must have trained Linear or Conv layers to become Bayesian, got "
            f"{type(module).__name__} without; build it of nnlo.bayes' layers"
        )
    for parent in list(module.modules()):
        for name, child in parent._modules.items():  # named_children leaves out shared ones
            if child in made:
                setattr(parent, name, made[child])
    return made.get(module, module)


def _bayesian(layer: Any, flipout: bool, options: dict[str, Any]) -> Variational:
    has_bias = layer.bias is not None
    new: Variational
    if type(layer) is nn.Linear:
        kind = LinearFlipout if flipout else LinearReparameterization
        new = kind(layer.in_features, layer.out_features, bias=has_bias, **options)
    else:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
        sizes = {name: getattr(layer, name) for name in (*names, "groups", "padding_mode")}
        new = CONVOLUTIONS[type(layer)][flipout](**sizes, bias=has_bias, **options)
    new.to(layer.weight.device)
    new.begin_at(layer.weight, layer.bias)
    return new.train(layer.training)
