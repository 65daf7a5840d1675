"""From what the user typed after ``--model`` to a builder."""

from pathlib import Path
from typing import Any

from nnlo.errors import ConfigError
from nnlo.model.builder import ModelBuilder, ModelFromJson, ModelFromKeras
from nnlo.model.python_file import ModelFromPython


def zoo_folder() -> Path:
    """Return where the models that come with the package are."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "zoo"
    return installed if installed.is_dir() else package.parent / "models"


def zoo_names() -> list[str]:
    """Return the names that ``load_builder`` takes besides files."""
    return sorted(path.stem for path in zoo_folder().glob("[!_]*.py"))


def load_builder(spec: str | Path, **hyperparameters: Any) -> ModelBuilder:
    """Return the builder of a zoo name or of a .py, .json or .keras file.

    hyperparameters: arguments of ``get_model`` in a .py file or the zoo; ``weights=FILE`` for a
    .json file; none for a .keras file. Raise ConfigError for what is neither, ModelError for a
    file that is not there.
    """
    ending = Path(spec).suffix
    if ending == ".py":
        return ModelFromPython(spec, **hyperparameters)
    if ending == ".json":
        _allow(spec, hyperparameters, {"weights"})
        return ModelFromJson(spec, **hyperparameters)
    if ending == ".keras":
        _allow(spec, hyperparameters, set())
        return ModelFromKeras(spec)
    if str(spec) in zoo_names():
        return ModelFromPython(zoo_folder() / f"{spec}.py", **hyperparameters)
    raise ConfigError(
        f"a model must be one of {', '.join(zoo_names())} or a .py, .json or .keras file, "
        f"got {str(spec)!r}; correct the name"
    )


def _allow(spec: str | Path, given: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(
            f"hyper-parameters must belong to a Python model, got {', '.join(unknown)} for "
            f"{spec}; turn the file into a .py file with get_model({', '.join(unknown)})"
        )
