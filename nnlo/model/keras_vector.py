"""What the adapters of Keras models share: weights as one flat vector, local state, files."""

import os
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ConfigError, ModelError
from nnlo.files import TEMPORARY, sync_folder
from nnlo.model.adapter import NO_DROPOUT, Vector
from nnlo.model.batch import as_arrays
from nnlo.model.engines import ENGINES, Engine
from nnlo.model.keras_dropout import dropout_layers
from nnlo.model.keras_network import KerasNetwork, seed_variables


class KerasVector:
    """A Keras model as the vector of ``ModelAdapter``, without the training."""

    suffix = ".keras"

    def __init__(self, model: Any, network: KerasNetwork) -> None:
        self._model = model
        self._network = network
        self.manifest = network.manifest
        self._engine = _make_engine(network)

    @property
    def model(self) -> Any:
        """The Keras model with the present weights; write to it through ``set_flat`` only."""
        self._engine.publish()
        return self._model

    def get_flat(self, out: Vector) -> None:
        self.manifest.check(out)
        self._engine.read(out)

    def set_flat(self, vector: Vector) -> None:
        self.manifest.check(vector)
        self._engine.write(vector)

    @property
    def has_dropout(self) -> bool:
        return bool(dropout_layers(self._network.model))

    def predict(self, x: Any, *, dropout: bool = False) -> Any:
        if dropout and not self.has_dropout:
            raise ModelError(NO_DROPOUT)
        return self._engine.predict(as_arrays(x), dropout=dropout)

    @property
    def is_variational(self) -> bool:
        return bool(self._network.variational)

    def weigh_kl(self, weight: float) -> None:
        self._engine.weigh_kl(weight)

    def seed(self, seed: int) -> None:
        variables = seed_variables(self._model)
        states, rest = seed_states(seed, len(variables))
        self._engine.set_local(variables, states)
        self._engine.seed(rest)

    def local_state(self) -> dict[str, NDArray[Any]]:
        self._engine.publish()
        state = {name: value_of(one).copy() for name, one in self._named_locals().items()}
        return state | self._engine.random_state()

    def load_local_state(self, state: dict[str, NDArray[Any]]) -> None:
        self._engine.publish()
        variables = self._named_locals()
        unknown = set(variables) - set(state)
        if unknown:
            raise ModelError(
                f"a local state must hold every variable of the model and optimizer, got none "
                f"for {sorted(unknown)[0]!r}; load it into an equal model and optimizer"
            )
        for name, variable in variables.items():
            variable.assign(state[name])
        self._engine.reload()
        self._engine.load_random_state(state)

    def reset_optimizer(self) -> None:
        self._engine.publish()
        for name, optimizer in self._optimizers().items():
            rate = value_of(optimizer.learning_rate).copy()
            for variable, value in zip(optimizer.variables, self._fresh[name], strict=True):
                variable.assign(value)
            optimizer.learning_rate = rate
        self._engine.reload()

    def _keep_fresh(self) -> None:
        """Remember the optimizers as they are now, for ``reset_optimizer``."""
        self._fresh = {
            name: [_small_copy(value_of(one)) for one in optimizer.variables]
            for name, optimizer in self._optimizers().items()
        }

    def save(self, path: Path) -> list[Path]:
        """Write a ``.keras`` file, at once or not at all."""
        self._check_ending(path)
        return [save_model(self.model, path)]

    def summary(self) -> str:
        return summary_of(self._model)

    def _check_ending(self, path: Path) -> None:
        if path.suffix != self.suffix:
            raise ConfigError(f"a Keras model must go to a .keras file, got {path}; rename it")

    def _optimizers(self) -> dict[str, Any]:
        """The local optimizers by the names they have in the local state."""
        raise NotImplementedError

    def _named_locals(self) -> dict[str, Any]:
        groups = {"local": self._network.local}
        groups |= {name: one.variables for name, one in self._optimizers().items()}
        return {
            f"{name}/{i}": one for name, group in groups.items() for i, one in enumerate(group)
        }


def seed_states(seed: int, n: int) -> tuple[list[NDArray[np.uint32]], int]:
    """Return the first states of ``n`` seed generators, and a seed for what else draws."""
    children = np.random.SeedSequence(seed).spawn(n + 1)
    numbers = [int(one.generate_state(1)[0]) for one in children]
    # 31 bits fit the signed and unsigned types that the backends use
    return [np.array([number >> 1, 0], np.uint32) for number in numbers[:n]], numbers[n]


def value_of(variable: Any) -> NDArray[Any]:
    """Return the value of a Keras variable; it may be on its memory."""
    # not by keras.ops.convert_to_numpy, which NumPy warns of on every backend
    value = variable.value
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def _small_copy(value: NDArray[Any]) -> NDArray[Any]:
    """Return a copy, which takes no memory where all elements are equal, as those of new slots."""
    if value.size and (value == value.flat[0]).all():
        return np.broadcast_to(value.flat[0].copy(), value.shape)
    return value.copy()


def summary_of(model: Any) -> str:
    """Return Keras' table of the layers."""
    lines: list[str] = []
    model.summary(print_fn=lines.append, line_length=88)
    return "\n".join(lines)


def save_model(model: Any, path: Path) -> Path:
    """Write ``path``, a ``.keras`` file, at once or not at all; return the file written.

    A subclass that Keras cannot describe (no ``get_config``) goes to ``<stem>.weights.h5``, for
    ``load_weights`` of an equal model.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras insists on the ending, so that the temporary file needs a folder of its own
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY) as folder:
        temporary = Path(folder) / path.name
        try:
            model.save(temporary)
        except NotImplementedError:
            path = path.with_suffix(".weights.h5")
            temporary = Path(folder) / path.name
            model.save_weights(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    sync_folder(path.parent)
    return path


def _make_engine(network: KerasNetwork) -> Engine:
    name = keras.backend.backend()
    if name not in ENGINES:
        raise ConfigError(
            f"the Keras backend must be one of {', '.join(ENGINES)}, got {name}; set KERAS_BACKEND"
        )
    engine: Engine = import_module(ENGINES[name]).make_engine(network)
    return engine
