"""CIFAR-10 images: three blocks of two convolutions and two dense layers, all variational."""

import keras
from keras import layers
from skopt.space import Integer, Real

from nnlo.bayes.keras_layers import Conv2DFlipout, DenseFlipout
from nnlo.bayes.priors import Normal


def get_model(nb_filters1=32, nb_filters2=64, nb_filters3=128, dense=128, prior_scale=1.0):
    """Return a network from (32, 32, 3) to the probabilities of 10 classes.

    All kernels are Gaussian, with the prior N(0, prior_scale^2), by Flipout. Their divergence
    from the prior is many times the loss of the data at first: warm up its weight.
    """
    prior = Normal(scale=prior_scale)
    model = keras.Sequential([keras.Input((32, 32, 3))], name="bnn_cifar10")
    for nb_filters in (nb_filters1, nb_filters2, nb_filters3):
        for _ in range(2):
            model.add(Conv2DFlipout(nb_filters, 3, padding="same", activation="relu", prior=prior))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    model.add(DenseFlipout(dense, activation="relu", prior=prior))
    model.add(DenseFlipout(10, activation="softmax", prior=prior))
    return model


get_model.parameter_range = [
    Integer(8, 64, prior="log-uniform", name="nb_filters1"),
    Integer(16, 128, prior="log-uniform", name="nb_filters2"),
    Integer(32, 256, prior="log-uniform", name="nb_filters3"),
    Integer(32, 512, prior="log-uniform", name="dense"),
    Real(0.1, 2.0, prior="log-uniform", name="prior_scale"),
]


def get_name():
    return "bnn_cifar10"


def get_loss():
    return "categorical_crossentropy"


def get_train():
    from nnlo.data.fetch import dataset_files

    return dataset_files("cifar10")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("cifar10")[1]
