import inspect

import numpy as np
import pytest

from nnlo.data.showers import make_showers
from nnlo.errors import ModelError
from nnlo.history import History
from nnlo.model import load_builder, zoo_names
from nnlo.model.make import build_adapter
from nnlo.optimize.space import Space

# of Keras where it turns variables and tensors into arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
INPUTS = {"digits": (8, 8, 1), "cifar10": (32, 32, 3), "bnn_cifar10": (32, 32, 3)}
SIZES = {
    "bnn_conv_flip": 128_714,
    "bnn_conv_nonflip": 128_714,
    "bnn_fc_flip": 101_066,
    "bnn_fc_nonflip": 101_066,
    "cnn_conv": 127_114,
    "cnn_fc": 50_890,
    "bnn_cifar10": 1_100_554,
}


@pytest.mark.parametrize("name", ["digits", "mnist", "mnist_torch", "cifar10", *SIZES])
def test_zoo_model_gives_ten_classes(name):
    pytest.importorskip("torch" if "torch" in name else "keras")
    builder = load_builder(name)
    adapter = build_adapter(builder, seed=0)
    shape = INPUTS.get(name, (28, 28, 1))
    assert builder.name == name
    assert adapter.predict(np.zeros((2, *shape), np.float32)).shape == (2, 10)


@pytest.mark.parametrize("name", SIZES)
def test_networks_made_for_comparison_have_the_published_number_of_weights(name):
    pytest.importorskip("keras")
    assert build_adapter(load_builder(name)).manifest.n_trainable == SIZES[name]


@pytest.mark.parametrize("name", ["bnn_conv_flip", "bnn_fc_nonflip"])
def test_networks_with_gaussian_weights_train_by_zoo_name(name):
    pytest.importorskip("keras")
    adapter = build_adapter(load_builder(name), optimizer="adam", seed=0)
    rng = np.random.default_rng(0)
    labels = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 32)]
    images = labels.argmax(axis=1)[:, None, None, None] / 10 + np.zeros((1, 28, 28, 1))
    rows = [adapter.train_step((images.astype(np.float32), labels)) for _ in range(3)]
    assert adapter.metric_names == ("loss", "nll", "kl", "accuracy")
    assert rows[2][3] < rows[0][3]  # the weight of 1 of the divergence is far above the data's


def space_of(builder):
    return Space.from_range(builder.parameter_range, builder.parameter_names, builder.repair)


def defaults_of(builder):
    arguments = inspect.signature(builder.module.get_model).parameters
    return {name: arguments[name].default for name in space_of(builder).names}


@pytest.mark.parametrize("name", zoo_names())
def test_every_dimension_is_an_argument_with_its_default_inside(name):
    builder = load_builder(name)
    space = space_of(builder)
    assert set(space.names) <= set(builder.parameter_names)
    space.check(defaults_of(builder))


@pytest.mark.parametrize("name", zoo_names())
def test_repair_leaves_the_defaults_alone(name):
    builder = load_builder(name)
    assert space_of(builder).repaired(defaults_of(builder)) == defaults_of(builder)


@pytest.mark.parametrize("name", zoo_names())
def test_what_a_search_draws_can_be_built(name):
    pytest.importorskip("torch" if "torch" in name else "keras")
    space, rng = space_of(load_builder(name)), np.random.default_rng(5)
    for _ in range(2 if name == "gan3d" else 8):
        assert load_builder(name, **space.sample(rng)).build_model() is not None


def test_names_of_ranges_are_those_users_know():
    def names(model):
        return set(space_of(load_builder(model)).names)

    assert names("mnist") == {"nb_filters", "pool_size", "kernel_size", "dense", "dropout"}
    assert names("mnist_torch") == {"kernel_size", "dense", "dropout"}
    filters = {"nb_filters1", "nb_filters2", "nb_filters3"}
    assert names("cifar10") >= {*filters, "dense1", "dense2", "dropout1", "dropout2"}


def test_search_leaves_mnist_three_pixels_a_side():
    pytest.importorskip("keras")
    space, rng = space_of(load_builder("mnist")), np.random.default_rng(0)
    for params in (space.sample(rng) for _ in range(300)):
        assert (28 - 2 * (params["kernel_size"] - 1)) // params["pool_size"] >= 3


def test_topclass_without_dense_layers_is_one_model_whatever_is_drawn_for_them():
    pytest.importorskip("keras")
    space, rng = space_of(load_builder("topclass")), np.random.default_rng(0)
    bare = [one for one in (space.sample(rng) for _ in range(60)) if one["n_dense"] == 0]
    assert {(one["dense"], one["dropout2"]) for one in bare} == {(16, 0.0)}


def test_topclass_learns_from_images_of_events():
    pytest.importorskip("keras")
    builder = load_builder("topclass", n_blocks=3, nb_filters=4, dropout1=0.0, dropout2=0.0)
    assert (builder.features, builder.labels, builder.train_files()) == ("Images", "Labels", None)
    adapter = build_adapter(builder, optimizer="adam", learning_rate=0.003, seed=0)
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    images = np.random.default_rng(0).random((6, 150, 94, 5), np.float32)
    images[..., :3] *= 4 * labels[:, None, None]  # a layer for each class is brighter
    first = adapter.train_step((images, labels))
    for _ in range(14):
        last = adapter.train_step((images, labels))
    assert last[1] < 0.5 * first[1]


GOOD = {"total_error": 0.0, "energy_error": 0.0, "accuracy": 0.5, "mismatch": 0.0, "loss": 9.0}
WORSE = {"total_error": 0.1, "energy_error": 0.2, "accuracy": 0.9, "mismatch": 0.1, "loss": 1.0}


@pytest.mark.parametrize("before", ["", "val_"])
@pytest.mark.parametrize("name", ["gan_digits", "gan3d"])
def test_merit_of_a_gan_is_no_loss_and_counts_in_the_last_epoch(name, before):
    builder = load_builder(name)
    names = ["loss", *builder.build_model().metric_names]

    def merit(*epochs):
        rows = [{before + one: row[one.rpartition("/")[2]] for one in names} for row in epochs]
        return builder.figure_of_merit(History(epochs=rows))

    assert merit(WORSE, GOOD) == 0.0
    assert merit(GOOD, WORSE) > 0.05


def test_mismatch_is_none_for_equal_images_and_large_for_noise():
    keras = pytest.importorskip("keras")
    data = pytest.importorskip("sklearn.datasets").load_digits()
    images, labels = data.images[:300, ..., None] / 16, np.eye(10)[data.target[:300]]
    noise = np.random.default_rng(0).random(images.shape)

    def mismatch(*arrays):
        tensors = [keras.ops.convert_to_tensor(one, "float32") for one in arrays]
        return float(load_builder("gan_digits").module.mismatch(*tensors))

    assert abs(mismatch(images, images, labels)) < 1e-6
    assert mismatch(noise, images, labels) > 0.04


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
