"""Where the Gaussian weights of a variational model lie in its flat vector; numpy only.

A Bayesian tensor is two trainable entries that follow each other, ``<name>_loc`` and
``<name>_rho`` of equal shape: each element is N(loc, softplus(rho)^2), independent of the
others. A pruned layer holds ``<name>_mask`` (0 or 1) in its state. A layer's state begins with
its ``kl_weight``, which tells the masks of layers with equal names apart.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ModelError
from nnlo.model.adapter import Vector
from nnlo.model.manifest import Entry, Manifest

LOC, RHO, MASK, WEIGHT = "_loc", "_rho", "_mask", "kl_weight"

Where = tuple[str, str, int, str]
"""Network, layer, number among the layers of that name, tensor."""


@dataclass(frozen=True)
class Gaussian:
    """One tensor of independent Gaussian weights; the vectors are ``[T | S]`` of its manifest.

    name: as in the manifest, without ``_loc``: need not be unique.
    """

    name: str
    loc: Entry
    rho: Entry
    mask: Entry | None

    def means(self, vector: Vector) -> Vector:
        """Return a view of ``loc`` in its own shape; a mask is not applied."""
        return _view(self.loc, vector)

    def rhos(self, vector: Vector) -> Vector:
        """Return a view of ``rho`` in its own shape."""
        return _view(self.rho, vector)

    def masks(self, vector: Vector) -> Vector | None:
        """Return a view of the mask in its own shape, None where the layer has none."""
        return None if self.mask is None else _view(self.mask, vector)

    def scales(self, vector: Vector) -> Vector:
        """Return the standard deviations, float32 in the tensor's shape; a mask is not applied."""
        return softplus(self.rhos(vector))

    def snr(self, vector: Vector) -> Vector:
        """Return |loc| / sigma, float32 in the tensor's shape; 0 for pruned weights."""
        ratio = np.abs(self.means(vector))
        with np.errstate(divide="ignore"):  # sigma may underflow
            np.divide(ratio, self.scales(vector), out=ratio, where=ratio > 0.0)
        mask = self.masks(vector)
        if mask is not None:
            ratio[mask == 0.0] = 0.0
        return ratio


def softplus(rho: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return log(1 + exp(rho)) without overflow, in the type of ``rho``."""
    return np.logaddexp(rho, np.zeros((), rho.dtype))


def rho_of(sigma: Any) -> Any:
    """Return the rho of a standard deviation > 0: the inverse of ``softplus``."""
    return sigma + np.log(-np.expm1(-np.asarray(sigma)))


def find_gaussians(manifest: Manifest) -> list[Gaussian]:
    """Return the Bayesian tensors in the order of the vector, [] for a deterministic model.

    ModelError where a mask fits none of them.
    """
    masks = _masks(manifest)
    found = []
    for where, loc, rho in _pairs(manifest):
        mask = masks.pop(where, None)
        if mask is not None and mask.shape != loc.shape:
            raise ModelError(
                f"a mask must have the shape of its weights, got {mask} for {loc}; "
                f"add the {WEIGHT} of a layer before its masks"
            )
        found.append(Gaussian(loc.name.removesuffix(LOC), loc, rho, mask))
    if masks:
        raise ModelError(
            f"a mask must belong to Bayesian weights, got {next(iter(masks.values()))}; "
            f"add the {WEIGHT} of a layer before its masks"
        )
    return found


def draw(
    gaussians: Sequence[Gaussian], vector: Vector, rng: np.random.Generator, out: Vector
) -> None:
    """Write to ``out`` the vector of one function drawn from the posterior.

    Copy of ``vector``, with ``loc`` = mask (loc + softplus(rho) eps), eps ~ N(0, 1) from
    ``rng``: the network in inference mode, which uses ``loc`` alone, is then that function. rho
    stays as it is. ``out`` may be ``vector`` itself.
    """
    if out is not vector:
        np.copyto(out, vector)
    for one in gaussians:
        weights = one.means(out)
        weights += one.scales(out) * rng.standard_normal(one.loc.shape, dtype=np.float32)
        mask = one.masks(out)
        if mask is not None:
            weights *= mask


def _pairs(manifest: Manifest) -> Iterator[tuple[Where, Entry, Entry]]:
    seen: dict[tuple[str, str], tuple[int, set[str]]] = {}
    trainable = [one for one in manifest.entries if one.kind == "T"]
    for loc, rho in pairwise(trainable):
        if not _is_pair(loc, rho):
            continue
        layer, tensor = _parts(loc, LOC)
        number, tensors = seen.get((loc.network, layer), (0, set()))
        if tensor in tensors:  # the next layer of that name
            number, tensors = number + 1, set()
        seen[loc.network, layer] = (number, tensors | {tensor})
        yield (loc.network, layer, number, tensor), loc, rho


def _is_pair(loc: Entry, rho: Entry) -> bool:
    name = loc.name.removesuffix(LOC)
    same = (loc.network, loc.shape) == (rho.network, rho.shape)
    return name != loc.name and rho.name == name + RHO and same


def _masks(manifest: Manifest) -> dict[Where, Entry]:
    numbers: dict[tuple[str, str], int] = {}
    masks = {}
    for one in manifest.entries:
        if one.kind != "S":
            continue
        if one.name.endswith(WEIGHT):
            key = (one.network, _parts(one, WEIGHT)[0])
            numbers[key] = numbers.get(key, -1) + 1
        elif one.name.endswith(MASK):
            layer, tensor = _parts(one, MASK)
            if (one.network, layer) in numbers:  # else of no Bayesian layer
                masks[one.network, layer, numbers[one.network, layer], tensor] = one
    return masks


def _parts(entry: Entry, ending: str) -> tuple[str, str]:
    """Return the layer, with its separator, and the tensor of an entry."""
    name = entry.name.removesuffix(ending)
    tensor = re.split("[/.]", name)[-1]
    return name[: len(name) - len(tensor)], tensor


def _view(entry: Entry, vector: Vector) -> Vector:
    return vector[entry.offset : entry.offset + entry.size].reshape(entry.shape)
