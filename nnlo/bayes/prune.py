"""Pruning by signal to noise: weights with a small |loc| / sigma become 0, for good.

A pruned weight has mean 0 AND standard deviation 0, both by its layer's mask: a weight whose mean
alone were 0 would go on as noise. Masks are state S of the flat vector, 0.0 or 1.0, so that files
and checkpoints keep them; under a mask the layers give no gradient and no KL, so that training
moves nothing there. (Graves 2011, Practical variational inference for neural networks; Blundell
et al. 2015, Weight uncertainty in neural networks, section 5.1.)
"""

import re
import sys
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.bayes.gaussians import MASK, Gaussian, find_gaussians
from nnlo.errors import ConfigError, ModelError
from nnlo.model.adapter import Vector
from nnlo.model.manifest import Entry, Manifest

Masks = list[NDArray[np.float32]]
"""One array for each Gaussian, in its shape: 0.0 where a weight is pruned, else 1.0."""


def prune(
    model: Any,
    *,
    fraction: float | None = None,
    threshold: float | None = None,
    per_layer: bool = False,
) -> Any:
    """Return a pruned copy of a Keras model or torch module; ``model`` stays as it is.

    The arguments are those of ``masks``. The copy trains, predicts and saves as any model, and
    its pruned weights stay 0. Raises as ``masks`` and ``masked`` do.
    """
    pruned = masked(model)
    tools = _tools(model)
    manifest, vector = tools.flat(pruned)
    gaussians = find_gaussians(manifest)
    chosen = masks(gaussians, vector, fraction=fraction, threshold=threshold, per_layer=per_layer)
    apply_masks(gaussians, vector, chosen)
    tools.load(pruned, vector)
    return pruned


def masked(model: Any) -> Any:
    """Return a copy of a Keras model or torch module that can be pruned; nothing is pruned yet.

    Its variational layers hold masks, of ones where they had none. ``model`` stays as it is.
    Raise ModelError for a model that Keras cannot copy.
    """
    tools = _tools(model)
    copied = tools.masked_copy(model)
    manifest, vector = tools.flat(model)
    tools.load(copied, widened(manifest, vector, tools.flat(copied)[0]))
    return copied


def widened(manifest: Manifest, vector: Vector, wide: Manifest) -> Vector:
    """Return ``vector`` of ``manifest`` in the layout of ``wide``: the same model with masks.

    Masks that ``manifest`` does not have are 1. Raise ModelError where more than masks differs.
    """
    out = np.ones(wide.size, np.float32)
    old = deque(zip(manifest.entries, manifest.split(vector), strict=True))
    for entry, place in zip(wide.entries, wide.split(out), strict=True):
        if old and _kind(old[0][0]) == _kind(entry):
            place[...] = old.popleft()[1]
        elif not entry.name.endswith(MASK):
            old.appendleft((entry, place))
            break
    if old:
        raise ModelError(
            f"a masked model must differ by its masks only, got {old[0][0]} besides; give the "
            "architecture that the weights are of"
        )
    return out


def _kind(entry: Entry) -> tuple[str, str, tuple[int, ...], str]:
    # of the name the last part: Keras calls the same layer now layer, now model/layer
    return entry.network, re.split("[/.]", entry.name)[-1], entry.shape, entry.kind


def masks(
    gaussians: Sequence[Gaussian],
    vector: Vector,
    *,
    fraction: float | None = None,
    threshold: float | None = None,
    per_layer: bool = False,
) -> Masks:
    """Choose the weights to prune; ``vector`` is only read.

    fraction: share of the weights that are pruned then, those pruned before among them, taken
    from the smallest |loc| / sigma upwards: ``floor(fraction n + 1/2)`` of n weights exactly, of
    equal ratios the first in the order of the vector. A share below what is pruned already
    changes nothing: pruned weights stay pruned.
    threshold: all weights with a smaller |loc| / sigma. Either this or ``fraction``.
    per_layer: n are the weights of each layer (its kernel and bias), not of all layers together.
    Raise ConfigError for numbers that make no sense, ModelError without Gaussian weights.
    """
    _check(gaussians, fraction, threshold, per_layer)
    ratios = [_ratios(one, vector) for one in gaussians]
    if threshold is not None:
        return [(one >= threshold).astype(np.float32) for one in ratios]
    assert fraction is not None
    kept: Masks = []
    for layer in layers(gaussians) if per_layer else [range(len(gaussians))]:
        flat = np.concatenate([ratios[index].reshape(-1) for index in layer])
        pruned = (flat < 0.0) | _smallest(flat, int(fraction * flat.size + 0.5))
        ends = np.cumsum([ratios[index].size for index in layer])[:-1]
        kept += np.split(np.float32(1.0) - pruned.astype(np.float32), ends)
    return [mask.reshape(one.loc.shape) for mask, one in zip(kept, gaussians, strict=True)]


def apply_masks(gaussians: Sequence[Gaussian], vector: Vector, chosen: Masks) -> None:
    """Write masks into ``vector``, shape ``(manifest.size,)``, and 0 to loc and rho under them.

    A rho of 0 is a sigma of 0.69: it is the mask alone that makes the standard deviation 0.
    Raise ModelError where a layer has no mask to write to.
    """
    for one, mask in zip(gaussians, chosen, strict=True):
        place = one.masks(vector)
        if place is None:
            raise ModelError(
                f"a layer must hold masks to be pruned, got none for {one.name}; "
                "turn the model into a masked one by nnlo.bayes.masked"
            )
        place[...] = mask
        one.means(vector)[mask == 0.0] = 0.0
        one.rhos(vector)[mask == 0.0] = 0.0


def pruned_share(gaussians: Sequence[Gaussian], vector: Vector) -> float:
    """Return which part of the Gaussian weights is pruned, 0 to 1."""
    places = [one.masks(vector) for one in gaussians]
    n_pruned = sum(int((one == 0.0).sum()) for one in places if one is not None)
    return n_pruned / max(1, sum(one.loc.size for one in gaussians))


def layers(gaussians: Sequence[Gaussian]) -> list[list[int]]:
    """Return the numbers of the tensors of each layer: those in a row of one name.

    A tensor that comes a second time begins the next layer of that name.
    """
    found: list[list[int]] = []
    last: tuple[str, str] | None = None
    tensors: set[str] = set()
    for index, one in enumerate(gaussians):
        *_, tensor = re.split("[/.]", one.name)
        layer = (one.loc.network, one.name.removesuffix(tensor))
        if layer != last or tensor in tensors:
            found.append([])
            last, tensors = layer, set()
        found[-1].append(index)
        tensors.add(tensor)
    return found


def _tools(model: Any) -> Any:
    """Return ``keras_masked`` or ``torch_masked``, whichever fits the model."""
    keras = sys.modules.get("keras")  # a model can only exist where its backend is imported
    is_keras = keras is not None and isinstance(model, keras.Model)
    return import_module(f"nnlo.bayes.{'keras' if is_keras else 'torch'}_masked")


def _check(
    gaussians: Sequence[Gaussian],
    fraction: float | None,
    threshold: float | None,
    per_layer: bool,
) -> None:
    if not gaussians:
        raise ModelError(
            "a model must have Gaussian weights to be pruned, got none; train one with "
            "variational layers, for example bnn_fc_flip"
        )
    if (fraction is None) == (threshold is None):
        raise ConfigError(
            f"either a fraction or a threshold must be given, got {fraction} and {threshold}; "
            "give one of them"
        )
    if fraction is not None and not 0.0 <= fraction <= 1.0:
        raise ConfigError(f"a pruned fraction must be from 0 to 1, got {fraction}; try 0.75")
    if threshold is not None and not threshold >= 0.0:
        raise ConfigError(f"a threshold of |mean| / sd must be at least 0, got {threshold}")
    if threshold is not None and per_layer:
        raise ConfigError(
            "per_layer must go with a fraction, got a threshold, which is the same for all "
            "layers; leave it out"
        )


def _ratios(one: Gaussian, vector: Vector) -> Vector:
    """Return |loc| / sigma, and -1 where the weight is pruned already."""
    ratio, mask = one.snr(vector), one.masks(vector)
    return ratio if mask is None else np.where(mask == 0.0, np.float32(-1.0), ratio)


def _smallest(values: Vector, n: int) -> NDArray[np.bool_]:
    """Tell which are the ``n`` smallest; of equal ones the first."""
    if n == 0:
        return np.zeros(values.shape, np.bool_)
    edge = np.partition(values, n - 1)[n - 1]
    chosen: NDArray[np.bool_] = values < edge
    chosen[np.flatnonzero(values == edge)[: n - int(chosen.sum())]] = True
    return chosen
