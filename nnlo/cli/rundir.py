"""The folder of a run: what was asked, what happened, what came out."""

import json
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nnlo.algo.base import Vector
from nnlo.cli.train_options import TrainOptions
from nnlo.errors import ConfigError
from nnlo.files import FolderLock, remove_leftovers, write_atomic, write_text
from nnlo.model.manifest import Manifest
from nnlo.mpi.frame import pack_arrays
from nnlo.mpi.manager import MPIManager
from nnlo.report.timeline import write_timeline

_LIBRARIES = ("nnlo", "numpy", "numba", "keras", "tensorflow", "torch", "jax", "h5py", "mpi4py")

LOCK_PATIENCE = 5.0
"""Seconds in which the ranks of a run whose launcher was killed have ended."""


class RunDirectory:
    """``<output>/<model>-<trial>/``; holds config.json, history.json, log.txt, the final and
    the best model, weights.npz and checkpoints/."""

    def __init__(self, output: str, model: str, trial: str) -> None:
        for name, text in (("--model", model), ("--trial-name", trial)):
            if not text.isprintable() or not text or "/" in text or text.startswith("."):
                raise ConfigError(f"{name} must give a name for a folder, got {text!r}")
        self._settle(Path(output) / f"{model}-{trial}")

    @classmethod
    def at(cls, path: Path) -> "RunDirectory":
        """A folder whose name the program itself has chosen."""
        folder = cls.__new__(cls)
        folder._settle(path)
        return folder

    def _settle(self, path: Path) -> None:
        self.path = path
        self._lock = FolderLock(path / ".lock")

    def create(self, patience: float = LOCK_PATIENCE) -> None:
        """Make the folder, take it for this process and see that it can be written.

        It is this process's until ``close`` or the process's end, however that comes about.
        What a run that was killed was about to write is removed. patience: seconds that
        another run may still need to end. Raises ConfigError.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.take(patience)
            write_text(self.path / ".writable", "")
            (self.path / ".writable").unlink()
        except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
            raise ConfigError(
                f"--output must be a folder that can be written, got {self.path} ({error}); "
                "free space or name another folder"
            ) from error
        if self._lock.is_held:
            for folder in (self.path, self.path / "checkpoints"):
                remove_leftovers(folder)

    def close(self) -> None:
        """Let another run have the folder."""
        self._lock.release()

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def checkpoint(self, name: str | None) -> Path | None:
        """Where checkpoints called ``name`` are: in the run, or as a path where it is one."""
        if name is None:
            return None
        path = Path(name)
        if not path.name or not name.isprintable():
            raise ConfigError(
                f"--checkpoint and --restore must be a name or a path, got {name!r}; try CP"
            )
        return path if len(path.parts) > 1 or path.is_file() else self.path / "checkpoints" / name

    def write_config(self, options: TrainOptions, about: Mapping[str, Any]) -> None:
        """What the run was told and what it runs on; ``--config`` reads this file.

        Raises ConfigError when the disk does not take it.
        """
        content = {
            "options": asdict(options),
            "command": sys.argv,
            **about,
            "python": platform.python_version(),
            "libraries": _versions(),
        }
        try:
            write_text(self.path / "config.json", json.dumps(content, indent=1))
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write_results(self, manager: MPIManager) -> Path:
        """The history, the final and the best model, the timeline; returns the best model's file.

        Each is tried, whatever became of the others; raises ConfigError with what the disk did
        not take.
        """
        history = manager.history
        assert history is not None
        files = [self.path / f"model{manager.adapter.suffix}"]
        errors: list[OSError] = []

        def attempt(write: Callable[..., object], *args: Any) -> None:
            try:
                write(*args)
            except OSError as error:
                errors.append(error)

        def save(name: str, weights: Vector) -> None:
            manager.adapter.set_flat(weights)
            files.append(manager.adapter.save(self.path / f"{name}{manager.adapter.suffix}")[0])

        attempt(history.save, self.path / "history.json")
        for name, weights in (("model", manager.weights), ("best", manager.best)):
            if weights is None:
                attempt(self._remove, name, manager.adapter.suffix)
                continue
            attempt(save, name, weights)
            attempt(self._write_weights, name, manager, weights)
        if manager.timeline:
            attempt(write_timeline, self.path / "timeline.json", manager.timeline)
        if errors:
            raise _unwritable(self.path, *errors) from errors[0]
        return files[-1]

    def _remove(self, name: str, suffix: str) -> None:
        """Files of a run before this one: of the model, its networks and its weights."""
        for pattern in (f"{name}{suffix}", f"{name}-*{suffix}", f"{name}.weights.*"):
            for file in self.path.glob(pattern):
                file.unlink()

    def _write_weights(self, name: str, manager: MPIManager, weights: Any) -> None:
        manifest = manager.adapter.manifest
        arrays = dict(zip(weight_names(manifest), manifest.split(weights), strict=True))
        file = "weights.npz" if name == "model" else f"{name}.weights.npz"
        write_atomic(self.path / file, lambda stream: stream.write(pack_arrays(arrays)))


def weight_names(manifest: Manifest) -> list[str]:
    """What each variable is called in ``weights.npz``, in the order of the manifest."""
    names: dict[str, None] = {}
    for entry in manifest.entries:
        label = f"{entry.network}/{entry.name}"
        same = sum(other == label or other.startswith(f"{label}#") for other in names)
        names[f"{label}#{same + 1}" if same else label] = None
    return [*names]


def _unwritable(path: Path, *errors: OSError) -> ConfigError:
    reasons = "; ".join(dict.fromkeys(map(str, errors)))
    return ConfigError(f"results must be written to {path}, got {reasons}; free space")


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
