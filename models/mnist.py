"""MNIST digits: two convolutions and two dense layers."""

import keras
from keras import layers
from skopt.space import Integer, Real

from nnlo.errors import ModelError


def get_model(nb_filters=32, pool_size=2, kernel_size=3, dropout=0.25, dense=128):
    """Return a network from (28, 28, 1) to the probabilities of 10 classes."""
    left = 28 - 2 * (kernel_size - 1)
    if left < pool_size:
        raise ModelError(
            f"kernel_size and pool_size must leave a pixel of 28, got {kernel_size} and "
            f"{pool_size}; choose pool_size at most {max(left, 0)} or a smaller kernel_size"
        )
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(nb_filters, kernel_size, activation="relu"),
            layers.Conv2D(nb_filters, kernel_size, activation="relu"),
            layers.MaxPooling2D(pool_size),
            layers.Dropout(dropout),
            layers.Flatten(),
            layers.Dense(dense, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(10, activation="softmax"),
        ],
        name="mnist",
    )


get_model.parameter_range = [
    Integer(10, 50, name="nb_filters"),
    Integer(2, 10, name="pool_size"),
    Integer(2, 10, name="kernel_size"),
    Integer(50, 200, name="dense"),
    Real(0.0, 1.0, name="dropout"),
]


def get_name():
    return "mnist"


def get_loss():
    return "categorical_crossentropy"


def get_train():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[1]
