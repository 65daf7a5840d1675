"""MNIST digits in PyTorch: two convolutions and two dense layers; returns logits."""

from skopt.space import Integer, Real
from torch import nn

from nnlo.errors import ModelError


class MnistNetwork(nn.Module):
    """From images (n, 28, 28, 1) to logits (n, 10)."""

    def __init__(self, side, kernel_size, dropout, dense):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 10, kernel_size),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(10, 20, kernel_size),
            nn.Dropout2d(dropout),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classes = nn.Sequential(
            nn.Linear(20 * side * side, dense),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dense, 10),
        )

    def forward(self, images):
        return self.classes(self.features(images.permute(0, 3, 1, 2)))


def get_model(kernel_size=5, dropout=0.5, dense=50):
    """Return the network; raise ModelError for a kernel that leaves no pixel."""
    side = ((28 - kernel_size + 1) // 2 - kernel_size + 1) // 2
    if kernel_size < 1 or side < 1:
        raise ModelError(
            f"kernel_size must be in 1..9 for images of 28 by 28 pixels, got {kernel_size}; "
            "choose a smaller one"
        )
    return MnistNetwork(side, kernel_size, dropout, dense)


get_model.parameter_range = [
    Integer(2, 7, name="kernel_size"),  # leaves 2 by 2 pixels or more
    Integer(32, 512, prior="log-uniform", name="dense"),
    Real(0.0, 0.6, name="dropout"),
]


def get_name():
    return "mnist_torch"


def get_loss():
    return "categorical_crossentropy"


def get_train():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("mnist")[1]
