"""Callbacks by name, and the learning-rate callbacks that Keras does not have.

Callbacks run on rank 0 and see the run as ``nnlo.mpi.callbacks`` shows it to them. Keras is
imported only for callbacks that are Keras' own.
"""

import ast
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

from nnlo.errors import ConfigError

_INSTEAD = MappingProxyType(
    {
        "backup_and_restore": "use --checkpoint and --restore",
        "callback": "it does nothing",
        "callback_list": "name its callbacks, one a word",
        "history": "history.json is always written",
        "lambda_callback": "hand it over in Python",
        "learning_rate_scheduler": "use cosine or step, or hand it over in Python",
        "orbax_checkpoint": "use --checkpoint",
        "progbar_logger": "progress is always shown",
        "swap_ema_weights": "it needs an optimizer of Keras on the master",
        "tensor_board": "use --tensorboard",
        "tensorboard": "use --tensorboard",
    }
)
"""What Keras has and the command line cannot offer, with what to do about it."""

_ALONE = (("warmup",), ("cosine", "step", "reduce_lr_on_plateau"))
"""Of each group a run has one at most: two would undo each other's learning rate."""


class Callback:
    """The hooks of a Keras callback, without Keras. model: as ``TrainedModel`` shows it."""

    model: Any = None
    params: Any = MappingProxyType({})

    def set_model(self, model: Any) -> None:
        self.model = model

    def set_params(self, params: Any) -> None:
        self.params = params

    def on_train_begin(self, logs: Any = None) -> None: ...

    def on_train_end(self, logs: Any = None) -> None: ...

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None: ...

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None: ...

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None: ...

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None: ...


class Warmup(Callback):
    """Let the learning rate rise in a straight line over the first ``batches`` updates.

    It is a factor on whatever the rate is: update ``n``, from 1, is applied with
    ``start + (1 - start) * n / batches`` of it, and from update ``batches`` on with all of it
    (Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.2). Other callbacks read
    and set the rate that comes after the warm-up. start: a share in [0, 1].
    """

    def __init__(self, batches: int, start: float = 0.0) -> None:
        if not isinstance(batches, int) or batches < 1:
            raise ConfigError(f"warmup must have batches of 1 or more, got {batches!r}; try 500")
        if not 0.0 <= start <= 1.0:
            raise ConfigError(f"warmup must have a start in [0, 1], got {start!r}; try 0.1")
        self.batches = batches
        self.start = start

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        if 0 < self.model.version < self.batches:
            # Restored from within the warm-up: the rate in the checkpoint has the factor in it.
            optimizer.learning_rate = optimizer.base_learning_rate
        self._update()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._update()

    def _update(self) -> None:
        """Set the factor for the next update."""
        share = min(1.0, (self.model.version + 1) / self.batches)
        self.model.optimizer.scale = self.start + (1.0 - self.start) * share


class Schedule(Callback):
    """Set the learning rate to ``rate(position)`` before every update.

    rate: a ``keras.optimizers.schedules`` object, or a function of a number. unit: what the
    position counts, from 0: "batches" (updates applied, a whole number) or "epochs" (with the
    fraction of the present one, by samples).
    """

    def __init__(self, rate: Callable[[Any], Any], unit: str = "batches") -> None:
        if not callable(rate):
            raise ConfigError(f"a schedule must be callable, got {rate!r}; give a function")
        if unit not in ("batches", "epochs"):
            raise ConfigError(f'unit must be "batches" or "epochs", got {unit!r}')
        self.rate = rate
        self.unit = unit

    def on_train_begin(self, logs: Any = None) -> None:
        self._update()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._update()

    def _update(self) -> None:
        model = self.model
        position = model.version if self.unit == "batches" else model.progress
        model.optimizer.learning_rate = float(self.rate(position))


class Cosine(Schedule):
    """Lower the learning rate along half a cosine, from its base to ``final`` times the base.

    epochs: after which it stays there; None for those of the run (Loshchilov & Hutter 2017,
    "SGDR", eq. 5, without restarts). The rate changes with every update.
    """

    def __init__(self, epochs: float | None = None, final: float = 0.0) -> None:
        super().__init__(self._rate_at, "epochs")
        if epochs is not None and not epochs > 0:
            raise ConfigError(f"cosine must have epochs above 0, got {epochs!r}; try 20")
        if not 0.0 <= final <= 1.0:
            raise ConfigError(f"cosine must have a final in [0, 1], got {final!r}; try 0.01")
        self.epochs = epochs
        self.final = final

    def _rate_at(self, epoch: float) -> float:
        share = min(1.0, epoch / (self.epochs or self.params["epochs"]))
        fallen = 0.5 * (1.0 - math.cos(math.pi * share)) * (1.0 - self.final)
        return float(self.model.optimizer.base_learning_rate * (1.0 - fallen))


class Step(Callback):
    """Multiply the learning rate's base by ``factor`` once for each ``every`` epochs passed."""

    def __init__(self, every: int, factor: float = 0.1) -> None:
        if not isinstance(every, int) or every < 1:
            raise ConfigError(f"step must have every at 1 epoch or more, got {every!r}; try 10")
        if not factor > 0.0:
            raise ConfigError(f"step must have a factor above 0, got {factor!r}; try 0.1")
        self.every = every
        self.factor = factor

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        optimizer.learning_rate = optimizer.base_learning_rate * self.factor ** (
            epoch // self.every
        )


_OWN = MappingProxyType({"warmup": Warmup, "cosine": Cosine, "step": Step})


# By name --------------------------------------------------------------------------------------


def make_callbacks(specs: Sequence[str]) -> list[Any]:
    """Callbacks from words like ``"early_stopping:patience=5,min_delta=0.001"``.

    A name is ``warmup``, ``cosine``, ``step`` or that of a class of ``keras.callbacks`` in
    snake case, arguments are those of its constructor, values are Python literals or plain
    text. ``model_checkpoint`` takes ``.pt`` files for PyTorch models as well. Raises
    ConfigError for what is not known, missing or refused by the constructor, and where two
    callbacks would set the learning rate.
    """
    parts = [spec.strip().partition(":") for spec in specs]
    names = [name.strip().replace("-", "_") for name, _, _ in parts]
    for group in _ALONE:
        found = [name for name in names if name in group]
        if len(found) > 1:
            raise ConfigError(
                f"one callback at most must be of {', '.join(group)}, got {' and '.join(found)}, "
                "which would undo each other's learning rate; leave one out"
            )
    return [_make(name, text) for name, (_, _, text) in zip(names, parts, strict=True)]


def _make(name: str, text: str) -> Any:
    kind = _OWN.get(name) or _find_in_keras(name)
    arguments = _arguments(name, text)
    _check(name, kind, arguments)
    file = arguments.get("filepath")
    is_torch_file = name == "model_checkpoint" and str(file).endswith(".pt")
    if is_torch_file:  # Keras insists on its own ending, but in the constructor only
        arguments["filepath"] = f"{file}.keras"
    try:
        callback = kind(**arguments)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(
            f"callback {name} must be given what it can use, got {text!r}: {error}"
        ) from error
    if is_torch_file:
        callback.filepath = file
    return callback


def _find_in_keras(name: str) -> Any:
    """The class of keras.callbacks that ``name`` means; raises ConfigError for none."""
    if name in _INSTEAD:
        raise ConfigError(
            f"a callback must be one that the command line can set up, got {name}; "
            f"{_INSTEAD[name]}"
        )
    known = _keras_classes()
    if name not in known:
        raise ConfigError(
            f"a callback must be one of {', '.join(sorted([*_OWN, *known]))}, got {name!r}"
        )
    return known[name]


def _keras_classes() -> dict[str, Any]:
    if "torch" in sys.modules and "tensorflow" not in sys.modules:
        # For a PyTorch model: Keras would load TensorFlow beside it, or find none.
        os.environ.setdefault("KERAS_BACKEND", "torch")
    from keras import callbacks

    classes = [entry for entry in vars(callbacks).values() if inspect.isclass(entry)]
    names = {
        _snake_case(entry.__name__): entry
        for entry in classes
        if issubclass(entry, callbacks.Callback)
    }
    return {name: entry for name, entry in names.items() if name not in _INSTEAD}


def _snake_case(name: str) -> str:
    """``ReduceLROnPlateau`` as ``reduce_lr_on_plateau``, ``TerminateOnNaN`` with ``nan``."""
    name = name.replace("NaN", "Nan")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _arguments(name: str, text: str) -> dict[str, Any]:
    """``"a=1,b=x"`` as ``{"a": 1, "b": "x"}``; a comma may stand in a value."""
    arguments: dict[str, Any] = {}
    for part in re.split(r",(?=\s*\w+\s*=)", text) if text.strip() else []:
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            raise ConfigError(f"callback {name} must read NAME:KEY=VALUE,..., got {part!r}")
        arguments[key.strip()] = _value(value.strip())
    return arguments


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check(name: str, kind: Any, arguments: dict[str, Any]) -> None:
    """Raises ConfigError for arguments that are unknown or missing."""
    known = {
        key: entry.default
        for key, entry in inspect.signature(kind).parameters.items()
        if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY)
    }
    unknown = [key for key in arguments if key not in known]
    required = [key for key, default in known.items() if default is inspect.Parameter.empty]
    missing = [key for key in required if key not in arguments]
    if unknown or missing:
        form = [key if key in required else f"{key}={default}" for key, default in known.items()]
        wrong = f"an unknown {unknown[0]}" if unknown else f"no {missing[0]}"
        raise ConfigError(f"callback {name} must read {name}:{','.join(form)}, got {wrong}")
