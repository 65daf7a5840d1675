"""A model file for OptimizationDriver: ranges, parameters that depend on each other, a merit.

    OptimizationDriver --model examples/search_my_model.py --epochs 5 --num-iterations 20
    nnlorun -n 5 OptimizationDriver --model examples/search_my_model.py --num-iterations 20
    nnlorun -n 3 TrainingDriver --model examples/search_my_model.py --param width=128

Only ``get_model`` and its ranges are needed. TrainingDriver takes the file as well.
"""

import keras
from keras import layers
from skopt.space import Categorical, Integer, Real


def get_model(n_layers=2, width=64, last_width=32, activation="relu", dropout=0.1):
    """Return a new model; the arguments are the hyper-parameters."""
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()])
    for units in [width] * (n_layers - 1) + [last_width]:
        model.add(layers.Dense(units, activation=activation))
    model.add(layers.Dropout(dropout))
    model.add(layers.Dense(10, activation="softmax"))
    return model


get_model.parameter_range = [
    Integer(1, 4, name="n_layers"),
    Integer(8, 256, prior="log-uniform", name="width"),
    Integer(8, 256, prior="log-uniform", name="last_width"),
    Categorical(["relu", "elu", "tanh"], name="activation"),
    Real(0.0, 0.5, name="dropout"),
]


def repair(params):
    """Say how parameters shall be that depend on each other; None: they must not be tried."""
    if params["n_layers"] == 1:
        params["width"] = 8  # has no effect then: one value, so that no model is tried twice
    elif params["last_width"] > params["width"]:
        return None
    return params


def figure_of_merit(history):
    """Return what shall be small, after any epoch: the mean of the three best so far."""
    best = sorted(history.values("val_loss"))[:3]
    return sum(best) / len(best)


def get_loss():
    return "categorical_crossentropy"


def get_train():
    """List the training files; used where the command line has no --train_data."""
    from nnlo.data.fetch import dataset_files

    return dataset_files("digits")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("digits")[1]
