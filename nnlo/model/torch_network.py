"""A torch module sorted into what travels in the flat vector and what stays local."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnlo.errors import ConfigError, ModelError
from nnlo.model.manifest import Manifest, Variable

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


@dataclass(frozen=True)
class SortedNetworks:
    """Weights in the order of the manifest, and what belongs to them.

    moving: the buffers among ``state``. counters: integer buffers, which stay local.
    """

    manifest: Manifest
    trainable: list[Tensor]
    state: list[Tensor]
    moving: list[Buffer]
    counters: list[Buffer]


def sort_networks(model: nn.Module, networks: Mapping[str, nn.Module]) -> SortedNetworks:
    """Sort the weights of the networks, which are parts of ``model``; shared ones come once.

    Raise ModelError for weights that are not float32, or in none of the networks.
    """
    layout: dict[str, tuple[list[Variable], list[Variable]]] = {}
    trainable: list[Tensor] = []
    state: list[Tensor] = []
    moving: list[Buffer] = []
    counters: list[Buffer] = []
    seen: set[int] = set()
    for network, module in networks.items():
        buffers = [one for one in persistent_buffers(module) if id(one.tensor) not in seen]
        floats = [one for one in buffers if one.tensor.is_floating_point()]
        fixed = parameters(module, trainable=False)
        fixed |= {one.name: one.tensor for one in floats}
        kinds = (parameters(module, trainable=True), fixed)
        new = [{name: one for name, one in kind.items() if id(one) not in seen} for kind in kinds]
        trainable += new[0].values()
        state += new[1].values()
        layout[network] = (_shapes(new[0]), _shapes(new[1]))
        moving += floats
        prefix = f"{network}/" if len(networks) > 1 else ""
        counters += [replace(one, name=prefix + one.name) for one in buffers if one not in floats]
        seen |= {id(one) for one in (*trainable, *state)} | {id(one.tensor) for one in buffers}
    _check_all_are_sorted(model, seen)
    return SortedNetworks(Manifest.pack_networks(layout), trainable, state, moving, counters)


def _shapes(tensors: Mapping[str, Tensor]) -> list[Variable]:
    return [(name, one.shape) for name, one in tensors.items()]


def _check_all_are_sorted(model: nn.Module, seen: set[int]) -> None:
    everything: dict[str, Tensor] = dict(model.named_parameters())
    everything |= {one.name: one.tensor for one in persistent_buffers(model)}
    for name, tensor in everything.items():
        if id(tensor) not in seen:
            raise ModelError(
                f"every weight must belong to one of the model's networks, got {name} in none; "
                "add its layer to the attribute networks"
            )


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


def variational_layers(module: nn.Module) -> list[Any]:
    """Return the layers with ``kl_divergence()`` and ``kl_weight``, each once."""
    return [
        layer
        for layer in module.modules()
        if callable(getattr(layer, "kl_divergence", None)) and hasattr(layer, "kl_weight")
    ]


def is_lazy(module: nn.Module) -> bool:
    """Tell whether a parameter has no shape yet."""
    return any(isinstance(one, nn.UninitializedParameter) for one in module.parameters())


def make_optimizer(
    spec: str | Mapping[str, Any], weights: Iterable[nn.Parameter], learning_rate: float | None
) -> torch.optim.Optimizer:
    """Return a torch optimizer of ``weights``; raise ConfigError for an unknown one.

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
        made: torch.optim.Optimizer = OPTIMIZERS[name](weights, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the worker optimizer {name} must get torch's own parameters, got {options} "
            f"({error}); see torch.optim.{OPTIMIZERS[name].__name__}"
        ) from error
    return made


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
    """Return copies of the slots and learning rates."""
    content = optimizer.state_dict()
    arrays = {
        f"slot/{index}/{name}": torch.as_tensor(value).cpu().numpy().copy()
        for index, slots in content["state"].items()
        for name, value in slots.items()
        if value is not None
    }
    rates = [group["lr"] for group in content["param_groups"]]
    return arrays | {f"rate/{index}": np.array(float(rate)) for index, rate in enumerate(rates)}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Put back what ``optimizer_state`` returned of an equal optimizer."""
    content = optimizer.state_dict()
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in arrays.items():
        kind, index, *rest = key.split("/", 2)
        if kind == "rate":
            content["param_groups"][int(index)]["lr"] = float(value)
        else:
            slots.setdefault(int(index), {})[rest[0]] = torch.from_numpy(np.array(value))
    optimizer.load_state_dict(content | {"state": slots})


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
