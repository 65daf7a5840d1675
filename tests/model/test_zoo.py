import numpy as np
import pytest

from nnlo.data.showers import make_showers
from nnlo.errors import ModelError
from nnlo.model import load_builder
from nnlo.model.make import build_adapter

# of Keras where it turns variables and tensors into arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
INPUTS = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.mark.parametrize("name", ["digits", "mnist", "mnist_torch", "cifar10"])
def test_zoo_model_gives_ten_classes(name):
    pytest.importorskip("torch" if "torch" in name else "keras")
    builder = load_builder(name)
    adapter = build_adapter(builder, seed=0)
    shape = INPUTS[name.removesuffix("_torch")]
    assert builder.name == name
    assert adapter.predict(np.zeros((2, *shape), np.float32)).shape == (2, 10)


@pytest.mark.parametrize(
    "name", ["digits", "mnist", "mnist_torch", "cifar10", "gan_digits", "gan3d"]
)
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


SMALL = {"gan_digits": {"width": 8, "latent": 4}, "gan3d": {"width": 2, "latent": 4}}


def adapter_of_gan(name, **parameters):
    keras = pytest.importorskip("keras")
    if keras.backend.backend() == "jax":
        pytest.skip("models with their own train_step need TensorFlow or PyTorch")
    adapter = build_adapter(load_builder(name, **parameters), optimizer="rmsprop", seed=1)
    adapter.seed(1)
    return adapter


@pytest.fixture(params=SMALL)
def gan(request):
    """The adapter of a small GAN, and a batch of its data."""
    adapter = adapter_of_gan(request.param, **SMALL[request.param])
    if request.param == "gan3d":
        return adapter, make_showers(3)
    return adapter, (np.ones((3, 8, 8, 1), np.float32), np.eye(10, dtype=np.float32)[:3])


def flat(adapter):
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    return vector


def test_step_of_a_gan_trains_both_networks(gan):
    adapter, batch = gan
    before = flat(adapter)
    sums = adapter.train_step(batch)
    assert np.isfinite(sums).all()
    assert {"discriminator/loss", "generator/loss"} < set(adapter.metric_names)
    moved = flat(adapter) != before
    for network in ("generator", "discriminator"):
        entries = [one for one in adapter.manifest.entries if one.network == network]
        assert any(moved[one.offset] for one in entries)


def test_evaluation_of_a_gan_repeats_and_changes_nothing(gan):
    adapter, batch = gan
    before = flat(adapter)
    np.testing.assert_array_equal(adapter.test_step(batch), adapter.test_step(batch))
    np.testing.assert_array_equal(flat(adapter), before)


def test_saved_gan_generates_the_same(gan, tmp_path):
    keras = pytest.importorskip("keras")
    adapter, batch = gan
    adapter.train_step(batch)
    adapter.save(tmp_path / "gan.keras")
    made = adapter.model.generate(np.array([1, 2, 3]))
    again = keras.models.load_model(tmp_path / "gan.keras").generate(np.array([1, 2, 3]))
    np.testing.assert_allclose(again, made, rtol=1e-5)
    for name in ("generator", "discriminator"):  # networks need no code of ours
        assert keras.models.load_model(tmp_path / f"gan-{name}.keras").name == name


def test_step_of_the_generator_leaves_the_discriminator_alone():
    ops = pytest.importorskip("keras").ops
    model = adapter_of_gan("gan3d", **SMALL["gan3d"]).model
    before = [np.array(one) for one in model.discriminator.get_weights()]
    showers = [ops.convert_to_tensor(one) for one in make_showers(2)]
    model._step("generator", model._fool, showers, model.random)
    np.testing.assert_equal(model.discriminator.get_weights(), before)


def test_discriminator_sums_the_deposits_of_a_shower():
    deposits, _ = make_showers(3)
    _, energy, total = adapter_of_gan("gan3d", **SMALL["gan3d"]).predict(deposits)
    np.testing.assert_allclose(total, deposits.sum(axis=(1, 2, 3)), rtol=1e-5)
    assert energy.shape == (3, 1)


def test_gan3d_learns_to_tell_the_energy_of_showers():
    adapter = adapter_of_gan("gan3d", dropout=0.0, **SMALL["gan3d"])
    showers = make_showers(16)
    history = np.array([adapter.train_step(showers)[1:] / 16 for _ in range(30)])
    errors = history[:, adapter.metric_names.index("discriminator/energy_error")]
    assert errors[-10:].mean() < 0.7 * errors[:5].mean()


def test_total_of_generated_showers_grows_with_the_energy():
    model = adapter_of_gan("gan3d", **SMALL["gan3d"]).model
    totals = model.generate(np.array([10.0, 100.0])).sum(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(totals, [0.25, 2.5], rtol=1e-3)


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


def test_gan_of_digits_draws_what_a_classifier_of_real_digits_recognises():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    from sklearn.svm import SVC

    images, labels = data.images / 16, np.eye(10, dtype=np.float32)[data.target]
    adapter = adapter_of_gan("gan_digits")
    train(adapter, images[..., None].astype(np.float32), labels, epochs=60)
    judge = SVC(gamma=0.25).fit(images.reshape(-1, 64), data.target)
    classes = np.repeat(np.arange(10), 50)
    drawn = adapter.model.generate(classes)[..., 0]
    assert (judge.predict(drawn.reshape(-1, 64)) == classes).mean() > 0.8
    for k in range(10):  # not one image for each class
        real, made = images[data.target == k], drawn[classes == k]
        assert made.std(axis=0).mean() > 0.4 * real.std(axis=0).mean()


def train(adapter, x, y, epochs):
    order = np.random.default_rng(0)
    for _ in range(epochs):
        for rows in np.array_split(order.permutation(len(x)), len(x) // 100):
            adapter.train_step((x[rows], y[rows]))
