"""Keras models whose variational layers hold masks."""

from typing import Any

import keras
import numpy as np

from nnlo.errors import ModelError
from nnlo.model.adapter import Vector
from nnlo.model.keras_network import sort_networks
from nnlo.model.keras_vector import value_of
from nnlo.model.manifest import Manifest


def masked_copy(model: Any) -> Any:
    """Return a new model of the same architecture with masks in all variational layers.

    Its weights are fresh. Raise ModelError where Keras cannot describe ``model``.
    """
    try:
        about = keras.saving.serialize_keras_object(model)
        about.pop("compile_config", None)
        _demand_masks(about)
        copy = keras.saving.deserialize_keras_object(about, safe_mode=False)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(
            f"a model must be one that Keras can copy, got {model.name!r} ({error}); build it by "
            "keras.Sequential or the functional API, or give the class a get_config"
        ) from error
    return copy


def flat(model: Any) -> tuple[Manifest, Vector]:
    """Return the layout of a built model and its weights ``[T | S]``."""
    manifest, trainable, state, _ = sort_networks({"model": model})
    vector = np.empty(manifest.size, np.float32)
    for part, variable in zip(manifest.split(vector), (*trainable, *state), strict=True):
        part[...] = value_of(variable)
    return manifest, vector


def load(model: Any, vector: Vector) -> None:
    """Write ``vector``, as ``flat`` returns it, into the model."""
    manifest, trainable, state, _ = sort_networks({"model": model})
    for part, variable in zip(manifest.split(vector), (*trainable, *state), strict=True):
        variable.assign(part)


def _demand_masks(about: Any) -> None:
    """Set ``masked`` in the description of each layer of ours, wherever it is nested."""
    if isinstance(about, list | tuple):
        for one in about:
            _demand_masks(one)
    elif isinstance(about, dict):
        config = about.get("config")
        is_ours = str(about.get("registered_name")).startswith("nnlo>")
        if is_ours and isinstance(config, dict) and "masked" in config:
            config["masked"] = True
        for one in about.values():
            _demand_masks(one)
