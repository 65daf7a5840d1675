"""Keras models with a train_step of their own. ``tests/contracts/test_adapters.py`` runs this file
on the other backends, each in a process of its own."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from keras import layers, ops  # noqa: E402

from nnlo.errors import ConfigError, ModelError  # noqa: E402
from nnlo.model import make_adapter  # noqa: E402
from nnlo.model.keras_adapter import KerasAdapter  # noqa: E402

BACKEND = keras.backend.backend()
pytestmark = [
    pytest.mark.skipif(BACKEND == "jax", reason="refused, as adapter_suite.py says"),
    # Keras reads its variables in a way that NumPy 2 warns of
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning"),
]
RNG = np.random.default_rng(0)
X, Y = RNG.random((12, 8, 8), np.float32), RNG.random((12, 1), np.float32)
LATENT = 3


def gradients_of(function, variables):
    """Return (function(), its first result's gradients by the variables)."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = function()
        return loss, tape.gradient(loss, variables)
    import torch

    loss = function()
    return loss.detach(), torch.autograd.grad(loss, [one.value for one in variables])


def apply(optimizer, gradients, variables):
    if BACKEND == "torch":
        import torch

        with torch.no_grad():
            return optimizer.apply(gradients, variables)
    return optimizer.apply(gradients, variables)


class GAN(keras.Model):
    """Like those of tutorials: no call, no get_config, metric objects, networks as arguments."""

    metric_names = ("d/loss", "g/loss")

    def __init__(self, discriminator, generator):
        super().__init__()
        self.discriminator, self.generator = discriminator, generator
        self.networks = {"g": generator, "d": discriminator}
        self.noise = keras.random.SeedGenerator(1337)
        self.trackers = [keras.metrics.Mean(), keras.metrics.Mean()]

    def train_step(self, data):
        images, _ = data
        fake = self.generator(self.draw(images), training=True)
        mixed = ops.concatenate([fake, images], axis=0)
        truth = ops.concatenate([ops.zeros_like(fake[:, :1, 0]), ops.ones_like(fake[:, :1, 0])])
        self.learn(0, "d", lambda: self.judge(truth, self.discriminator(mixed, training=True)))
        self.learn(1, "g", lambda: self.fool(images, training=True))
        return {"d/loss": self.trackers[0].result(), "g/loss": self.trackers[1].result()}

    def learn(self, index, name, loss):
        variables = self.networks[name].trainable_variables
        value, gradients = gradients_of(loss, variables)
        apply(self.optimizers[name], gradients, variables)
        self.trackers[index].update_state(value)

    def fool(self, images, training):
        judged = self.discriminator(self.generator(self.draw(images), training=training))
        return self.judge(ops.ones_like(judged), judged)

    def judge(self, truth, logits):
        return ops.mean(ops.binary_crossentropy(truth, logits, from_logits=True))

    def draw(self, images):
        return keras.random.normal((ops.shape(images)[0], LATENT), seed=self.noise)


class TestedGAN(GAN):
    __test__ = False

    def test_step(self, data):
        loss = self.fool(data[0], training=False)
        return {"g/loss": loss, "d/loss": 2 * loss}


def networks():
    discriminator = keras.Sequential(
        [keras.Input((8, 8)), layers.Flatten(), layers.Dense(4, "relu"), layers.Dense(1)]
    )
    generator = keras.Sequential(
        [keras.Input((LATENT,)), layers.Dense(64), layers.BatchNormalization()]
    )
    generator.add(layers.Reshape((8, 8)))
    return discriminator, generator


def gan(kind=GAN, **rates):
    model = kind(*networks())
    if rates:
        model.optimizers = {name: keras.optimizers.Adam(rate) for name, rate in rates.items()}
    return model


def adapter_of(model=None, optimizer="adam", **options):
    return make_adapter(model or gan(), None, optimizer=optimizer, **options)


def flat(adapter):
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    return vector


def rates(adapter):
    return [
        float(ops.convert_to_numpy(one.learning_rate)) for one in adapter.model.optimizers.values()
    ]


def test_networks_are_segments_with_all_trainable_ones_first():
    manifest = adapter_of().manifest
    found = [(one.network, one.kind) for one in manifest.entries]
    assert found == [("g", "T")] * 4 + [("d", "T")] * 4 + [("g", "S")] * 2
    assert manifest.n_trainable == (3 * 64 + 64 + 2 * 8 * 8) + (64 * 4 + 4 + 4 + 1)
    assert manifest.hash == adapter_of().manifest.hash


def test_a_step_trains_both_networks_and_moves_the_state():
    adapter = adapter_of()
    before = flat(adapter)
    sums = adapter.train_step((X, Y))
    assert adapter.metric_names == ("loss", "d/loss", "g/loss")
    assert sums[0] == 12
    assert sums[1] == pytest.approx(sums[2] + sums[3])
    for old, new in zip(*map(adapter.manifest.split, (before, flat(adapter))), strict=True):
        assert (old != new).any()


def test_the_vector_holds_both_networks():
    adapter = adapter_of()
    vector = np.arange(adapter.manifest.size, dtype=np.float32)
    adapter.set_flat(vector)
    np.testing.assert_array_equal(flat(adapter), vector)
    kernel, *_, bias = adapter.model.discriminator.get_weights()
    np.testing.assert_array_equal(kernel.ravel(), vector[448 - 64 :][: 64 * 4])
    assert bias[0] == vector[adapter.manifest.n_trainable - 1]


def test_training_goes_on_exactly_from_a_local_state():
    old, new = adapter_of(), adapter_of()
    old.train_step((X, Y))
    weights, state = flat(old), old.local_state()
    sums = [old.train_step((X, Y)) for _ in range(3)]
    for adapter in (old, new):
        adapter.set_flat(weights)
        adapter.load_local_state(state)
        np.testing.assert_array_equal([adapter.train_step((X, Y)) for _ in range(3)], sums)
    np.testing.assert_array_equal(flat(new), flat(old))


def test_local_state_of_other_optimizers_is_refused():
    with pytest.raises(ModelError, match="equal model and optimizer"):
        adapter_of(optimizer="adam").load_local_state(adapter_of(optimizer="sgd").local_state())


def test_all_optimizers_forget_what_was_not_finite_and_keep_their_rates():
    adapter = adapter_of(gan(g=1e-3, d=2e-3), None)
    start, before = flat(adapter), rates(adapter)
    adapter.train_step((X * np.nan, Y))
    assert not np.isfinite(flat(adapter)).all()
    adapter.set_flat(start)
    adapter.reset_optimizer()
    adapter.train_step((X, Y))
    assert np.isfinite(flat(adapter)).all()
    assert rates(adapter) == before


def test_seed_repeats_the_noise_and_another_seed_does_not():
    found = []
    start = flat(adapter_of())
    for seed in (5, 5, 6):
        adapter = adapter_of()
        adapter.set_flat(start)
        adapter.seed(seed)
        found.append(adapter.train_step((X, Y)))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_rates_of_all_networks_keep_their_proportions():
    adapter = adapter_of(gan(d=0.02, g=0.1), optimizer=None)
    assert adapter.learning_rate == pytest.approx(0.1)
    adapter.learning_rate = 0.05
    assert rates(adapter) == pytest.approx([0.01, 0.05])
    adapter.learning_rate = 0.0
    assert rates(adapter) == [0.0, 0.0]
    adapter.learning_rate = 0.2
    assert rates(adapter) == pytest.approx([0.04, 0.2])


def test_a_rate_alone_scales_the_models_own_optimizers():
    adapter = adapter_of(gan(d=0.02, g=0.1), optimizer=None, learning_rate=0.3)
    assert adapter.learning_rate == pytest.approx(0.3)
    assert rates(adapter) == pytest.approx([0.06, 0.3])


def test_a_worker_optimizer_replaces_the_models_own():
    adapter = adapter_of(gan(d=0.02, g=0.1), optimizer="sgd", learning_rate=0.5)
    made = adapter.model.optimizers
    assert [type(one).__name__ for one in made.values()] == ["SGD", "SGD"]
    assert made["g"] is not made["d"]
    assert rates(adapter) == [0.5, 0.5]


@pytest.mark.parametrize("own", [False, True])
def test_clipping_bounds_the_step_of_each_network(own):
    model = gan()
    if own:
        model.optimizers = {name: keras.optimizers.SGD(1.0) for name in model.networks}
    options = {"optimizer": None} if own else {"optimizer": "sgd", "learning_rate": 1.0}
    adapter = adapter_of(model, clip_norm=1e-3, **options)
    before = flat(adapter)
    adapter.train_step((X, Y))
    moved = (flat(adapter) - before)[: adapter.manifest.n_trainable]
    for part in (moved[:384], moved[384:]):
        assert np.linalg.norm(part) == pytest.approx(1e-3, rel=1e-2)


def test_validation_changes_nothing_and_repeats_itself():
    adapter = adapter_of(gan(TestedGAN))
    assert adapter.has_test_step
    weights, state = flat(adapter), adapter.local_state()
    first, second = adapter.test_step((X, Y)), adapter.test_step((X, Y))
    np.testing.assert_array_equal(first, second)
    assert first[1] == pytest.approx(3 * first[3])
    np.testing.assert_array_equal(flat(adapter), weights)
    for name, value in adapter.local_state().items():
        np.testing.assert_array_equal(value, state[name])


def test_model_without_a_test_step_cannot_be_validated():
    adapter = adapter_of()
    assert not adapter.has_test_step
    with pytest.raises(ModelError, match="add test_step"):
        adapter.test_step((X, Y))


def test_empty_batch_gives_zeros():
    adapter = adapter_of(gan(TestedGAN))
    before = flat(adapter)
    assert not adapter.train_step((X[:0], Y[:0])).any()
    assert not adapter.test_step((X[:0], Y[:0])).any()
    np.testing.assert_array_equal(flat(adapter), before)


def test_predictions_of_a_gan_are_its_first_networks():
    adapter = adapter_of()
    latent = RNG.random((5, LATENT), np.float32)
    expected = adapter.model.generator.predict(latent, verbose=0)
    np.testing.assert_allclose(adapter.predict(latent), expected, atol=1e-6)


def test_summary_shows_every_network():
    summary = adapter_of().summary()
    assert "network g" in summary
    assert "network d" in summary
    assert "batch_normalization" in summary


def test_each_network_is_saved_for_plain_keras(tmp_path):
    adapter = adapter_of()
    adapter.train_step((X, Y))
    files = adapter.save(tmp_path / "model.keras")
    assert [one.name for one in files] == ["model.weights.h5", "model-g.keras", "model-d.keras"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    latent = RNG.random((5, LATENT), np.float32)
    generator = keras.models.load_model(tmp_path / "model-g.keras")
    found = generator.predict(latent, verbose=0)
    np.testing.assert_allclose(found, adapter.predict(latent), atol=1e-6)
    fresh = adapter_of()
    fresh.model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(flat(fresh), flat(adapter))


def test_gradients_are_refused_with_the_remedy():
    adapter = adapter_of()
    assert not adapter.has_gradient
    with pytest.raises(ModelError, match="or downpour with --worker-optimizer NAME"):
        adapter.gradient((X, Y), flat(adapter))
    with pytest.raises(ModelError, match="must be trained by local steps"):
        adapter.apply_gradient(flat(adapter))


def test_a_loss_or_metrics_that_would_be_ignored_are_an_error():
    with pytest.raises(ConfigError, match="bring its own loss, got 'mse'"):
        make_adapter(gan(), "mse")
    with pytest.raises(ConfigError, match="bring its own metrics"):
        make_adapter(gan(), None, ["acc"])


def test_a_step_without_any_optimizer_says_so():
    with pytest.raises(ConfigError, match="an optimizer for each network"):
        adapter_of(optimizer=None).train_step((X, Y))


def test_a_network_that_holds_others_adds_nothing():
    model = gan()
    model.networks = {**model.networks, "both": keras.Sequential([*model.networks.values()])}
    assert adapter_of(model).manifest.size == adapter_of().manifest.size


def test_weights_of_no_network_are_refused():
    model = gan()
    model.networks = {"d": model.discriminator}
    with pytest.raises(ModelError, match=r"got .*kernel in none; add its layer"):
        adapter_of(model)


def test_unbuilt_network_is_refused():
    model = GAN(networks()[0], keras.Sequential([layers.Dense(64)]))
    with pytest.raises(ModelError, match="must know its input shape, got the unbuilt 'g'"):
        adapter_of(model)


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"critic": 0.1}, r"named as the networks \['g', 'd'\], got \['critic'\]"),
        ({"g": 0.0}, "must be above 0, got 0.0"),
        ({"g": keras.optimizers.schedules.ExponentialDecay(0.1, 9, 0.5)}, "a schedule for 'g'"),
    ],
)
def test_optimizers_that_cannot_serve_are_refused(own, says):
    with pytest.raises(ModelError, match=says):
        adapter_of(gan(**own), optimizer=None)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("d/loss",), r"with the names \['d/loss'\], got \['d/loss', 'g/loss'\]"),
        (("d/accuracy",), "must hold 'loss' or"),
    ],
)
def test_metric_names_that_lie_are_an_error(names, says):
    model = gan()
    model.metric_names = names
    with pytest.raises(ModelError, match=says):
        adapter_of(model).train_step((X, Y))


class Regression(keras.Model):
    """One network, Functional, whose step is that of plain training."""

    def train_step(self, data):
        x, y = data
        variables = self.trainable_variables
        loss, gradients = gradients_of(
            lambda: ops.mean((self(x, training=True) - y) ** 2), variables
        )
        apply(self.optimizer, gradients, variables)
        return {"loss": loss}


def regression(kind):
    x = keras.Input((8, 8))
    hidden = layers.Dense(3, "tanh")(layers.Flatten()(x))
    return kind(x, layers.Dense(1)(layers.BatchNormalization()(hidden)))


def test_own_step_of_one_network_is_a_plain_step():
    own = adapter_of(regression(Regression), learning_rate=0.01)
    plain = KerasAdapter(regression(keras.Model), "mse", optimizer="adam", learning_rate=0.01)
    own.set_flat(flat(plain))
    for n in (12, 7, 12):
        expected = plain.train_step((X[:n], Y[:n]))
        np.testing.assert_allclose(own.train_step((X[:n], Y[:n])), expected, rtol=1e-5)
    np.testing.assert_allclose(flat(own), flat(plain), atol=1e-5)
    np.testing.assert_allclose(own.predict(X), plain.predict(X), atol=1e-5)
    assert {one.network for one in own.manifest.entries} == {"model"}


def test_compiled_model_of_one_network_keeps_its_optimizer():
    model = regression(Regression)
    model.compile(keras.optimizers.SGD(0.25))
    adapter = adapter_of(model, optimizer=None)
    before = flat(adapter)
    adapter.train_step((X, Y))
    assert adapter.learning_rate == 0.25
    assert (flat(adapter) != before).all()


class Tracked(Regression):
    def __init__(self, *args):
        super().__init__(*args)
        self.mean = keras.metrics.Mean(name="loss")

    def train_step(self, data):
        self.mean.update_state(data[0])
        return {"loss": self.mean.result()}


def test_metric_objects_report_the_batch_alone():
    adapter = adapter_of(regression(Tracked))
    for value in (1.0, 3.0):
        assert adapter.train_step((np.full_like(X, value), Y))[1] == pytest.approx(12 * value)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="eager on PyTorch")
def test_own_step_is_compiled_once_for_all_sizes_of_a_batch():
    calls = []

    class Counted(Regression):
        def train_step(self, data):
            calls.append(data)
            return super().train_step(data)

    adapter = adapter_of(regression(Counted))
    for n in (12, 7, 12):
        adapter.train_step((X[:n], Y[:n]))
    assert len(calls) == 1


def test_a_single_network_is_saved_whole(tmp_path):
    adapter = adapter_of(regression(Regression))
    adapter.train_step((X, Y))
    assert adapter.save(tmp_path / "model.keras") == [tmp_path / "model.keras"]
    loaded = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"Regression": Regression}
    )
    np.testing.assert_allclose(loaded.predict(X, verbose=0), adapter.predict(X), atol=1e-6)
