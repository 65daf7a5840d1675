"""The Stein direction: how particles move each other towards a posterior; pure numpy.

Liu & Wang 2016 (arXiv:1608.04471), equation 8. With the kernel k_ij = exp(-|d_ij|^2 / (2 h)) of
the differences d_ij = x_i - x_j, particle i moves along

    phi_i = 1/P sum_j [k_ij g_j + k_ij d_ij / h],      g_j = grad log p(x_j),

towards where the posterior is high, and away from the others. A group is a range of columns with
a kernel of its own; by one group, the whole, two particles of a large network are never near.

Everything is float64 inside, in blocks of columns from which their mean has been taken: squared
distances of float32 vectors would lose their digits where particles are close to each other.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nnlo.model.manifest import Manifest

Matrix = NDArray[np.float32]
"""One row a particle."""

Kernels = NDArray[np.float64]
"""(G, P, P): a symmetric matrix for each group of columns."""

_BLOCK = 1 << 17
"""Elements of a block: 1 MB, which stays in the cache."""


def layer_groups(manifest: Manifest) -> list[slice]:
    """Ranges of the trainable part: one for each layer.

    Entries that follow each other belong together while the names before their last part are
    equal and no last part comes again.
    """
    groups: list[slice] = []
    layer, seen = ("", ""), set[str]()
    for entry in manifest.entries:
        if entry.kind != "T" or not entry.size:
            continue
        path, _, last = entry.name.replace("/", ".").rpartition(".")
        start, stop = entry.offset, entry.offset + entry.size
        if groups and (entry.network, path) == layer and last not in seen:
            groups[-1] = slice(groups[-1].start, stop)
            seen.add(last)
        else:
            groups.append(slice(start, stop))
            layer, seen = (entry.network, path), {last}
    return groups


def part_of(groups: Sequence[slice], start: int, stop: int) -> list[slice]:
    """What of each group lies in the columns ``start:stop``, counted from there; may be empty."""
    inside = [(max(g.start, start), min(g.stop, stop)) for g in groups]
    return [slice(a - start, max(a, b) - start) for a, b in inside]


def gram(particles: Matrix, groups: Sequence[slice]) -> Kernels:
    """(G, P, P): the inner products of all particles in each group of columns.

    particles: (P, n), centred here. Those of several parts of the columns add up to those of
    the whole.
    """
    n_particles = len(particles)
    products = np.zeros((len(groups), n_particles, n_particles))
    for number, group in enumerate(groups):
        for block in _blocks(group, n_particles):
            x = _centred(particles[:, block])
            products[number] += x @ x.T
    return products


def kernels(products: Kernels, scale: float | None) -> tuple[Kernels, NDArray[np.float64]]:
    """The kernels (G, P, P), and their bandwidths h, shape (G,).

    products: of ``gram``. scale: h is its square; None for the median rule of the authors' code,
    h = median |d|^2 / (2 ln(P + 1)) over all P x P pairs, a particle with itself as well.
    """
    n_particles = products.shape[-1]
    lengths = np.einsum("gii->gi", products)
    squares = lengths[:, :, None] + lengths[:, None, :] - 2.0 * products
    np.maximum(squares, 0.0, out=squares)
    squares[:, range(n_particles), range(n_particles)] = 0.0
    if scale is None:
        widths = np.median(squares, axis=(1, 2))
        # Where most particles coincide it is 0, and where all do there is no distance at all.
        widths = np.where(widths > 0.0, widths, squares.mean(axis=(1, 2)))
        widths = np.where(widths == 0.0, 1.0, widths / (2.0 * np.log(n_particles + 1.0)))
    else:
        widths = np.full(len(products), scale**2)
    return np.exp(-squares / (2.0 * widths[:, None, None])), widths


def mean_interaction(kernel: Kernels) -> float:
    """The mean of k_ij over all pairs of different particles, and over groups; NaN for one."""
    n_groups, n_particles, _ = kernel.shape
    if n_particles < 2:
        return float("nan")
    others = kernel.sum() - np.einsum("gii->", kernel)
    return float(others / (n_groups * n_particles * (n_particles - 1)))


def descent(
    particles: Matrix,
    scores: Matrix,
    kernel: Kernels,
    widths: NDArray[np.float64],
    groups: Sequence[slice],
    rows: slice,
    out: Matrix,
) -> None:
    """Write -phi, what an optimizer descends along, of the particles ``rows`` to ``out``.

    particles, scores: (P, n), the latter grad log p. out: (number of rows, n); with all rows it
    may be one of the two.
    """
    n_particles = len(particles)
    for k, h, group in zip(kernel, widths, groups, strict=True):
        sums = k.sum(axis=1, keepdims=True)
        for block in _blocks(group, n_particles):
            x = _centred(particles[:, block]) / h
            phi = k[rows] @ (scores[:, block] - x) + sums[rows] * x[rows]
            out[:, block] = phi / -n_particles


def _centred(block: Matrix) -> NDArray[np.float64]:
    x = block.astype(np.float64)
    x -= x.mean(axis=0)
    return x


def _blocks(group: slice, n_particles: int) -> Iterator[slice]:
    width = max(_BLOCK // n_particles, 64)
    for start in range(group.start, group.stop, width):
        yield slice(start, min(start + width, group.stop))
