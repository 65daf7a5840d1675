"""The adapter of torch modules with a ``train_step`` of their own, of one or several networks."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from nnlo.errors import ConfigError, ModelError
from nnlo.model.adapter import Batch, Sums, Vector
from nnlo.model.batch import is_empty
from nnlo.model.own_training import (
    NO_GRADIENT,
    NO_OPTIMIZER,
    NO_TEST_STEP,
    OwnTraining,
    check_rates,
    scaled,
)
from nnlo.model.torch_network import make_optimizer
from nnlo.model.torch_vector import TorchVector


class OwnTorchAdapter(TorchVector):
    """A module with ``train_step(self, batch)``, ``batch`` = (features, labels), tensors.

    What it must hold, and what it may: see docs/models.md. Tensors are on the module's device,
    of the types that ``TorchAdapter`` gives. ``optimizer``: one of that kind for each network,
    in place of the module's own. ``learning_rate``: of the first network; those of the
    module's own keep their proportions. ``clip_norm``: largest norm of the gradient of each
    network. ``example``, ``device``: see ``TorchVector``. ``predict`` calls the module, or
    without a ``forward`` of its own the first network.
    """

    has_gradient = False

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: str | Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
        clip_norm: float | None = None,
        example: Batch | None = None,
        device: str | None = None,
    ) -> None:
        self._own = OwnTraining.of(model)
        self.metric_names = self._own.metric_names
        self.has_test_step = callable(getattr(model, "test_step", None))
        _check_parts(model, self._own.networks)
        has_forward = type(model).forward is not nn.Module.forward
        first = next(iter(self._own.networks.values()))
        super().__init__(
            model,
            self._own.networks,
            model if has_forward else first,
            example=example,
            device=device,
        )
        self._learning_rate = 0.0 if learning_rate is None else learning_rate
        module: Any = model
        if optimizer is not None:
            module.optimizers = {
                name: make_optimizer(optimizer, weights, learning_rate)
                for name, network in self._own.networks.items()
                if (weights := [one for one in network.parameters() if one.requires_grad])
            }
        self._steppers = self._own.ordered(getattr(module, "optimizers", None) or {})
        self._groups = [group for one in self._steppers.values() for group in one.param_groups]
        self._base = [float(group["lr"]) for group in self._groups]
        check_rates(self._base)
        self._keep_fresh()
        if learning_rate is not None:
            self.learning_rate = learning_rate
        if clip_norm is not None:
            for one in self._steppers.values():
                one.register_step_pre_hook(_clipping(clip_norm))

    @property
    def learning_rate(self) -> float:
        """Of the first network; set, it scales all. A plain number where there is none."""
        return float(self._groups[0]["lr"]) if self._groups else self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = value
        if self._base:
            for group, rate in zip(self._groups, scaled(self._base, value), strict=True):
                group["lr"] = rate

    def gradient(self, batch: Batch, out: Vector) -> NoReturn:
        raise ModelError(NO_GRADIENT)

    def apply_gradient(self, vector: Vector) -> NoReturn:
        raise ModelError(NO_GRADIENT)

    def train_step(self, batch: Batch) -> Sums:
        if not self._steppers:
            raise ConfigError(NO_OPTIMIZER)
        with self._training():
            return self._sums("train_step", batch, training=True)

    def test_step(self, batch: Batch) -> Sums:
        """See the contract; what the module draws here is drawn again afterwards."""
        if not self.has_test_step:
            raise ModelError(NO_TEST_STEP)
        random = self._random.state()
        with torch.no_grad(), self._random.use():
            sums = self._sums("test_step", batch, training=False)
        self._random.load_state(random)
        return sums

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {f"optimizer/{name}": one for name, one in self._steppers.items()}

    def _sums(self, method: str, batch: Batch, *, training: bool) -> Sums:
        if is_empty(batch):
            return np.zeros(1 + len(self.metric_names))
        self._set_training(training)
        x, y = self._features(batch[0]), self._labels(batch[1])
        data = tuple(one if len(one) > 1 else one[0] for one in (x, y))
        values = self._own.values(getattr(self._module, method)(data), method)
        means = torch.stack([_mean(one) for one in values]).cpu().double().numpy()
        return np.array([len(x[0]), *(len(x[0]) * means)])


def _mean(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32).detach().mean()


def _check_parts(model: nn.Module, networks: Mapping[str, Any]) -> None:
    modules = {id(one) for one in model.modules()}
    for name, network in networks.items():
        if id(network) not in modules:
            raise ModelError(
                f"every network must be a submodule of the model, got {name!r} in networks "
                f"only; assign it to an attribute as well, self.{name} = ..."
            )


def _clipping(norm: float) -> Callable[..., None]:
    def clip(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        weights = [one for group in optimizer.param_groups for one in group["params"]]
        nn.utils.clip_grad_norm_(weights, norm)

    return clip
