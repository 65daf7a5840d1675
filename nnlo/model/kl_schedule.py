"""What the KL divergence of variational layers counts in the loss: beta(epochs) / N.

N is the number of samples of the whole training set, so that with beta = 1 an epoch's mean loss
is the negative evidence lower bound per sample (Graves 2011). Smaller beta at the beginning
keeps the prior from ruling before the data have spoken.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

from nnlo.errors import ConfigError
from nnlo.model.adapter import ModelAdapter, Vector
from nnlo.model.manifest import Manifest

FORM = (
    "a KL schedule must read constant[:beta=B], linear:epochs=E[,beta=B] or "
    "cyclical:epochs=E[,ramp=R,beta=B], got {!r}"
)
KEYS = {
    "constant": {"beta"},
    "linear": {"epochs", "beta"},
    "cyclical": {"epochs", "ramp", "beta"},
}
OLD = 1e-6
"""Relative difference, of rounding in means over ranks, that is no other value."""


@dataclass(frozen=True)
class KlSchedule:
    """beta as a function of the epochs that are done.

    kind: "constant"; "linear": from 0 in ``epochs`` epochs to ``beta``, and on there;
    "cyclical": that within the share ``ramp`` of each period of ``epochs`` epochs, then
    ``beta`` to its end (Fu et al. 2019, Cyclical annealing schedule, eq. 6-7).
    """

    kind: str = "constant"
    epochs: float = 1.0
    ramp: float = 0.5
    beta: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "KlSchedule":
        """Read ``"linear:epochs=5,beta=1"`` and the like; raise ConfigError for anything else."""
        kind, colon, rest = (part.strip() for part in text.partition(":"))
        if kind not in KEYS or bool(colon) != bool(rest):
            raise ConfigError(FORM.format(text))
        numbers: dict[str, float] = {}
        for pair in rest.split(",") if rest else ():
            name, _, value = (part.strip() for part in pair.partition("="))
            if name not in KEYS[kind] or name in numbers:
                raise ConfigError(FORM.format(text) + f"; {name!r} is none of its numbers")
            try:
                numbers[name] = float(value)
            except ValueError:
                raise ConfigError(FORM.format(text) + f"; {value!r} is no number") from None
        if kind != "constant" and "epochs" not in numbers:
            raise ConfigError(FORM.format(text) + "; say how many epochs")
        return cls(kind, **numbers)

    def __post_init__(self) -> None:
        if not (self.epochs > 0.0 and isfinite(self.epochs)):
            raise ConfigError(f"epochs of a KL schedule must be above 0, got {self.epochs}")
        if not 0.0 < self.ramp <= 1.0:
            raise ConfigError(f"ramp of a KL schedule must be in (0, 1], got {self.ramp}")
        if not (self.beta >= 0.0 and isfinite(self.beta)):
            raise ConfigError(f"beta of a KL schedule must not be negative, got {self.beta}")

    def at(self, epochs: float) -> float:
        """Return beta after ``epochs`` >= 0 epochs."""
        if self.kind == "constant":
            return self.beta
        if self.kind == "linear":
            return self.beta * min(1.0, epochs / self.epochs)
        return self.beta * min(1.0, (epochs % self.epochs) / (self.ramp * self.epochs))

    def before(self, epoch: int) -> float:
        """Return beta at the end of ``epoch`` epochs, where a cycle has not begun anew."""
        return self.at(max(epoch - 1e-9, 0.0))


class KlWeight:
    """Keeps ``kl_weight`` of a model at beta / N, whatever else writes the model's state."""

    def __init__(self, adapter: ModelAdapter, schedule: KlSchedule, n_samples: int) -> None:
        """n_samples: of the whole training set, > 0."""
        self._adapter = adapter
        self._schedule = schedule
        self._n_samples = n_samples
        self._positions = list(_positions(adapter.manifest))
        self._value: float | None = None  # which the model has
        self._epoch = 0
        self._n_batches = 0  # of that epoch so far
        self._n_before = 0  # of the one before

    def begin(self, epoch: int, index: int, n_batches: int | None) -> None:
        """Batch ``index`` of ``n_batches`` of ``epoch`` comes next, both from 0.

        n_batches: None where nobody knows: then as many as in the epoch before, and in the
        first one the value of its start.
        """
        if epoch != self._epoch:
            self._epoch, self._n_before, self._n_batches = epoch, self._n_batches, 0
        self._n_batches = index + 1
        total = n_batches or self._n_before
        value = self._schedule.at(epoch + min(index / total, 1.0) if total else epoch)
        value /= self._n_samples
        if value != self._value:
            self._adapter.weigh_kl(value)
            self._value = value

    def state_came(self, vector: Vector) -> None:
        """``vector``, shape (manifest.size,), has been written to the model."""
        value = self._value
        if value is not None and any(
            not abs(vector[one] - value) <= OLD * value for one in self._positions
        ):
            self._value = None


def _positions(manifest: Manifest) -> Iterator[int]:
    """Where the vector holds ``kl_weight`` of its layers."""
    for entry in manifest.entries:
        if entry.kind == "S" and entry.name.endswith("kl_weight"):
            yield entry.offset


def plan_kl(
    schedule: str | None, adapter: ModelAdapter, n_samples: int
) -> tuple[KlSchedule, int] | None:
    """Return how a model's divergence is weighed, and N; None without variational layers.

    schedule: as ``KlSchedule.parse`` reads it, None for constant; ConfigError where one is given
    for another model.
    """
    if adapter.is_variational:
        return KlSchedule.parse(schedule or "constant"), n_samples
    if schedule is None:
        return None
    raise ConfigError(
        f"a KL schedule must go with a model that has variational layers, got {schedule!r} for "
        "one without; leave it out, it has no effect"
    )
