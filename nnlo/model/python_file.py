"""A model as a Python file of the user's, with what else it says of its training."""

import copy
import hashlib
import importlib.abc
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from nnlo.errors import ConfigError, ModelError
from nnlo.model.builder import DatasetName, FigureOfMerit, ModelBuilder, Repair, existing


class ModelFromPython(ModelBuilder):
    """A file with ``get_model(**hyperparameters)``.

    It may also hold get_name(), get_train() and get_val() (lists of files), get_features() and
    get_labels() (a dataset's name, or the name and a function), get_loss() (a name), and for a
    search ``get_model.parameter_range`` (a list of scikit-optimize dimensions), repair(params)
    and figure_of_merit(history). The file runs on first use, under a module name that depends
    on its text alone, so that it is equal on all ranks.
    """

    def __init__(self, file: str | Path, **hyperparameters: Any) -> None:
        self.file = existing(file)
        self.hyperparameters = hyperparameters
        self._runs_anew = False

    @cached_property
    def _text(self) -> bytes:
        return self.file.read_bytes()

    @property
    def digest(self) -> str:
        """Of the text of the file, equal for equal ones."""
        return hashlib.sha256(self._text).hexdigest()[:12]

    @cached_property
    def module(self) -> ModuleType:
        """The user's file, run once; raise ModelError where that fails."""
        name = f"nnlo_model_{self.file.stem}_{self.digest}"
        known = None if self._runs_anew else sys.modules.get(name)
        module = known or self._execute(name)
        if not callable(getattr(module, "get_model", None)):
            raise ModelError(
                f"a model file must define get_model(), got none in {self.file}; "
                "add a function get_model that returns the model"
            )
        return module

    def having(self, **hyperparameters: Any) -> "ModelFromPython":
        """Return another of the same text, whatever has become of the file.

        The text is run anew: what stands at its top, a layer perhaps, is not trained on.
        """
        other = copy.copy(self)
        other._text = self._text
        other.__dict__.pop("module", None)
        other.hyperparameters = self.hyperparameters | hyperparameters
        other._runs_anew = True
        return other

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
        loader = _TextLoader(self._text, str(self.file))
        specification = importlib.util.spec_from_file_location(name, self.file, loader=loader)
        assert specification is not None
        module = importlib.util.module_from_spec(specification)
        # before it runs, so that dataclasses and pickles inside the file find their module
        sys.modules[name] = module
        try:
            with _importable(self.file.parent):
                loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            if not isinstance(error, Exception):
                raise
            raise ModelError(
                f"a model file must import without errors, got {type(error).__name__}: {error} "
                f"in {self.file}; run python {self.file} to see where"
            ) from error
        return module


class _TextLoader(importlib.abc.InspectLoader):
    """Runs a text that was read from ``file``, not what is there now."""

    def __init__(self, text: bytes, file: str) -> None:
        self._text = text
        self._file = file

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._text)

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._text, self._file)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let ``import sibling`` work inside the block for files of ``folder``."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
