"""What a model with a ``train_step`` of its own says of itself; no backend."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnlo.errors import ConfigError, ModelError

NO_GRADIENT = (
    "a model with its own train_step must be trained by local steps, got a mode that sends "
    "gradients; take a mode with local steps such as easgd or diloco, or downpour with "
    "--worker-optimizer NAME"
)
NO_OPTIMIZER = (
    "train_step must have an optimizer for each network, got none; name one, for example "
    "--worker-optimizer adam, or give the model a dict optimizers, one per network"
)
NO_TEST_STEP = (
    "a model with its own train_step must have its own test_step to be validated, got none; "
    "add test_step(self, data), which returns the same names, or give no validation data"
)


@dataclass(frozen=True)
class OwnTraining:
    """Networks and metrics of a model that trains itself.

    networks: parts of the model by name, the attribute ``networks`` or the model as "model".
    names: what ``train_step`` returns, the attribute ``metric_names`` or "loss" alone.
    """

    networks: dict[str, Any]
    names: tuple[str, ...]

    @classmethod
    def of(cls, model: Any) -> "OwnTraining":
        """Read the attributes; raise ModelError where they say nothing useful."""
        networks = dict(getattr(model, "networks", None) or {"model": model})
        for name in networks:
            if not isinstance(name, str) or not name.isidentifier():
                raise ModelError(
                    f"the names of networks must be words, got {name!r}; "
                    "call it for example 'generator'"
                )
        names = tuple(getattr(model, "metric_names", None) or ("loss",))
        if "loss" not in names and not any(name.endswith("/loss") for name in names):
            raise ModelError(
                f"metric_names must hold 'loss' or '<network>/loss', got {names}; name what "
                "train_step returns, for example ('generator/loss', 'discriminator/loss')"
            )
        return cls(networks, names)

    @property
    def has_several(self) -> bool:
        """Tell whether there is more than one network."""
        return len(self.networks) > 1

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The adapter's: "loss" first, then the others in the model's order."""
        return "loss", *(name for name in self.names if name != "loss")

    def values(self, returned: Any, method: str) -> list[Any]:
        """Put what ``method`` returned in the order of ``metric_names``.

        The loss is the model's own, or else the sum of the losses of its networks. Raise
        ModelError for other names than ``names``.
        """
        if not isinstance(returned, Mapping) or set(returned) != set(self.names):
            found = sorted(returned) if isinstance(returned, Mapping) else type(returned).__name__
            raise ModelError(
                f"{method} must return a dict with the names {list(self.names)}, got {found}; "
                "say in the model's attribute metric_names what it returns"
            )
        if "loss" in returned:
            loss = returned["loss"]
        else:
            loss = sum(value for name, value in returned.items() if name.endswith("/loss"))
        return [loss, *(returned[name] for name in self.metric_names[1:])]

    def ordered(self, optimizers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model's own optimizers in the order of the networks.

        Raise ModelError for one of no network.
        """
        unknown = sorted(set(optimizers) - set(self.networks))
        if unknown:
            raise ModelError(
                f"optimizers must be named as the networks {list(self.networks)}, got {unknown}; "
                "use the same names in both"
            )
        return {name: optimizers[name] for name in self.networks if name in optimizers}


def check_rates(rates: Iterable[float]) -> None:
    """Raise ModelError unless all are above 0, so that they can be scaled together."""
    for rate in rates:
        if not rate > 0.0:
            raise ModelError(
                f"the learning rates of a model's optimizers must be above 0, got {rate}; "
                "give a rate, and freeze what is not to be trained"
            )


def scaled(base: Sequence[float], first: float) -> list[float]:
    """Return the rates in proportion to ``base``, with ``first`` as the first of them."""
    return [first * (rate / base[0]) for rate in base]


def check_own_losses(loss: Any, metrics: Any) -> None:
    """Raise ConfigError for a loss or metrics that would be ignored."""
    for name, given in (("loss", loss), ("metrics", metrics)):
        if given is not None:
            raise ConfigError(
                f"a model with its own train_step must bring its own {name}, got {given!r}; "
                f"leave --{name} and get_{name} out"
            )
