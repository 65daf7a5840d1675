"""A Keras model for MNIST in the form that NNLO loads.

    nnlorun -n 3 TrainingDriver --model examples/example_mnist.py --epochs 3

Only ``get_model`` is needed; the other functions save options on the command line.
"""

import keras
from keras import layers


def get_model(nb_filters=32, dense=128, dropout=0.25):
    """Return a new model; the arguments are the hyper-parameters."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(nb_filters, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(dense, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(10, activation="softmax"),
        ]
    )


def get_name():
    """Name the folder of the results."""
    return "example_mnist"


def get_loss():
    """The labels are one-hot; class numbers would take sparse_categorical_crossentropy."""
    return "categorical_crossentropy"


def get_features():
    """Name the dataset with the inputs; a function may follow that each array goes through."""
    return "features"


def get_labels():
    return "labels"


def get_train():
    """List the training files; used where the command line has no --train_data."""
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[1]
