"""Where models come from: builders that make a fresh one on every call."""

import copy
import hashlib
import importlib.util
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from types import ModuleType
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
        self.file = _existing(file)
        self.weights = None if weights is None else _existing(weights)

    @property
    def name(self) -> str:
        return self.file.stem

    def build_model(self) -> Any:
        """Raise ModelError for a file that Keras 3 cannot read."""
        import keras

        try:
            model = keras.models.model_from_json(self.file.read_text(encoding="utf-8"))
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
        self.file = _existing(file)

    @property
    def name(self) -> str:
        return self.file.stem

    def build_model(self) -> Any:
        """Raise ModelError for a file that Keras 3 cannot read."""
        import keras

        try:
            return keras.models.load_model(self.file, compile=False, safe_mode=True)
        except Exception as error:  # a damaged file can raise anything in Keras
            raise ModelError(
                f"a .keras model must be a file written by model.save, got {self.file} "
                f"({_first_line(error)}); save it again with Keras 3"
            ) from error


class ModelFromPython(ModelBuilder):
    """A file with ``get_model(**hyperparameters)``.

    It may also hold get_name(), get_train() and get_val() (lists of files), get_features() and
    get_labels() (a dataset's name, or the name and a function), get_loss() (a name), and for a
    search ``get_model.parameter_range`` (a list of scikit-optimize dimensions), repair(params)
    and figure_of_merit(history). The file runs on first use, under a module name that depends
    on its text alone, so that it is equal on all ranks.
    """

    def __init__(self, file: str | Path, **hyperparameters: Any) -> None:
        self.file = _existing(file)
        self.hyperparameters = hyperparameters

    @cached_property
    def module(self) -> ModuleType:
        """The user's file, run once; raise ModelError where that fails."""
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()[:12]
        name = f"nnlo_model_{self.file.stem}_{digest}"
        module = sys.modules.get(name) or self._execute(name)
        if not callable(getattr(module, "get_model", None)):
            raise ModelError(
                f"a model file must define get_model(), got none in {self.file}; "
                "add a function get_model that returns the model"
            )
        return module

    def having(self, **hyperparameters: Any) -> "ModelFromPython":
        """Return another of the same text, whatever has become of the file since it was run."""
        other = copy.copy(self)
        other.hyperparameters = self.hyperparameters | hyperparameters
        return other

    @property
    def digest(self) -> str:
        """Of the text of the file, equal for equal ones."""
        return self.module.__name__.rpartition("_")[2]

    def build_model(self) -> Any:
        """Raise ConfigError for a hyper-parameter that ``get_model`` does not take."""
        get_model = self.module.get_model
        try:
            inspect.signature(get_model).bind(**self.hyperparameters)
        except TypeError as error:
            raise ConfigError(
                f"hyper-parameters must be arguments of get_model in {self.file}, got "
                f"{self.hyperparameters} ({error}); it takes {inspect.signature(get_model)}"
            ) from error
        with _importable(self.file.parent):
            return get_model(**self.hyperparameters)

    @property
    def name(self) -> str:
        return str(self._ask("get_name", self.file.stem))

    @property
    def loss(self) -> str | None:
        loss: str | None = self._ask("get_loss", None)
        return loss

    @property
    def features(self) -> DatasetName:
        name: DatasetName = self._ask("get_features", "features")
        return name

    @property
    def labels(self) -> DatasetName:
        name: DatasetName = self._ask("get_labels", "labels")
        return name

    @property
    def parameter_range(self) -> list[Any]:
        return list(getattr(self.module.get_model, "parameter_range", None) or ())

    @property
    def parameter_names(self) -> tuple[str, ...]:
        arguments = inspect.signature(self.module.get_model).parameters.values()
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return tuple(one.name for one in arguments if one.kind not in several)

    @property
    def repair(self) -> Repair | None:
        hook: Repair | None = self._hook("repair")
        return hook

    @property
    def figure_of_merit(self) -> FigureOfMerit | None:
        hook: FigureOfMerit | None = self._hook("figure_of_merit")
        return hook

    def train_files(self) -> list[str] | None:
        files = self._ask("get_train", None)
        return None if files is None else [str(one) for one in files]

    def val_files(self) -> list[str] | None:
        files = self._ask("get_val", None)
        return None if files is None else [str(one) for one in files]

    def _ask(self, function: str, default: Any) -> Any:
        hook = getattr(self.module, function, None)
        if hook is None:
            return default
        with _importable(self.file.parent):
            return hook()

    def _hook(self, name: str) -> Any:
        """Return the file's function ``name``, which may import what lies beside the file."""
        function = getattr(self.module, name, None)
        if function is None:
            return None
        if not callable(function):
            raise ModelError(
                f"{name} must be a function, got {function!r} in {self.file}; "
                f"write def {name}(...) or take another name"
            )

        @wraps(function)  # figure_of_merit may have names
        def call(argument: Any) -> Any:
            with _importable(self.file.parent):
                return function(argument)

        return call

    def _execute(self, name: str) -> ModuleType:
        specification = importlib.util.spec_from_file_location(name, self.file)
        if specification is None or specification.loader is None:
            raise ModelError(f"a model file must be Python, got {self.file}; name it .py")
        module = importlib.util.module_from_spec(specification)
        # before it runs, so that dataclasses and pickles inside the file find their module
        sys.modules[name] = module
        try:
            with _importable(self.file.parent):
                specification.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            if not isinstance(error, Exception):
                raise
            raise ModelError(
                f"a model file must import without errors, got {type(error).__name__}: {error} "
                f"in {self.file}; run python {self.file} to see where"
            ) from error
        return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let ``import sibling`` work inside the block for files of ``folder``."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _existing(file: str | Path) -> Path:
    path = Path(file)
    if not path.is_file():
        raise ModelError(f"a model file must exist, got {path}; check the path")
    return path.resolve()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
