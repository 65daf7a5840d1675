"""A pruned model in a small file: indices and values of the weights that are left.

An ``.npz`` archive without pickles, compressed. ``format`` is the text "nnlo-sparse-1", ``layout``
the hash of the model's manifest. For each Gaussian tensor, under its label
``<network>/<name>`` (``#2``, ``#3``... are added where a name comes again):

    sparse/<label>/shape     int64 (n_axes,)
    sparse/<label>/indices   uint32 or uint64 (n_left,): positions in the flattened tensor, C order
    sparse/<label>/loc       float32 (n_left,): means
    sparse/<label>/rho       float32 (n_left,): the standard deviations are log(1 + exp(rho))

and ``dense/<label>``, float32 in its own shape, for everything else but the masks, which follow
from the indices.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from nnlo.bayes.gaussians import Gaussian, find_gaussians
from nnlo.errors import ModelError
from nnlo.files import write_atomic
from nnlo.model.adapter import Vector
from nnlo.model.manifest import Entry, Manifest

FORMAT = "nnlo-sparse-1"

Arrays = dict[str, NDArray[Any]]


def export_sparse(path: Path, manifest: Manifest, vector: Vector) -> None:
    """Write ``vector``, shape ``(manifest.size,)``, to ``path``; atomic."""
    manifest.check(vector)
    gaussians = find_gaussians(manifest)
    arrays: Arrays = {"format": np.array(FORMAT), "layout": np.array(manifest.hash)}
    for label, one in _labelled(gaussians):
        mask = one.masks(vector)
        left = np.arange(one.loc.size) if mask is None else np.flatnonzero(mask)
        arrays[f"sparse/{label}/shape"] = np.array(one.loc.shape, np.int64)
        arrays[f"sparse/{label}/indices"] = left.astype(_index_type(one.loc.size))
        arrays[f"sparse/{label}/loc"] = one.means(vector).reshape(-1)[left]
        arrays[f"sparse/{label}/rho"] = one.rhos(vector).reshape(-1)[left]
    for label, entry in _rest(manifest, gaussians):
        arrays[f"dense/{label}"] = _part(entry, vector)
    write_atomic(path, lambda stream: np.savez_compressed(stream, **arrays))  # type: ignore[arg-type]


def read_sparse(path: Path, manifest: Manifest) -> Vector:
    """Return the vector ``[T | S]`` that ``export_sparse`` was given, 0 where it was pruned.

    manifest: of an equal model, with masks as that one. Raise ModelError for a file that is not
    one of these, or is that of another model.
    """
    arrays = _read(path)
    if str(arrays.get("layout")) != manifest.hash:
        raise ModelError(
            f"sparse weights must be those of the model, got {path} of another one; "
            "give the model that was exported, with masks if it had some"
        )
    vector = np.zeros(manifest.size, np.float32)
    gaussians = find_gaussians(manifest)
    for label, one in _labelled(gaussians):
        left = arrays[f"sparse/{label}/indices"]
        one.means(vector).reshape(-1)[left] = arrays[f"sparse/{label}/loc"]
        one.rhos(vector).reshape(-1)[left] = arrays[f"sparse/{label}/rho"]
        mask = one.masks(vector)
        if mask is not None:
            mask.reshape(-1)[left] = 1.0
    for label, entry in _rest(manifest, gaussians):
        _part(entry, vector)[...] = arrays[f"dense/{label}"]
    return vector


def _read(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ModelError(
            f"sparse weights must be a file of export_sparse, got {path} ({error}); export again"
        ) from error
    if str(arrays.get("format")) != FORMAT:
        raise ModelError(
            f"sparse weights must be of the format {FORMAT}, got {path}; export again"
        )
    return arrays


def _labelled(gaussians: Sequence[Gaussian]) -> list[tuple[str, Gaussian]]:
    names = _unique([f"{one.loc.network}/{one.name}" for one in gaussians])
    return list(zip(names, gaussians, strict=True))


def _rest(manifest: Manifest, gaussians: Sequence[Gaussian]) -> list[tuple[str, Entry]]:
    """Return what is neither a Gaussian tensor nor its mask."""
    taken = {part for one in gaussians for part in (one.loc, one.rho, one.mask)}
    rest = [entry for entry in manifest.entries if entry not in taken]
    return list(zip(_unique([f"{one.network}/{one.name}" for one in rest]), rest, strict=True))


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return labels


def _part(entry: Entry, vector: Vector) -> Vector:
    return vector[entry.offset : entry.offset + entry.size].reshape(entry.shape)


def _index_type(size: int) -> type[np.unsignedinteger[Any]]:
    return np.uint32 if size <= 2**32 else np.uint64
