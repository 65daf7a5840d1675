"""Torch modules with a train_step of their own."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.functional import binary_cross_entropy_with_logits  # noqa: E402

from nnlo.errors import ConfigError, ModelError  # noqa: E402
from nnlo.model import make_adapter  # noqa: E402
from nnlo.model.torch_adapter import TorchAdapter  # noqa: E402

RNG = np.random.default_rng(0)
X, Y = RNG.random((12, 8, 8), np.float32), RNG.random((12, 1), np.float32)
LATENT = 3


class GAN(nn.Module):
    """Two networks; the generator has a state S, the discriminator an integer counter."""

    metric_names = ("d/loss", "g/loss")

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(LATENT, 64), nn.BatchNorm1d(64), nn.Unflatten(1, (8, 8))
        )
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 1))
        self.networks = {"g": self.generator, "d": self.discriminator}

    def train_step(self, batch):
        images, _ = batch
        fake = self.generator(self.draw(images)).detach()
        loss = self.judge(fake, 0.0) + self.judge(images, 1.0)
        found = {"d/loss": self.learn("d", loss)}
        return found | {"g/loss": self.learn("g", self.fool(images))}

    def learn(self, name, loss):
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()
        return loss

    def fool(self, images):
        return self.judge(self.generator(self.draw(images)), 1.0)

    def judge(self, images, truth):
        logits = self.discriminator(images)
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))

    def draw(self, images):
        return torch.randn(len(images), LATENT, device=images.device)


class TestedGAN(GAN):
    __test__ = False

    def test_step(self, batch):
        loss = self.fool(batch[0])
        return {"g/loss": loss, "d/loss": 2 * loss.item()}


def gan(kind=GAN, **rates):
    torch.manual_seed(0)
    model = kind()
    if rates:
        model.optimizers = {
            name: torch.optim.Adam(model.networks[name].parameters(), rate)
            for name, rate in rates.items()
        }
    return model


def adapter_of(model=None, optimizer="adam", **options):
    return make_adapter(model or gan(), None, optimizer=optimizer, **options)


def flat(adapter):
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    return vector


def rates(adapter):
    return {name: one.param_groups[0]["lr"] for name, one in adapter.model.optimizers.items()}


def test_networks_are_segments_with_all_trainable_ones_first():
    manifest = adapter_of().manifest
    found = [(one.network, one.kind) for one in manifest.entries]
    assert found == [("g", "T")] * 4 + [("d", "T")] * 4 + [("g", "S")] * 2
    assert manifest.entries[0].name == "0.weight"
    assert manifest.hash == adapter_of().manifest.hash


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


def test_a_step_trains_both_networks_and_moves_the_state():
    adapter = adapter_of()
    before = flat(adapter)
    sums = adapter.train_step((X, Y))
    assert adapter.metric_names == ("loss", "d/loss", "g/loss")
    assert sums[0] == 12
    assert sums[1] == pytest.approx(sums[2] + sums[3])
    for old, new in zip(*map(adapter.manifest.split, (before, flat(adapter))), strict=True):
        assert (old != new).any()


def test_a_step_is_that_of_the_module_alone():
    adapter, alone = adapter_of(), gan()
    alone.optimizers = {k: torch.optim.Adam(v.parameters()) for k, v in alone.networks.items()}
    adapter.seed(3)
    torch.manual_seed(3)
    for n in (12, 7):
        expected = alone.train_step((torch.from_numpy(X[:n]), torch.from_numpy(Y[:n])))
        sums = adapter.train_step((X[:n], Y[:n]))
        assert sums[3] / n == pytest.approx(expected["g/loss"].item(), rel=1e-6)
    for one, other in zip(adapter.model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_vector_holds_both_networks():
    adapter = adapter_of()
    vector = np.arange(adapter.manifest.size, dtype=np.float32)
    adapter.set_flat(vector)
    np.testing.assert_array_equal(flat(adapter), vector)
    assert adapter.model.generator[0].weight[0, 0] == 0
    assert adapter.model.discriminator[2].bias[0] == vector[adapter.manifest.n_trainable - 1]


@pytest.mark.parametrize("optimizer", ["adam", {"name": "sgd", "momentum": 0.9}, None])
def test_training_goes_on_exactly_from_a_local_state(optimizer):
    own = {} if optimizer else {"d": 0.02, "g": 0.01}
    old, new = (adapter_of(gan(**own), optimizer) for _ in range(2))
    old.train_step((X, Y))
    old.learning_rate = 0.005
    weights, state = flat(old), old.local_state()
    sums = [old.train_step((X, Y)) for _ in range(3)]
    for adapter in (old, new):
        adapter.set_flat(weights)
        adapter.load_local_state(state)
        np.testing.assert_array_equal([adapter.train_step((X, Y)) for _ in range(3)], sums)
    np.testing.assert_array_equal(flat(new), flat(old))


def test_counters_of_every_network_are_local():
    state = adapter_of().local_state()
    assert state["local/g/1.num_batches_tracked"] == 0


def test_rates_of_all_networks_keep_their_proportions():
    adapter = adapter_of(gan(d=0.02, g=0.1), optimizer=None)
    assert adapter.learning_rate == 0.1
    adapter.learning_rate = 0.05
    assert rates(adapter) == pytest.approx({"d": 0.01, "g": 0.05})
    adapter.learning_rate = 0.0
    adapter.learning_rate = 0.2
    assert rates(adapter) == pytest.approx({"d": 0.04, "g": 0.2})


def test_a_rate_alone_scales_the_modules_own_optimizers():
    adapter = adapter_of(gan(d=0.02, g=0.1), optimizer=None, learning_rate=0.3)
    assert rates(adapter) == pytest.approx({"d": 0.06, "g": 0.3})


def test_a_worker_optimizer_replaces_the_modules_own():
    adapter = adapter_of(gan(d=0.02, g=0.1), optimizer="sgd", learning_rate=0.5)
    assert rates(adapter) == {"g": 0.5, "d": 0.5}
    assert isinstance(adapter.model.optimizers["g"], torch.optim.SGD)


def test_clipping_bounds_the_step_of_each_network():
    adapter = adapter_of(optimizer="sgd", learning_rate=1.0, clip_norm=1e-3)
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


def test_module_without_a_test_step_cannot_be_validated():
    with pytest.raises(ModelError, match="add test_step"):
        adapter_of().test_step((X, Y))


def test_empty_batch_gives_zeros():
    adapter = adapter_of(gan(TestedGAN))
    assert not adapter.train_step((X[:0], Y[:0])).any()
    assert not adapter.test_step((X[:0], Y[:0])).any()


def test_predictions_of_a_gan_are_its_first_networks_in_inference():
    adapter = adapter_of()
    latent = RNG.random((5, LATENT), np.float32)
    found = adapter.predict(latent)
    expected = adapter.model.generator.eval()(torch.from_numpy(latent))
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6)


def test_summary_shows_every_network():
    summary = adapter_of().summary()
    assert "generator.0" in summary
    assert "discriminator.1" in summary


def test_the_whole_and_each_network_are_saved_for_plain_torch(tmp_path):
    adapter = adapter_of()
    adapter.train_step((X, Y))
    files = adapter.save(tmp_path / "model.pt")
    assert [one.name for one in files] == ["model.pt", "model-g.pt", "model-d.pt"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    loaded = gan()
    loaded.load_state_dict(torch.load(files[0], weights_only=True))
    loaded.generator.load_state_dict(torch.load(files[1], weights_only=True))
    for one, other in zip(loaded.parameters(), adapter.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_gradients_are_refused_with_the_remedy():
    adapter = adapter_of()
    assert not adapter.has_gradient
    with pytest.raises(ModelError, match="or downpour with --worker-optimizer NAME"):
        adapter.gradient((X, Y), flat(adapter))
    with pytest.raises(ModelError, match="must be trained by local steps"):
        adapter.apply_gradient(flat(adapter))


def test_a_loss_that_would_be_ignored_is_an_error():
    with pytest.raises(ConfigError, match="bring its own loss, got 'mse'"):
        make_adapter(gan(), "mse")


def test_a_step_without_any_optimizer_says_so():
    with pytest.raises(ConfigError, match="an optimizer for each network"):
        adapter_of(optimizer=None).train_step((X, Y))


def test_a_network_that_holds_others_adds_nothing():
    model = gan()
    model.both = nn.Sequential(model.generator, model.discriminator)
    model.networks = {**model.networks, "both": model.both}
    adapter = adapter_of(model)
    assert adapter.manifest.size == adapter_of().manifest.size
    assert set(adapter.model.optimizers) == {"g", "d", "both"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"networks": {"d": None}}, "got 'd' in networks only"),
        ({"spare": nn.Parameter(torch.ones(2))}, "got spare in none"),
        ({"metric_names": ("d/loss",)}, r"got \['d/loss', 'g/loss'\]"),
        ({"metric_names": ("d/accuracy",)}, "must hold 'loss' or"),
        ({"networks": {"d/1": None}}, "must be words, got 'd/1'"),
    ],
)
def test_what_a_module_says_wrongly_of_itself_is_an_error(change, says):
    model = gan()
    for name, value in change.items():
        setattr(model, name, value)
    with pytest.raises(ModelError, match=says):
        adapter_of(model).train_step((X, Y))


@pytest.mark.parametrize("name", ["g", "critic"])
def test_optimizers_that_cannot_serve_are_refused(name):
    model = gan()
    model.optimizers = {name: torch.optim.SGD(model.generator.parameters(), 0.0)}
    with pytest.raises(ModelError, match=r"must be above 0|named as the networks \['g', 'd'\]"):
        adapter_of(model, optimizer=None)


class Regression(nn.Module):
    """One network, whose step is that of plain training."""

    metric_names = ("error", "loss")

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, x):
        return self.layers(x)

    def train_step(self, batch):
        x, y = batch
        loss = (self(x) - y).square().mean()
        self.optimizers["model"].zero_grad()
        loss.backward()
        self.optimizers["model"].step()
        return {"loss": loss, "error": loss.sqrt().item()}


def test_own_step_of_one_network_is_a_plain_step():
    module = Regression()
    plain = TorchAdapter(module.layers, "mse", optimizer="adam", learning_rate=0.01)
    own = adapter_of(Regression(), learning_rate=0.01)
    own.set_flat(flat(plain))
    assert own.metric_names == ("loss", "error")
    for n in (12, 7):
        expected = plain.train_step((X[:n], Y[:n]))
        np.testing.assert_allclose(own.train_step((X[:n], Y[:n]))[:2], expected, rtol=1e-6)
    np.testing.assert_allclose(flat(own), flat(plain), atol=1e-6)
    np.testing.assert_allclose(own.predict(X), plain.predict(X), atol=1e-6)
