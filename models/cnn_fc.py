"""MNIST digits: what bnn_fc_flip is without its Gaussian weights."""

import keras
from keras import layers
from skopt.space import Integer


def get_model(dense=64):
    """Return a network from (28, 28, 1) to the probabilities of 10 classes."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(dense, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        name="cnn_fc",
    )


get_model.parameter_range = [
    Integer(16, 512, prior="log-uniform", name="dense"),
]


def get_name():
    return "cnn_fc"


def get_loss():
    return "categorical_crossentropy"


def get_train():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[1]
