"""MNIST digits: a variational dense layer by reparameterization, and a dense layer."""

import keras
from keras import layers
from skopt.space import Integer, Real

from nnlo.bayes.keras_layers import DenseReparameterization
from nnlo.bayes.priors import Normal


def get_model(dense=64, prior_scale=1.0):
    """Return a network from (28, 28, 1) to the probabilities of 10 classes.

    The weights of the first layer are Gaussian, with the prior N(0, prior_scale^2).
    """
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            DenseReparameterization(dense, activation="relu", prior=Normal(scale=prior_scale)),
            layers.Dense(10, activation="softmax"),
        ],
        name="bnn_fc_nonflip",
    )


get_model.parameter_range = [
    Integer(16, 512, prior="log-uniform", name="dense"),
    Real(0.1, 2.0, prior="log-uniform", name="prior_scale"),
]


def get_name():
    return "bnn_fc_nonflip"


def get_loss():
    return "categorical_crossentropy"


def get_train():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[1]
