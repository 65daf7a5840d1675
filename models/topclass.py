"""Images of collision events, five layers of 150 by 94 pixels, in three classes.

The files are the user's: ``Images`` (n, 150, 94, 5) and one-hot ``Labels`` (n, 3).
"""

import keras
from keras import layers
from skopt.space import Categorical, Integer, Real

MOST_FILTERS = 128


def get_model(
    n_blocks=4,
    nb_filters=8,
    kernel_size=3,
    activation="relu",
    dropout1=0.1,
    n_dense=1,
    dense=128,
    dropout2=0.4,
):
    """Return a network from (150, 94, 5) to the probabilities of 3 classes.

    Each block halves the sides and doubles nb_filters, up to 128; then come n_dense layers.
    dropout1: after every block; dropout2: after every dense layer.
    """
    model = keras.Sequential([keras.Input((150, 94, 5))], name="topclass")
    for block in range(n_blocks):
        filters = min(nb_filters * 2**block, MOST_FILTERS)
        model.add(layers.Conv2D(filters, kernel_size, padding="same", activation=activation))
        model.add(layers.MaxPooling2D(2))
        model.add(layers.Dropout(dropout1))
    model.add(layers.Flatten())
    for _ in range(n_dense):
        model.add(layers.Dense(dense, activation=activation))
        model.add(layers.Dropout(dropout2))
    model.add(layers.Dense(3, activation="softmax"))
    return model


get_model.parameter_range = [
    Integer(3, 6, name="n_blocks"),
    Integer(4, 32, prior="log-uniform", name="nb_filters"),
    Integer(2, 6, name="kernel_size"),
    Categorical(["relu", "elu", "gelu"], name="activation"),
    Real(0.0, 0.4, name="dropout1"),
    Integer(0, 3, name="n_dense"),
    Integer(16, 512, prior="log-uniform", name="dense"),
    Real(0.0, 0.6, name="dropout2"),
]


def repair(params):
    """Give what counts for nothing without dense layers one value."""
    if params.get("n_dense") == 0:
        params |= {"dense": 16, "dropout2": 0.0}
    return params


def get_name():
    return "topclass"


def get_loss():
    return "categorical_crossentropy"


def get_features():
    return "Images"


def get_labels():
    return "Labels"
