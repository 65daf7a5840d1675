"""A torch module sorted into what travels in the flat vector and what stays local."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnlo.errors import ConfigError, ModelError

OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
}
"""Those that treat each weight alone: one step on the flat vector is the step on each tensor."""


@dataclass(frozen=True)
class Buffer:
    """A registered buffer: ``leaf`` of the layer ``owner``."""

    name: str
    owner: nn.Module
    leaf: str

    @property
    def tensor(self) -> Tensor:
        """The tensor that the layer uses now."""
        tensor: Tensor = self.owner.get_buffer(self.leaf)
        return tensor

    def bind(self, tensor: Tensor) -> None:
        """Make the layer use ``tensor``, with the value that it has now."""
        if self.tensor is not tensor:
            tensor.copy_(self.tensor)
            setattr(self.owner, self.leaf, tensor)


def parameters(module: nn.Module, *, trainable: bool) -> dict[str, Tensor]:
    """Return the trainable or the frozen parameters, each once; ModelError if not float32."""
    found: dict[str, Tensor] = {}
    for name, one in module.named_parameters():
        if one.requires_grad == trainable:
            _check(name, one)
            found[name] = one
    return found


def persistent_buffers(module: nn.Module) -> list[Buffer]:
    """Return the buffers of the state dict, each once; raise ModelError for other floats."""
    kept = set(module.state_dict())
    buffers = []
    for name, one in module.named_buffers():
        if name not in kept:
            continue
        if one.is_floating_point() or one.is_complex():
            _check(name, one)
        prefix, _, leaf = name.rpartition(".")
        buffers.append(Buffer(name, module.get_submodule(prefix), leaf))
    return buffers


def is_lazy(module: nn.Module) -> bool:
    """Tell whether a parameter has no shape yet."""
    return any(isinstance(one, nn.UninitializedParameter) for one in module.parameters())


def make_optimizer(
    spec: str | Mapping[str, Any], weights: nn.Parameter, learning_rate: float | None
) -> torch.optim.Optimizer:
    """Return a torch optimizer of one flat parameter; raise ConfigError for an unknown one.

    spec: a name, or a mapping with the key "name" and torch's own parameters.
    """
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(options.pop("name", None)).lower()
    if learning_rate is not None:
        options["lr"] = learning_rate
    if name not in OPTIMIZERS:
        raise ConfigError(
            f"the worker optimizer must be one of {', '.join(OPTIMIZERS)}, got {spec!r}; "
            "choose one of these"
        )
    try:
        made: torch.optim.Optimizer = OPTIMIZERS[name]([weights], **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the worker optimizer {name} must get torch's own parameters, got {options} "
            f"({error}); see torch.optim.{OPTIMIZERS[name].__name__}"
        ) from error
    return made


def describe(module: nn.Module) -> Iterator[str]:
    """Yield a line per layer: name, type, parameters of its own."""
    yield f"{'layer':<36}{'type':<24}{'parameters':>12}"
    for name, layer in module.named_modules():
        own = sum(one.numel() for one in layer.parameters(recurse=False))
        if own or not any(layer.children()):
            yield f"{name:<36}{type(layer).__name__:<24}{own:>12,}"


def _check(name: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.UninitializedParameter):
        raise ModelError(
            f"a module must know the shapes of its weights, got the lazy {name}; run it on one "
            "batch in get_model, or use layers with all sizes given"
        )
    if tensor.dtype != torch.float32:
        raise ModelError(
            f"weights must be float32, got {tensor.dtype} for {name}; convert the module by "
            "module.float(), and use torch.autocast in forward to compute in half precision"
        )
