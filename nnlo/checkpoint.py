"""Checkpoints: everything a run needs to go on, in one file that is complete or absent.

A checkpoint is an uncompressed ``.npz`` archive: arrays by name, each with the checksum of the
zip format, and ``meta``, a JSON text. Nothing in it is ever pickled.
"""

import json
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import CheckpointError
from nnlo.files import write_atomic

Arrays = dict[str, NDArray[Any]]

_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    RuntimeError,  # NotImplementedError among them: bytes that look like another zip feature
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Checkpoint:
    """arrays: by path-like name ("weights", "algo/slot_0", "worker/1/position").
    meta: numbers and texts, JSON."""

    arrays: Arrays
    meta: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> Arrays:
        """The arrays whose names start with ``prefix``, without it."""
        return part(self.arrays, prefix)


def part(arrays: Arrays, prefix: str) -> Arrays:
    """Those whose names start with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def read(path: Path) -> Checkpoint:
    """Raises CheckpointError for a file that is missing, cut off or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            # Whole members first: numpy by itself may stop reading before the checksum.
            members = {
                name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()
            }
        arrays = {name: _array(data) for name, data in members.items()}
        meta = json.loads(str(arrays.pop("meta")))
        if sorted(arrays) != meta.pop("arrays"):
            raise ValueError("an array is missing")
    except _DAMAGE as error:
        raise CheckpointError(
            f"a checkpoint must be a complete archive, got {path} ({error}); "
            "restore from another one"
        ) from error
    return Checkpoint(arrays, meta)


def _array(data: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(BytesIO(data), allow_pickle=False)
    return array


class CheckpointStore:
    """The checkpoints of one run: ``<base>-<epoch>.npz``, the newest few kept.

    base: path without ending; a name alone belongs into the run's ``checkpoints`` folder.
    keep: how many files stay.
    """

    def __init__(self, base: Path, keep: int = 3) -> None:
        self.base = base
        self._keep = keep

    def save(self, checkpoint: Checkpoint, epoch: int) -> Path:
        """Write, then forget the oldest; raises CheckpointError when the disk does not take it."""
        path = self.base.with_name(f"{self.base.name}-{epoch:05d}.npz")
        meta = np.array(json.dumps(checkpoint.meta | {"arrays": sorted(checkpoint.arrays)}))
        try:
            write_atomic(
                path,
                lambda stream: np.savez(
                    stream,
                    allow_pickle=False,
                    meta=meta,
                    **checkpoint.arrays,  # type: ignore[arg-type]
                ),
            )
        except OSError as error:
            raise CheckpointError(
                f"a checkpoint must be written to {path}, got {error}; "
                "free space or give another --output"
            ) from error
        for old in self.files()[: -self._keep]:
            old.unlink(missing_ok=True)
        return path

    def files(self) -> list[Path]:
        """Complete-looking files, oldest first."""
        pattern = re.compile(re.escape(self.base.name) + r"-\d+\.npz")
        if not self.base.parent.is_dir():
            return []
        found = [p for p in self.base.parent.iterdir() if pattern.fullmatch(p.name)]
        return sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name))

    def newest(self) -> Checkpoint:
        """The newest checkpoint that is whole; damaged ones are passed over."""
        errors = []
        for path in reversed(self.files()):
            try:
                return read(path)
            except CheckpointError as error:
                errors.append(str(error))
        raise CheckpointError(
            "\n".join(errors)
            or f"a checkpoint must be at {self.base}-*.npz, got none; check the name"
        )
