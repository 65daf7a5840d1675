"""MNIST digits: two convolutions and two dense layers."""

import keras
from keras import layers
from skopt.space import Integer, Real

from nnlo.errors import ModelError


def side_left(kernel_size):
    """Return the side of the images, in pixels, after both convolutions."""
    return 28 - 2 * (kernel_size - 1)


def get_model(nb_filters=32, pool_size=2, kernel_size=3, dropout=0.25, dense=128):
    """Return a network from (28, 28, 1) to the probabilities of 10 classes."""
    left = side_left(kernel_size)
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
    Integer(8, 64, prior="log-uniform", name="nb_filters"),
    Integer(2, 6, name="pool_size"),
    Integer(2, 8, name="kernel_size"),
    Integer(32, 512, prior="log-uniform", name="dense"),
    Real(0.0, 0.6, name="dropout"),
]


def repair(params):
    """Take a pool_size that leaves at least 3 by 3 pixels."""
    params["pool_size"] = min(params["pool_size"], side_left(params["kernel_size"]) // 3)
    return params


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
