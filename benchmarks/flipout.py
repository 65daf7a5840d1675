"""Time training steps of variational layers against those of the deterministic layers.

    KERAS_BACKEND=tensorflow python benchmarks/flipout.py [--batches 64 128] [--rounds 30]

A step is forward and backward through the adapter (``gradient``: loss, gradient of all weights,
copied to the flat vector), one thread, random images of 28 x 28. The three forms of a network
take turns within a round; a ratio is the median over the rounds of the times in one round.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from nnlo.cli.threads import THREAD_NAMES

os.environ |= dict.fromkeys(THREAD_NAMES, "1")

import keras
import numpy as np
from keras import layers

from nnlo.bayes import keras_layers as bayes
from nnlo.model import make_adapter

Conv, Dense = Callable[..., Any], Callable[..., Any]
FORMS: dict[str, tuple[Conv, Dense]] = {
    "deterministic": (layers.Conv2D, layers.Dense),
    "Flipout": (bayes.Conv2DFlipout, bayes.DenseFlipout),
    "reparameterization": (bayes.Conv2DReparameterization, bayes.DenseReparameterization),
}


def conv_network(conv: Conv, dense: Dense) -> Any:
    """One wide convolution; the head is deterministic, as in bnn_conv_flip."""
    return [
        conv(64, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ]


def dense_network(conv: Conv, dense: Dense) -> Any:
    """Two wide layers: with and without a gradient of their input."""
    return [
        layers.Flatten(),
        dense(512, activation="relu"),
        dense(512, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]


def mixed_network(conv: Conv, dense: Dense) -> Any:
    """Convolutions and a dense layer, all variational."""
    return [
        conv(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        conv(64, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(4),
        layers.Flatten(),
        dense(512, activation="relu"),
        dense(10, activation="softmax"),
    ]


NETWORKS = {
    "Conv2D(64, 5x5)": conv_network,
    "2 x Dense(512)": dense_network,
    "2 x Conv2D, 2 x Dense": mixed_network,
}


def main() -> None:
    """Print a table of times and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print(f"Keras on {keras.backend.backend()}, load {os.getloadavg()[0]:.1f}")
    print(f"{'network':22} {'batch':>5}  " + "  ".join(f"{name:>26}" for name in FORMS))
    for name, network in NETWORKS.items():
        steps = [step_of(network(*form)) for form in FORMS.values()]
        for batch in options.batches:
            times = np.array(measure(steps, batch, options.rounds))
            print(f"{name:22} {batch:5}  " + "  ".join(cells(times)), flush=True)


def step_of(network: list[Any]) -> Callable[[int], float]:
    """Return a function that makes one step of a batch size and tells its seconds."""
    model = keras.Sequential([keras.Input((28, 28, 1)), *network])
    adapter = make_adapter(model, "categorical_crossentropy")
    out = np.empty(adapter.manifest.size, np.float32)
    rng = np.random.default_rng(0)

    def step(batch: int) -> float:
        images = rng.random((batch, 28, 28, 1), np.float32)
        labels = np.eye(10, dtype=np.float32)[rng.integers(0, 10, batch)]
        start = time.perf_counter()
        adapter.gradient((images, labels), out)
        return time.perf_counter() - start

    return step


def measure(steps: list[Callable[[int], float]], batch: int, rounds: int) -> list[list[float]]:
    """Return seconds (rounds, forms); steps that compile are left out."""
    for step in steps:
        for _ in range(3):
            step(batch)
    return [[step(batch) for step in steps] for _ in range(rounds)]


def cells(times: Any) -> list[str]:
    """Return the median time of each form, and its median ratio to the first with quartiles."""
    texts = []
    for index, column in enumerate(times.T):
        text = f"{1e3 * statistics.median(column):.2f} ms"
        if index:
            low, middle, high = np.percentile(column / times[:, 0], [25, 50, 75])
            text += f" {middle:.2f} ({low:.2f}-{high:.2f})"
        texts.append(f"{text:>26}")
    return texts


if __name__ == "__main__":
    main()
