"""Where models come from: builders that make a fresh one on every call."""

import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from nnlo.errors import ConfigError, ModelError
from nnlo.history import History

DatasetName = str | tuple[str, Callable[..., Any]]
"""A dataset of the HDF5 files, or that and a function which its arrays go through."""

Repair = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Gets hyper-parameters that it may change; returns them as they shall be, or None for no."""

FigureOfMerit = Callable[[History], float | Sequence[float]]
"""What a search minimises, a number or several, of a finished training."""


class ModelBuilder(ABC):
    """Makes a model; a user's own needs ``build_model`` only, the rest has defaults."""

    @abstractmethod
    def build_model(self) -> Any:
        """Return a new Keras model or torch module; compiled or not does not matter."""

    @property
    def name(self) -> str:
        """What the run is called, for folders and files."""
        return type(self).__name__

    @property
    def loss(self) -> str | None:
        """The loss to use where the user names none."""
        return None

    @property
    def features(self) -> DatasetName:
        """Where the inputs are in a data file."""
        return "features"

    @property
    def labels(self) -> DatasetName:
        """Where the labels are in a data file."""
        return "labels"

    @property
    def parameter_range(self) -> list[Any]:
        """The scikit-optimize dimensions of the hyper-parameters, named as they are."""
        return []

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The hyper-parameters in order, for dimensions without a name."""
        return ()

    @property
    def repair(self) -> Repair | None:
        """What sets right, or rejects, parameters that a search has drawn."""
        return None

    @property
    def figure_of_merit(self) -> FigureOfMerit | None:
        """What a search minimises where the user names no metric."""
        return None

    def having(self, **hyperparameters: Any) -> "ModelBuilder":
        """Return the builder of the same model with these; raise ConfigError if it takes none."""
        if hyperparameters:
            names = ", ".join(hyperparameters)
            raise ConfigError(
                f"hyper-parameters must belong to a Python model, got {names} for {self.name}; "
                f"write a .py file with get_model({names})"
            )
        return self

    def train_files(self) -> list[str] | None:
        """Return the model's own training files, None if it has none."""
        return None

    def val_files(self) -> list[str] | None:
        """Return the model's own validation files, None if it has none."""
        return None


class ModelFromJson(ModelBuilder):
    """A Keras architecture as written by ``model.to_json()``, with weights or fresh ones.

    Keras reads it in its safe mode: code inside the file (a Lambda layer) is refused, not run.
    """

    def __init__(self, file: str | Path, weights: str | Path | None = None) -> None:
        self.file = existing(file)
        self.weights = None if weights is None else existing(weights)

    @property
    def name(self) -> str:
        return self.file.stem

    def build_model(self) -> Any:
        """Raise ModelError for a file that Keras 3 cannot read."""
        import keras

        try:
            text = self.file.read_text(encoding="utf-8")
            _know_layers(text)
            model = keras.models.model_from_json(text)
            if not isinstance(model, keras.Model):
                raise TypeError(f"it holds a {type(model).__name__}")  # noqa: TRY301
        except Exception as error:  # a damaged file can raise anything in Keras
            raise ModelError(
                f"a JSON model must be the output of model.to_json() in Keras 3, got {self.file} "
                f"({_first_line(error)}); write it again with Keras 3, or use a .py file"
            ) from error
        if self.weights is not None:
            try:
                model.load_weights(self.weights)
            except Exception as error:  # the same
                raise ModelError(
                    f"weights must fit the architecture {self.file}, got {self.weights} "
                    f"({_first_line(error)}); write them by model.save_weights"
                ) from error
        return model


class ModelFromKeras(ModelBuilder):
    """A whole model as written by ``model.save``; only its architecture and weights count.

    Read in the safe mode of Keras, as that of ModelFromJson.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = existing(file)

    @property
    def name(self) -> str:
        return self.file.stem

    def build_model(self) -> Any:
        """Raise ModelError for a file that Keras 3 cannot read."""
        import keras

        try:
            with zipfile.ZipFile(self.file) as archive:
                _know_layers(archive.read("config.json").decode())
            return keras.models.load_model(self.file, compile=False, safe_mode=True)
        except Exception as error:  # a damaged file can raise anything in Keras
            raise ModelError(
                f"a .keras model must be a file written by model.save, got {self.file} "
                f"({_first_line(error)}); save it again with Keras 3"
            ) from error


def existing(file: str | Path) -> Path:
    path = Path(file)
    if not path.is_file():
        raise ModelError(f"a model file must exist, got {path}; check the path")
    return path.resolve()


def _know_layers(architecture: str) -> None:
    """Import the files of this package that an architecture names, so that Keras knows them.

    Keras finds layers that are not its own only where they have been imported. Of the names in
    the text only those of our layers count: a file cannot have others imported.
    """
    for name in sorted(set(re.findall(r'"module": *"(nnlo\.bayes\.keras_\w+)"', architecture))):
        import_module(name)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
