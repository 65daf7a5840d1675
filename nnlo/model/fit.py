"""Do labels and outputs fit a loss? Told from shapes, before a backend fails in its own words."""

from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from nnlo.errors import ModelError
from nnlo.model.losses import CLASSIFICATION, Loss

Shape = Sequence[int | None]
"""With the batch axis first; None is a length known only later."""

Fit = Literal["keep", "expand", "squeeze"]
"""What to do to the class axis of the labels before the loss."""

ONE_OF_MANY = CLASSIFICATION[:2]


def fit_labels(
    loss: Loss, labels: Shape, output: Shape, *, class_axis: int = -1, either: bool = False
) -> Fit:
    """Say how labels must be reshaped for ``loss``; raise ModelError where they cannot fit.

    class_axis: of the output; -1 in Keras, 1 in torch.
    either: both cross-entropies take one-hot labels and class numbers (our torch losses do).
    """
    if len(output) < 2:
        class_axis = -1
    width = output[class_axis] if len(output) > 1 else None
    rest = _without(output, class_axis)
    given = output
    if loss == "gaussian_nll":
        width = _half(width, labels, output)
        output = [*output[:class_axis], width, *output[class_axis:][1:]]
    if callable(loss):  # (n,) - (n, 1) would broadcast to (n, n) and train towards the mean
        return "expand" if width == 1 and _agree(labels, rest) else "keep"
    squeezable = len(labels) > 1 and labels[class_axis if len(labels) > class_axis else -1] == 1
    fits: dict[Fit, bool]
    if loss in ONE_OF_MANY:
        numbers = width != 1 and (either or loss == "sparse_categorical_crossentropy")
        one_hot = width != 1 and (either or loss == "categorical_crossentropy")
        fits = {
            "keep": (numbers and _agree(labels, rest)) or (one_hot and _agree(labels, output)),
            "squeeze": numbers and squeezable and _agree(_without(labels, class_axis), rest),
        }
    else:
        fits = {
            "keep": _agree(labels, output),
            "expand": width == 1 and _agree(labels, rest),
            "squeeze": squeezable and _agree(_without(labels, class_axis), output),
        }
    for fit, is_right in fits.items():
        if is_right:
            return fit
    raise ModelError(
        f"labels must fit the loss {loss} and the model's output of shape {_text(given)}, got "
        f"labels of shape {_text(labels)}; {_remedy(loss, labels, output, rest, width)}"
    )


def check_classes(labels: NDArray[Any], n_classes: int) -> None:
    """Raise ModelError unless labels that number classes are in 0..n_classes - 1."""
    if labels.size and not (labels.min() >= 0 and labels.max() < n_classes):
        raise ModelError(
            f"class numbers must be in 0..{n_classes - 1} for an output {n_classes} wide, got "
            f"{labels.min()}..{labels.max()}; start counting at 0 or widen the last layer"
        )


def _remedy(loss: Loss, labels: Shape, output: Shape, rest: Shape, n_classes: int | None) -> str:
    if loss in ONE_OF_MANY and n_classes == 1:
        return "use binary_crossentropy, or give the last layer one unit per class"
    if loss == "sparse_categorical_crossentropy" and _agree(labels, output):
        return "use categorical_crossentropy, which takes one-hot labels"
    if loss == "categorical_crossentropy" and (_agree(labels, rest) or _agree(labels[:-1], rest)):
        if len(labels) == len(rest) or labels[-1] == 1:
            return "use sparse_categorical_crossentropy, which takes class numbers"
    if loss == "sparse_categorical_crossentropy":
        return f"give one class number per sample, shape {_text(rest)}"
    n_units = (labels[-1] if len(labels) > 1 else 1) or 1
    if loss == "gaussian_nll":
        n_units *= 2
    return f"give the last layer {n_units} units, or change the labels"


def _half(width: int | None, labels: Shape, output: Shape) -> int | None:
    """The number of means among outputs that are ``width`` wide."""
    if len(output) < 2 or (width is not None and width % 2):
        raise ModelError(
            "gaussian_nll must have a mean and a raw scale for each label, got outputs of shape "
            f"{_text(output)}; {_remedy('gaussian_nll', labels, output, [], width)}"
        )
    return None if width is None else width // 2


def _without(shape: Shape, axis: int) -> list[int | None]:
    return [length for index, length in enumerate(shape) if index != axis % len(shape)]


def _agree(one: Shape, other: Shape) -> bool:
    """Tell whether two shapes can be equal; the batch axis is taken to agree."""
    pairs = zip(one[1:], other[1:], strict=False)
    return len(one) == len(other) and all(a is None or b is None or a == b for a, b in pairs)


def _text(shape: Shape) -> str:
    return f"({', '.join(['batch', *map(str, shape[1:])])})"
