"""A Keras model sorted into what travels in the flat vector and what stays local."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from nnlo.errors import ConfigError, ModelError
from nnlo.model.losses import Loss
from nnlo.model.manifest import Manifest, Variable


@dataclass(frozen=True)
class KerasNetwork:
    """What an engine needs of one built model.

    trainable, state: float32 variables, each once, in the order of the manifest.
    local: variables that stay on this rank (integers, booleans, seeds of random layers).
    losses, metrics: as ``losses.plan`` returns them.
    optimizer: a built Keras optimizer over ``trainable``, None in gradient mode.
    variational: layers with ``kl_divergence()`` and ``kl_weight``.
    """

    model: Any  # what predicts
    manifest: Manifest
    trainable: list[Any]
    state: list[Any]
    local: list[Any]
    losses: Sequence[Loss]
    metrics: Sequence[tuple[int, str]]
    optimizer: Any | None
    variational: Sequence[Any] = ()

    def divergence(self) -> Any:
        """Return the divergence of all variational layers in nats, None where there are none.

        To be called after the model, in the same graph: layers that have ``last_divergence()``
        need not compute it twice. It has no gradient: that of the losses is enough.
        """
        parts = [getattr(one, "last_divergence", one.kl_divergence)() for one in self.variational]
        return ops.stop_gradient(sum(parts)) if parts else None


def variational_layers(networks: Iterable[Any]) -> list[Any]:
    """Return the variational layers of some models, each once."""
    layers = [
        layer
        for model in networks
        for layer in model._flatten_layers(include_self=True, recursive=True)
        if callable(getattr(layer, "kl_divergence", None)) and hasattr(layer, "kl_weight")
    ]
    return _unique(layers)


def sort_variables(model: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Return (trainable, state, local) variables; raise ModelError for other float types."""
    trainable = _unique(model.trainable_variables)
    others = _unique(model.non_trainable_variables)
    for variable in (*trainable, *others):
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if dtype != "float32" and (dtype.startswith(("float", "bfloat")) or variable.trainable):
            raise ModelError(
                f"weights must be float32, got {dtype} for {variable.path}; build the layer with "
                "dtype='float32', or dtype='mixed_float16' to compute in half precision"
            )
    state = [one for one in others if keras.backend.standardize_dtype(one.dtype) == "float32"]
    kept = {id(one) for one in state}
    return trainable, state, [one for one in others if id(one) not in kept]


def seed_variables(model: Any) -> list[Any]:
    """Return the states of the model's seed generators: variables that are no weights."""
    weights = {id(one) for one in model.weights}
    return [one for one in _unique(model.non_trainable_variables) if id(one) not in weights]


def sort_networks(
    networks: Mapping[str, Any],
) -> tuple[Manifest, list[Any], list[Any], list[Any]]:
    """Return (manifest, trainable, state, local) of models; shared variables come once.

    Keras numbers the names of layers by how many the process made before (dense_7), which
    differs between ranks that built other models first; the manifest leaves the numbers out.
    """
    seen: set[int] = set()
    layout: dict[str, tuple[list[Variable], list[Variable]]] = {}
    groups: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for network, model in networks.items():
        kinds: list[list[Variable]] = []
        for group, variables in zip(groups, sort_variables(model), strict=True):
            new = [one for one in variables if id(one) not in seen]
            seen |= {id(one) for one in new}
            group += new
            kinds.append([(_name(one), one.shape) for one in new])
        layout[network] = (kinds[0], kinds[1])
    return Manifest.pack_networks(layout), *groups


def _name(variable: Any) -> str:
    return "/".join(re.sub(r"(_\d+)+$", "", part) for part in variable.path.split("/"))


def make_optimizer(
    spec: str | Mapping[str, Any],
    trainable: list[Any],
    learning_rate: float | None,
    clip_norm: float | None,
) -> Any:
    """Return a built Keras optimizer; raise ConfigError for an unknown name or parameter.

    spec: a name, or a mapping with the key "name" and the optimizer's own parameters.
    clip_norm: largest norm of the whole gradient.
    """
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", None)
    if learning_rate is not None:
        options["learning_rate"] = learning_rate
    if clip_norm is not None:
        options["global_clipnorm"] = clip_norm
    try:
        optimizer = keras.optimizers.get({"class_name": name, "config": options})
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"the worker optimizer must be one of Keras' with its own parameters, got {spec!r} "
            f"({str(error).splitlines()[0]}); try 'sgd' or 'adam'"
        ) from error
    optimizer.build(trainable)
    return optimizer


def _unique(variables: Iterable[Any]) -> list[Any]:
    return list({id(one): one for one in variables}.values())
