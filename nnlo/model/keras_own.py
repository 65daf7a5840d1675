"""The adapter of Keras models with a ``train_step`` of their own, of one or several networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from nnlo.errors import ConfigError, ModelError
from nnlo.model.adapter import Batch, Sums, Vector
from nnlo.model.batch import as_arrays, is_empty
from nnlo.model.engines import Function
from nnlo.model.keras_network import (
    KerasNetwork,
    make_optimizer,
    seed_variables,
    sort_networks,
    variational_layers,
)
from nnlo.model.keras_vector import KerasVector, save_model, summary_of, value_of
from nnlo.model.own_training import (
    NO_GRADIENT,
    NO_OPTIMIZER,
    NO_TEST_STEP,
    OwnTraining,
    check_rates,
    scaled,
)


class OwnKerasAdapter(KerasVector):
    """A Keras model that overrides ``train_step(self, data)``, ``data`` = (features, labels).

    What it must hold, and what it may: see docs/models.md. It need not be compiled; its
    metric objects are reset before each batch, so that they report the batch alone.
    ``optimizer``: one of that kind for each network, in place of the model's own.
    ``learning_rate``: of the first network; those of the model's own keep their proportions.
    ``clip_norm``: largest norm of the gradient of each network. ``example``: builds a model
    that is its only network. ``predict`` calls the model, or without a ``call`` of its own the
    first network.
    """

    has_gradient = False

    def __init__(
        self,
        model: Any,
        *,
        optimizer: str | Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
        clip_norm: float | None = None,
        example: Batch | None = None,
    ) -> None:
        if keras.backend.backend() == "jax":
            raise ModelError(
                "a model with its own train_step must run on TensorFlow or PyTorch, got the "
                "backend jax, where a step has to be a pure function of all variables; "
                "set KERAS_BACKEND=tensorflow or torch"
            )
        self._own = OwnTraining.of(model)
        self.metric_names = self._own.metric_names
        self.has_test_step = type(model).test_step is not keras.Model.test_step
        _check_built(model, self._own, example)
        has_call = type(model).call is not keras.Model.call
        predicts = model if has_call else next(iter(self._own.networks.values()))
        super().__init__(model, _sort(model, self._own, predicts))
        self._learning_rate = 0.0 if learning_rate is None else learning_rate
        if optimizer is None:
            self._steppers = _own_optimizers(model, self._own, clip_norm)
        else:
            self._steppers = _replace_optimizers(
                model, self._own, optimizer, learning_rate, clip_norm
            )
        self._base = [float(value_of(one.learning_rate)) for one in self._steppers.values()]
        check_rates(self._base)
        self._keep_fresh()
        if learning_rate is not None:
            self.learning_rate = learning_rate

    @property
    def learning_rate(self) -> float:
        """Of the first network; set, it scales all. A plain number where there is none."""
        for one in self._steppers.values():
            return float(value_of(one.learning_rate))
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = value
        if self._base:
            rates = scaled(self._base, value)
            for one, rate in zip(self._steppers.values(), rates, strict=True):
                one.learning_rate = rate

    def gradient(self, batch: Batch, out: Vector) -> NoReturn:
        raise ModelError(NO_GRADIENT)

    def apply_gradient(self, vector: Vector) -> NoReturn:
        raise ModelError(NO_GRADIENT)

    def train_step(self, batch: Batch) -> Sums:
        if not self._steppers:
            raise ConfigError(NO_OPTIMIZER)
        return self._sums(self._train, batch, training=True)

    def test_step(self, batch: Batch) -> Sums:
        """See the contract; what the model draws here is drawn again afterwards."""
        if not self.has_test_step:
            raise ModelError(NO_TEST_STEP)
        local = [(one, value_of(one).copy()) for one in self._network.local]
        random = self._engine.random_state()
        sums = self._sums(self._test, batch, training=False)
        for variable, value in local:
            variable.assign(value)
        self._engine.load_random_state(random)
        return sums

    def save(self, path: Path) -> list[Path]:
        """Write the whole model and each of several networks, see ``save_model``."""
        self._check_ending(path)
        files = [save_model(self.model, path)]
        if self._own.has_several:
            for name, network in self._own.networks.items():
                files.append(save_model(network, path.with_stem(f"{path.stem}-{name}")))
        return files

    def summary(self) -> str:
        if not self._own.has_several:
            return super().summary()
        networks = self._own.networks.items()
        return "\n".join(f"network {name}\n{summary_of(network)}" for name, network in networks)

    def _optimizers(self) -> dict[str, Any]:
        return {f"optimizer/{name}": one for name, one in self._steppers.items()}

    def _sums(self, function: Function, batch: Batch, *, training: bool) -> Sums:
        if is_empty(batch):
            return np.zeros(1 + len(self.metric_names))
        x, y = as_arrays(batch[0]), as_arrays(batch[1])
        means = self._engine.run(function, x, y, training=training).astype(np.float64)
        return np.array([len(x[0]), *(len(x[0]) * means)])

    def _train(self, x: list[Any], y: list[Any]) -> Any:
        return self._measure("train_step", x, y)

    def _test(self, x: list[Any], y: list[Any]) -> Any:
        return self._measure("test_step", x, y)

    def _measure(self, method: str, x: list[Any], y: list[Any]) -> Any:
        for metric in self._model.metrics:
            metric.reset_state()
        data = tuple(one if len(one) > 1 else one[0] for one in (x, y))
        values = self._own.values(getattr(self._model, method)(data), method)
        return ops.stack([ops.mean(ops.cast(one, "float32")) for one in values])


def _check_built(model: Any, own: OwnTraining, example: Batch | None) -> None:
    """Build a model that is its own network; raise ModelError where a network is not built."""
    if example is not None and not own.has_several and not model.built:
        x = as_arrays(example[0])
        model(x if len(x) > 1 else x[0])
    for name, network in own.networks.items():
        if not network.built:
            raise ModelError(
                f"every network must know its input shape, got the unbuilt {name!r}; start it "
                "with keras.Input(shape) or call its build((None, ...)) in get_model"
            )
    model.built = True  # as all its parts are; else Keras doubts that there is much to save


def _sort(model: Any, own: OwnTraining, predicts: Any) -> KerasNetwork:
    manifest, trainable, state, local = sort_networks(own.networks)
    sorted_ones = {id(one) for one in (*trainable, *state, *local)}
    for variable in model.weights:
        if id(variable) not in sorted_ones:
            raise ModelError(
                f"every weight must belong to one of the model's networks, got {variable.path} "
                "in none; add its layer to the attribute networks"
            )
    local += [one for one in seed_variables(model) if id(one) not in sorted_ones]
    variational = variational_layers(own.networks.values())
    return KerasNetwork(predicts, manifest, trainable, state, local, (), (), None, variational)


def _replace_optimizers(
    model: Any,
    own: OwnTraining,
    spec: str | Mapping[str, Any],
    learning_rate: float | None,
    clip_norm: float | None,
) -> dict[str, Any]:
    made = {
        name: make_optimizer(spec, network.trainable_variables, learning_rate, clip_norm)
        for name, network in own.networks.items()
        if network.trainable_variables
    }
    model.optimizers = made
    if not own.has_several:
        model.optimizer = next(iter(made.values()), None)
    return made


def _own_optimizers(model: Any, own: OwnTraining, clip_norm: float | None) -> dict[str, Any]:
    """Return the model's own, built: a compiled step makes no variables."""
    found = dict(getattr(model, "optimizers", None) or {})
    alone = getattr(model, "optimizer", None)
    if not found and not own.has_several and alone is not None:
        found = dict.fromkeys(own.networks, alone)
    found = own.ordered(found)
    for name, optimizer in found.items():
        if not optimizer.built:
            optimizer.build(own.networks[name].trainable_variables)
        if isinstance(getattr(optimizer, "_learning_rate", None), LearningRateSchedule):
            raise ModelError(
                f"the learning rate of a model's optimizer must be a number, got a schedule for "
                f"{name!r}; change the rate by a callback, which scales those of all networks"
            )
        if clip_norm is not None:
            optimizer.global_clipnorm = clip_norm
    return found
