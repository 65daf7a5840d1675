import numpy as np
import pytest

from nnlo.errors import ModelError
from nnlo.model import load_builder
from nnlo.model.make import build_adapter

INPUTS = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.mark.parametrize("name", ["digits", "mnist", "mnist_torch", "cifar10"])
def test_zoo_model_gives_ten_classes(name):
    pytest.importorskip("torch" if "torch" in name else "keras")
    builder = load_builder(name)
    adapter = build_adapter(builder, seed=0)
    shape = INPUTS[name.removesuffix("_torch")]
    assert builder.name == name
    assert adapter.predict(np.zeros((2, *shape), np.float32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["digits", "mnist", "mnist_torch", "cifar10"])
def test_every_dimension_is_an_argument_with_its_default_inside(name):
    import inspect

    builder = load_builder(name)
    arguments = inspect.signature(builder.module.get_model).parameters
    for dimension in builder.parameter_range:
        low, high = dimension.bounds
        assert low <= arguments[dimension.name].default <= high


def test_ranges_are_those_users_know():
    def ranges(name):
        return {one.name: one.bounds for one in load_builder(name).parameter_range}

    assert ranges("mnist") == {
        "nb_filters": (10, 50),
        "pool_size": (2, 10),
        "kernel_size": (2, 10),
        "dense": (50, 200),
        "dropout": (0.0, 1.0),
    }
    assert set(ranges("mnist_torch")) == {"kernel_size", "dense", "dropout"}
    assert ranges("cifar10")["nb_filters3"] == (10, 300)


@pytest.mark.parametrize("kernel_size", range(2, 10))
def test_torch_model_works_with_every_kernel_that_leaves_a_pixel(kernel_size):
    pytest.importorskip("torch")
    adapter = build_adapter(load_builder("mnist_torch", kernel_size=kernel_size))
    assert adapter.predict(np.zeros((1, 28, 28, 1), np.float32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("mnist_torch", {"kernel_size": 10}), ("mnist", {"kernel_size": 10, "pool_size": 11})],
)
def test_sizes_that_leave_no_pixel_name_the_parameter(name, parameters):
    with pytest.raises(ModelError, match="kernel_size"):
        load_builder(name, **parameters).build_model()


def test_digits_learns_the_real_digits_in_a_few_epochs():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    order = np.random.default_rng(0)
    mixed = order.permutation(1797)  # the last 297 are by other writers than the rest
    x = data.images[mixed, ..., None].astype(np.float32) / 16
    y = np.eye(10)[data.target[mixed]]
    adapter = build_adapter(load_builder("digits"), optimizer="adam", seed=1)
    adapter.seed(1)
    for _ in range(8):
        for rows in np.array_split(order.permutation(1500), 47):
            adapter.train_step((x[rows], y[rows]))
    n, _, right = adapter.test_step((x[1500:], y[1500:]))
    assert right / n > 0.97
