"""Digits of 8 by 8 pixels: a small convolutional network that learns in seconds."""

import keras
from keras import layers
from skopt.space import Integer, Real


def get_model(nb_filters=32, dropout=0.25, dense=128):
    """Return a network from (8, 8, 1) to the probabilities of 10 classes."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(nb_filters, 3, padding="same", activation="relu"),
            layers.Conv2D(2 * nb_filters, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(dense, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        name="digits",
    )


get_model.parameter_range = [
    Integer(4, 64, prior="log-uniform", name="nb_filters"),
    Real(0.0, 0.6, name="dropout"),
    Integer(16, 256, prior="log-uniform", name="dense"),
]


def get_name():
    return "digits"


def get_loss():
    return "categorical_crossentropy"


def get_train():
    from nnlo.data.fetch import dataset_files

    return dataset_files("digits")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("digits")[1]
