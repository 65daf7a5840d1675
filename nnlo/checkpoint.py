"""Checkpoints: everything a run needs to go on, in one file that is complete or absent.

A checkpoint is an uncompressed ``.npz`` archive: arrays by name, each with the checksum of the
zip format, and ``meta``, a JSON text. Nothing in it is ever pickled.
"""

import json
import logging
import re
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import CheckpointError, ConfigError
from nnlo.files import remove_leftovers, write_atomic, write_text

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]

_LEFT_AFTER_S = 600.0
"""Age of a temporary file that no living writer has; a checkpoint is written in less."""


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
            entries = archive.infolist()
            _check_sizes(entries, path.stat().st_size)
            # Whole members first: numpy by itself may stop reading before the checksum.
            members = {
                entry.filename.removesuffix(".npy"): archive.read(entry) for entry in entries
            }
        arrays = {name: _array(data) for name, data in members.items()}
        meta = json.loads(str(arrays.pop("meta")))
        if sorted(arrays) != meta.pop("arrays"):
            raise ValueError("an array is missing")  # noqa: TRY301
    except Exception as error:  # damaged bytes look like any feature of zip, numpy and JSON
        raise CheckpointError(
            f"a checkpoint must be a complete archive, got {path} "
            f"({error or type(error).__name__}); restore from another one"
        ) from error
    return Checkpoint(arrays, meta)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file that ``read`` reads; raises CheckpointError where the disk is full."""
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


def _check_sizes(entries: list[zipfile.ZipInfo], file_size: int) -> None:
    """Members are stored as they are, so that none can be larger than the file."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("a member is compressed")
    if sum(entry.file_size for entry in entries) > file_size:
        raise ValueError("its members are larger than the file")


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

    def prepare(self) -> None:
        """Make the folder and see that it can be written; raises ConfigError."""
        folder = self.base.parent
        try:
            write_text(folder / f".{self.base.name}.writable", "")
            (folder / f".{self.base.name}.writable").unlink()
        except OSError as error:
            raise ConfigError(
                f"--checkpoint must be in a folder that can be written, got {folder} ({error}); "
                "free space or name another one"
            ) from error

    def save(self, checkpoint: Checkpoint, epoch: int) -> Path:
        """Write, then forget the oldest; raises CheckpointError when the disk does not take it."""
        path = self.base.with_name(f"{self.base.name}-{epoch:05d}.npz")
        write(path, checkpoint)
        self._forget(path)
        return path

    def _forget(self, newest: Path) -> None:
        """Remove the oldest files, and what writers that were killed have left."""
        with suppress(OSError):  # another time will do
            for old in self.files()[: -self._keep]:
                if old != newest:  # where a clock was set back
                    old.unlink(missing_ok=True)
            before = newest.stat().st_mtime - _LEFT_AFTER_S  # one clock: that of the disk
            remove_leftovers(newest.parent, f"{self.base.name}-", before)

    def files(self) -> list[Path]:
        """Complete-looking files, oldest first; raises CheckpointError for a bad folder."""
        pattern = re.compile(re.escape(self.base.name) + r"-\d+\.npz")
        found = []
        try:
            for path in self.base.parent.iterdir():
                if pattern.fullmatch(path.name):
                    with suppress(FileNotFoundError):  # another process has just removed it
                        found.append((path.stat().st_mtime_ns, path.name, path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"the folder of checkpoints must be readable, got {error}; check {self.base}"
            ) from error
        return [path for _, _, path in sorted(found)]

    def newest(self) -> Checkpoint:
        """The newest checkpoint that is whole; damaged ones are passed over with a warning."""
        errors = []
        for path in reversed(self.files()):
            try:
                checkpoint = read(path)
            except CheckpointError as error:
                log.warning("passed over: %s", error)
                errors.append(str(error))
            else:
                log.info("read checkpoint %s", path)
                return checkpoint
        raise CheckpointError(
            "\n".join(errors)
            or f"a checkpoint must be at {self.base}-*.npz, got none; check the name"
        )
