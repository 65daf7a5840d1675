"""MNIST digits: what bnn_conv_flip is without its Gaussian weights."""

import keras
from keras import layers
from skopt.space import Integer


def get_model(nb_filters=64, kernel_size=5):
    """Return a network from (28, 28, 1) to the probabilities of 10 classes."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(nb_filters, kernel_size, padding="same", activation="relu"),
            layers.MaxPooling2D(2, padding="same"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ],
        name="cnn_conv",
    )


get_model.parameter_range = [
    Integer(8, 128, prior="log-uniform", name="nb_filters"),
    Integer(2, 8, name="kernel_size"),
]


def get_name():
    return "cnn_conv"


def get_loss():
    return "categorical_crossentropy"


def get_train():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[1]
