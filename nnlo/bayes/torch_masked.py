"""Torch modules whose variational layers hold masks."""

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nnlo.bayes.gaussians import MASK
from nnlo.bayes.torch_layers import Variational
from nnlo.model.adapter import Vector
from nnlo.model.manifest import Manifest
from nnlo.model.torch_network import sort_networks


def masked_copy(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` with masks in all variational layers, ones where they are new."""
    copied = copy.deepcopy(model)
    add_masks(copied)
    return copied


def add_masks(model: nn.Module) -> nn.Module:
    """Give all variational layers masks, in place; returns ``model``."""
    for layer in model.modules():
        has_some = any(name.endswith(MASK) for name, _ in layer.named_buffers(recurse=False))
        if isinstance(layer, Variational) and not has_some:
            layer.add_masks()
    return model


def read_masked(model: nn.Module, file: Path) -> nn.Module:
    """Give a fresh module masks and the weights of ``file``, a masked module's; return it."""
    add_masks(model)
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return model


def flat(model: nn.Module) -> tuple[Manifest, Vector]:
    """Return the layout of a module and its weights ``[T | S]``."""
    found = sort_networks(model, {"model": model})
    vector = np.empty(found.manifest.size, np.float32)
    tensors = (*found.trainable, *found.state)
    for part, tensor in zip(found.manifest.split(vector), tensors, strict=True):
        part[...] = tensor.detach().cpu().numpy()
    return found.manifest, vector


def load(model: nn.Module, vector: Vector) -> None:
    """Write ``vector``, as ``flat`` returns it, into the module."""
    found = sort_networks(model, {"model": model})
    tensors = (*found.trainable, *found.state)
    with torch.no_grad():
        for part, tensor in zip(found.manifest.split(vector), tensors, strict=True):
            tensor.copy_(torch.from_numpy(part.copy()))
