"""The contract between the training loops and a backend: one model as one flat vector."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nnlo.model.manifest import Manifest

Vector = NDArray[np.float32]
"""1-D contiguous float32 array."""

Sums = NDArray[np.float64]
"""``[n_samples, sum of loss, sum of each metric...]``: adding two gives the sums of both."""

Batch = tuple[Any, Any]
"""``(x, y)``: each an array with samples along axis 0, or a list of such arrays."""

OnReady = Callable[[int, int], None]
"""Told ``start, stop``: that part of a vector is complete."""


NO_DROPOUT = (
    "a model must have a dropout layer with a rate above 0 to keep dropout on, got none; add one "
    "as a layer of its own (keras.layers.Dropout, torch.nn.Dropout)"
)


class ModelAdapter(Protocol):
    """A model seen as the vector ``[T | S]`` of its manifest, shape ``(manifest.size,)``.

    T are the trainable weights, S the float state (BatchNorm statistics). The caller owns
    every vector passed in; an adapter copies from or into it and keeps no reference.
    """

    manifest: Manifest
    metric_names: tuple[str, ...]  # names of the entries of Sums after n_samples: ("loss", ...)
    suffix: str  # of the file that ``save`` writes: ".keras" or ".pt"
    learning_rate: float  # of the local optimizer; settable; used by its steps only
    has_gradient: bool  # False for a model with its own train_step: it takes local steps only
    has_test_step: bool  # False for one without its own test_step: test_step is a ModelError

    @property
    def model(self) -> Any:
        """The backend's own model with the present weights; to read, not to train."""

    @property
    def has_dropout(self) -> bool:
        """Whether it has a dropout layer with a rate above 0."""

    @property
    def is_variational(self) -> bool:
        """Whether it has a variational layer: one with ``kl_divergence()`` and ``kl_weight``.

        metric_names begin with "loss", "nll", "kl" then, but for a model with its own train_step.
        """

    def get_flat(self, out: Vector) -> None:
        """Copy the weights into ``out``, shape ``(manifest.size,)``."""

    def set_flat(self, vector: Vector) -> None:
        """Take the weights from ``vector``, shape ``(manifest.size,)``."""

    def gradient(self, batch: Batch, out: Vector) -> Sums:
        """Write d(mean loss over the batch)/dT to ``out[:n_trainable]``; T stays as it was.

        ``out[n_trainable:]`` receives the state S after the batch (BatchNorm statistics moved
        by one training step). ``out`` has shape ``(manifest.size,)``. ModelError where
        ``has_gradient`` is False.
        """

    def apply_gradient(self, vector: Vector) -> None:
        """Take one step of the local optimizer along a given mean gradient.

        vector: shape ``(manifest.size,)``, only read: ``[:n_trainable]`` is the gradient,
        clipped as in ``train_step``; ``[n_trainable:]`` becomes the state S. ``gradient`` and
        then this is ``train_step``. ModelError where ``has_gradient`` is False.
        """

    def train_step(self, batch: Batch) -> Sums:
        """Take one step of the local optimizer."""

    def test_step(self, batch: Batch) -> Sums:
        """Evaluate in inference mode; nothing changes."""

    def predict(self, x: Any, *, dropout: bool = False) -> Any:
        """Outputs in inference mode, numpy arrays with samples along axis 0.

        dropout: dropout layers draw masks as in training, a function of the last ``seed`` where
        this is the first call after it, while all others are in inference mode (BatchNorm).
        ModelError where there is no such layer.
        """

    def weigh_kl(self, weight: float) -> None:
        """Let each nat of the divergence of variational layers count ``weight`` in the loss.

        Sets ``kl_weight`` of each, a scalar of S, which whatever writes S may overwrite.
        Nothing to do for other models.
        """

    def seed(self, seed: int) -> None:
        """Start every random generator of the model (dropout...) from ``seed``."""

    def local_state(self) -> dict[str, NDArray[Any]]:
        """What the vector does not hold and a restart needs: random states, integer
        counters, the local optimizer's slots. Arrays are copies."""

    def load_local_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Put back what ``local_state`` returned on an equal model."""

    def reset_optimizer(self) -> None:
        """Let the local optimizer forget what it has seen: slots as when the adapter was made.

        Learning rates stay. Nothing to do where there is no optimizer.
        """

    def save(self, path: Path) -> list[Path]:
        """Write the model so that plain Keras or torch loads it without NNLO.

        Return the files written, each at once or not at all: first ``path``, then for a model
        of several networks ``<stem>-<network><suffix>`` beside it for each. What Keras cannot
        describe (a subclass without ``get_config``) goes to ``<stem>.weights.h5`` instead.
        """

    def summary(self) -> str:
        """One line a layer, for people."""


@runtime_checkable
class EarlyGradient(Protocol):
    """What an adapter may offer besides: parts of the gradient before all of it is computed."""

    def gradient_sum(
        self, batch: Batch, out: Vector, on_ready: OnReady | None, *, adds: bool
    ) -> Sums:
        """Write d(sum of the loss over the batch)/dT to ``out[:n_trainable]``, or add it there.

        ``out[n_trainable:]`` receives the state S after the batch, as in ``gradient``.
        on_ready: called within the backward pass, once for each trainable variable, in any
        order: nothing will change in that part of ``out`` any more. Not for an empty batch.
        """
