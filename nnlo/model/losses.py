"""Names of the losses and metrics; no backend.

The arithmetic is in ``keras_objective`` and ``torch_objective``; both know exactly these names.
"""

from collections.abc import Callable, Sequence
from typing import Any

from nnlo.errors import ConfigError

Loss = str | Callable[..., Any]
"""A name of ``LOSSES`` or a function: ``f(y_true, y_pred)`` for Keras models,
``f(output, target)`` for torch modules; it returns one number or one number per sample."""

LOSSES = (
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "binary_crossentropy",
    "mean_squared_error",
    "mean_absolute_error",
    "huber",
    "kl_divergence",
    "poisson",
    "hinge",
    "cosine_similarity",
    "gaussian_nll",
)
METRICS = (
    "accuracy",
    "binary_accuracy",
    "categorical_accuracy",
    "sparse_categorical_accuracy",
    "mean_squared_error",
    "mean_absolute_error",
    "top_k",
)
ALIASES = {
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "acc": "accuracy",
    "kld": "kl_divergence",
    "top_k_categorical_accuracy": "top_k",
}
MIN_SD = 1e-6
"""``gaussian_nll`` takes outputs twice as wide as the labels: means, then raw scales, of which
``softplus(raw) + MIN_SD`` is the standard deviation."""
TOP_K = 5
"""A sample counts for ``top_k`` where the true class is among the 5 likeliest, as in Keras."""

CLASSIFICATION = LOSSES[:3]


def canonical_loss(loss: Loss) -> Loss:
    """Return the full name of ``loss``, or the callable itself; raise ConfigError if unknown."""
    if callable(loss):
        return loss
    name = ALIASES.get(loss, loss)
    if name not in LOSSES:
        raise ConfigError(
            f"the loss must be one of {', '.join(LOSSES)} (mse, mae and kld for short) or a "
            f"function, got {loss!r}; choose one of these or hand over the function itself"
        )
    return name


def canonical_metric(name: str) -> str:
    """Return the full name of a metric; raise ConfigError if it is unknown."""
    known = ALIASES.get(name, name)
    if known not in METRICS:
        raise ConfigError(
            f"a metric must be one of {', '.join(METRICS)} (acc, mse and mae for short), "
            f"got {name!r}; choose one of these"
        )
    return known


def plan(
    loss: Loss | Sequence[Loss], metrics: Sequence[str] | None, n_outputs: int | None
) -> tuple[tuple[Loss, ...], tuple[tuple[int, str], ...], tuple[str, ...]]:
    """Return (a loss per output, (output, metric) pairs, metric_names with "loss" first).

    metrics: None for accuracy on every output with a classification loss and nothing else.
    n_outputs: of the model, None where only a forward pass would tell. Metrics of a model
    with several outputs are named ``accuracy_1``, ``accuracy_2`` and so on.
    """
    if isinstance(loss, str) or callable(loss):
        loss = [loss] * (n_outputs or 1)
    losses = tuple(canonical_loss(one) for one in loss)
    if n_outputs is not None and len(losses) != n_outputs:
        raise ConfigError(
            f"there must be one loss for each of the {n_outputs} outputs of the model, "
            f"got {len(losses)}; list one per output, or one for all"
        )
    pairs: list[tuple[int, str]] = []
    for index, one in enumerate(losses):
        default = ("accuracy",) if one in CLASSIFICATION else ()
        chosen = default if metrics is None else metrics
        pairs += [(index, canonical_metric(name)) for name in chosen]
    names = [name if len(losses) == 1 else f"{name}_{index + 1}" for index, name in pairs]
    return losses, tuple(pairs), ("loss", *names)


def variational_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics of a variational model: "loss", then its parts, then the others.

    loss = nll + kl_weight kl: nll is the data's part of the loss alone, kl the divergence of
    all variational layers in nats.
    """
    return (names[0], "nll", "kl", *names[1:])


def metric_names(
    loss: Loss | Sequence[Loss], metrics: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the names of the training metrics, "loss" first, before there is a model.

    metrics: as in ``plan``. One loss: of a model with one output; a list: one for each.
    Raise ConfigError for an unknown name.
    """
    return plan(loss, metrics, None)[2]
