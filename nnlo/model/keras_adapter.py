"""The adapter of Keras 3 models; the arithmetic is in one engine per Keras backend."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ConfigError, ModelError
from nnlo.model.adapter import Batch, Sums, Vector
from nnlo.model.batch import as_arrays, is_empty, sums_of
from nnlo.model.engines import ENGINES, Arrays, Engine
from nnlo.model.fit import check_classes, fit_labels
from nnlo.model.keras_network import (
    KerasNetwork,
    lay_out,
    make_optimizer,
    seed_variables,
    sort_variables,
)
from nnlo.model.losses import Loss, plan


class KerasAdapter:
    """A Keras model on TensorFlow, PyTorch or JAX, after the contract of ``ModelAdapter``.

    What a compiled model was compiled with is ignored. ``loss``, ``metrics``: see ``losses``.
    ``optimizer``, ``clip_norm``: see ``make_optimizer``; None for gradient mode.
    ``example``: a batch that builds a model which does not know its input shape yet.
    """

    suffix = ".keras"

    def __init__(
        self,
        model: Any,
        loss: Loss | Sequence[Loss],
        metrics: Sequence[str] | None = None,
        *,
        optimizer: str | Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
        clip_norm: float | None = None,
        example: Batch | None = None,
    ) -> None:
        if example is not None and not model.built:
            x = as_arrays(example[0])
            model(x if len(x) > 1 else x[0])
        if not model.built:
            raise ModelError(
                f"a model must know its input shape, got the unbuilt model {model.name!r}; start "
                "it with keras.Input(shape) or call model.build((None, ...)) in get_model"
            )
        outputs = getattr(model, "outputs", None)
        losses, pairs, self.metric_names = plan(loss, metrics, len(outputs) if outputs else None)
        trainable, state, local = sort_variables(model)
        made = None
        if optimizer is not None:
            made = make_optimizer(optimizer, trainable, learning_rate, clip_norm)
        self.manifest = lay_out(trainable, state)
        self._learning_rate = 0.0 if learning_rate is None else learning_rate
        self._network = KerasNetwork(
            model, self.manifest, trainable, state, local, losses, pairs, made
        )
        self._engine = _make_engine(self._network)
        self._is_first = True

    @property
    def model(self) -> Any:
        """The Keras model with the present weights; write to it through ``set_flat`` only."""
        self._engine.publish()
        return self._network.model

    @property
    def learning_rate(self) -> float:
        """Of the local optimizer; a plain number without effect where there is none."""
        if self._network.optimizer is None:
            return self._learning_rate
        return float(_value(self._network.optimizer.learning_rate))

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = value
        if self._network.optimizer is not None:
            self._engine.publish()
            self._network.optimizer.learning_rate = value
            self._engine.reload()

    def get_flat(self, out: Vector) -> None:
        self.manifest.check(out)
        self._engine.read(out)

    def set_flat(self, vector: Vector) -> None:
        self.manifest.check(vector)
        self._engine.write(vector)

    def gradient(self, batch: Batch, out: Vector) -> Sums:
        """See the contract; the model's own S moves as well."""
        self.manifest.check(out)
        if is_empty(batch):
            self._engine.read(out)
            out[: self.manifest.n_trainable] = 0.0
            return np.zeros(1 + len(self.metric_names))
        return sums_of(self._engine.gradient(*self._prepared(batch), out))

    def train_step(self, batch: Batch) -> Sums:
        if self._network.optimizer is None:
            raise ConfigError(
                "train_step must have a local optimizer, got none; "
                "name one, for example optimizer='sgd'"
            )
        if is_empty(batch):
            return np.zeros(1 + len(self.metric_names))
        return sums_of(self._engine.step(*self._prepared(batch)))

    def test_step(self, batch: Batch) -> Sums:
        if is_empty(batch):
            return np.zeros(1 + len(self.metric_names))
        return sums_of(self._engine.evaluate(*self._prepared(batch)))

    def predict(self, x: Any) -> Any:
        return self._engine.predict(as_arrays(x))

    def seed(self, seed: int) -> None:
        self._engine.publish()
        variables = seed_variables(self._network.model)
        children = np.random.SeedSequence(seed).spawn(len(variables) + 1)
        for variable, child in zip(variables, children, strict=False):
            # 31 bits fit the signed and unsigned types that the backends use
            variable.assign(np.array([child.generate_state(1)[0] >> 1, 0]))
        self._engine.reload()
        self._engine.seed(int(children[-1].generate_state(1)[0]))

    def local_state(self) -> dict[str, NDArray[Any]]:
        self._engine.publish()
        state = {name: _value(one).copy() for name, one in self._named_locals().items()}
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

    def save(self, path: Path) -> None:
        """Write a ``.keras`` file, at once or not at all."""
        if path.suffix != self.suffix:
            raise ConfigError(f"a Keras model must go to a .keras file, got {path}; rename it")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Keras insists on the ending, so that the temporary file needs a folder of its own
        with TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            temporary = Path(folder) / path.name
            self.model.save(temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)

    def summary(self) -> str:
        lines: list[str] = []
        self._network.model.summary(print_fn=lines.append, line_length=88)
        return "\n".join(lines)

    def _named_locals(self) -> dict[str, Any]:
        optimizer = self._network.optimizer
        slots = optimizer.variables if optimizer is not None else ()
        groups = (("local", self._network.local), ("optimizer", slots))
        return {f"{name}/{i}": one for name, group in groups for i, one in enumerate(group)}

    def _prepared(self, batch: Batch) -> tuple[Arrays, Arrays]:
        x, y = as_arrays(batch[0]), as_arrays(batch[1])
        losses = self._network.losses
        if len(y) != len(losses):
            raise ModelError(
                f"labels must be one array for each of the {len(losses)} losses, got {len(y)} "
                "arrays; let generate_data yield a list, or name one loss per output"
            )
        if self._is_first:
            outputs = getattr(self._network.model, "outputs", None) or []
            for loss, labels, output in zip(losses, y, outputs, strict=False):
                fit_labels(loss, labels.shape, output.shape)
                if loss == "sparse_categorical_crossentropy" and output.shape[-1]:
                    check_classes(labels, output.shape[-1])
            self._is_first = False
        return x, y


def _value(variable: Any) -> NDArray[Any]:
    # through a tensor, since NumPy warns of how a Keras variable turns into an array
    tensor = keras.ops.convert_to_tensor(variable)
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def _make_engine(network: KerasNetwork) -> Engine:
    name = keras.backend.backend()
    if name not in ENGINES:
        raise ConfigError(
            f"the Keras backend must be one of {', '.join(ENGINES)}, got {name}; set KERAS_BACKEND"
        )
    engine: Engine = import_module(ENGINES[name]).make_engine(network)
    return engine
