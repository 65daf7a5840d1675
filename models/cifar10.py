"""CIFAR-10 images: three convolutions and three dense layers."""

import keras
from keras import layers
from skopt.space import Integer, Real


def get_model(
    kernel_size=3,
    nb_filters1=48,
    nb_filters2=96,
    nb_filters3=192,
    pool_size=2,
    dropout1=0.25,
    dropout2=0.5,
    dense1=512,
    dense2=256,
):
    """Return a network from (32, 32, 3) to the probabilities of 10 classes."""
    model = keras.Sequential([keras.Input((32, 32, 3))], name="cifar10")
    for nb_filters in (nb_filters1, nb_filters2, nb_filters3):
        model.add(layers.Conv2D(nb_filters, kernel_size, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D(pool_size))
    model.add(layers.Flatten())
    for dense, dropout in ((dense1, dropout1), (dense2, dropout2)):
        model.add(layers.Dense(dense, activation="relu"))
        model.add(layers.Dropout(dropout))
    model.add(layers.Dense(10, activation="softmax"))
    return model


get_model.parameter_range = [
    Integer(2, 5, name="kernel_size"),
    Integer(10, 300, prior="log-uniform", name="nb_filters1"),
    Integer(10, 300, prior="log-uniform", name="nb_filters2"),
    Integer(10, 300, prior="log-uniform", name="nb_filters3"),
    Integer(50, 1000, prior="log-uniform", name="dense1"),
    Integer(50, 1000, prior="log-uniform", name="dense2"),
    Real(0.0, 0.6, name="dropout1"),
    Real(0.0, 0.6, name="dropout2"),
]


def get_name():
    return "cifar10"


def get_loss():
    return "categorical_crossentropy"


def get_train():
    from nnlo.data.fetch import dataset_files

    return dataset_files("cifar10")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("cifar10")[1]
