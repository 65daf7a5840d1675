"""The folder of a run: what was asked, what happened, what came out."""

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nnlo.cli.train_options import TrainOptions
from nnlo.errors import ConfigError
from nnlo.files import write_atomic, write_text
from nnlo.mpi.frame import pack_arrays
from nnlo.mpi.manager import MPIManager

_LIBRARIES = ("nnlo", "numpy", "numba", "keras", "tensorflow", "torch", "jax", "h5py", "mpi4py")


class RunDirectory:
    """``<output>/<model>-<trial>/``; holds config.json, history.json, log.txt, the final and
    the best model, weights.npz and checkpoints/."""

    def __init__(self, output: str, model: str, trial: str) -> None:
        for name, text in (("--model", model), ("--trial-name", trial)):
            if not text or "/" in text or text.startswith("."):
                raise ConfigError(f"{name} must give a name for a folder, got {text!r}")
        self.path = Path(output) / f"{model}-{trial}"

    def create(self) -> None:
        """Make the folder and see that it can be written. Raises ConfigError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / ".writable", "")
            (self.path / ".writable").unlink()
        except OSError as error:
            raise ConfigError(
                f"--output must be a folder that can be written, got {self.path} ({error}); "
                "free space or name another folder"
            ) from error

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def checkpoint(self, name: str | None) -> Path | None:
        """Where checkpoints called ``name`` are: in the run, or as a path where it is one."""
        if name is None:
            return None
        path = Path(name)
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
        """The history, the final and the best model; returns the best model's file.

        Raises ConfigError when the disk does not take them.
        """
        assert manager.history is not None
        adapter = manager.adapter
        try:
            manager.history.save(self.path / "history.json")
            models = {"model": manager.weights, "best": manager.best}
            for name, weights in models.items():
                file = self.path / f"{name}{adapter.suffix}"
                if weights is None:
                    self._remove(name, adapter.suffix)
                    continue
                adapter.set_flat(weights)
                last = adapter.save(file)[0]
                self._write_weights(name, manager, weights)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return last

    def _remove(self, name: str, suffix: str) -> None:
        """Files of a run before this one: of the model, its networks and its weights."""
        for pattern in (f"{name}{suffix}", f"{name}-*{suffix}", f"{name}.weights.*"):
            for file in self.path.glob(pattern):
                file.unlink()

    def _write_weights(self, name: str, manager: MPIManager, weights: Any) -> None:
        manifest = manager.adapter.manifest
        arrays: dict[str, Any] = {}
        for entry, part in zip(manifest.entries, manifest.split(weights), strict=True):
            label = f"{entry.network}/{entry.name}"
            same = sum(other == label or other.startswith(f"{label}#") for other in arrays)
            arrays[f"{label}#{same + 1}" if same else label] = part
        file = "weights.npz" if name == "model" else f"{name}.weights.npz"
        write_atomic(self.path / file, lambda stream: stream.write(pack_arrays(arrays)))


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"results must be written to {path}, got {error}; free space")


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
