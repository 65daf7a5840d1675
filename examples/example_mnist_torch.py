"""A PyTorch module for MNIST in the form that NNLO loads.

    nnlorun -n 3 TrainingDriver --model examples/example_mnist_torch.py --epochs 3

The module gets images as they lie in the files, (batch, 28, 28, 1), and returns logits.
"""

from torch import nn


class Channels(nn.Module):
    """Put the channel axis where torch wants it."""

    def forward(self, images):
        return images.permute(0, 3, 1, 2)


def get_model(nb_filters=32, dense=128, dropout=0.5):
    """Return a new module, the twin of the zoo's mnist; the arguments are hyper-parameters."""
    return nn.Sequential(
        Channels(),
        nn.Conv2d(1, nb_filters, 3),
        nn.ReLU(),
        nn.Conv2d(nb_filters, nb_filters, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(nb_filters * 12 * 12, dense),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(dense, 10),
    )


def get_name():
    """Name the folder of the results."""
    return "example_mnist_torch"


def get_loss():
    """Losses of classification take logits; labels may be one-hot or class numbers."""
    return "categorical_crossentropy"


def get_train():
    """List the training files; used where the command line has no --train_data."""
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[1]
