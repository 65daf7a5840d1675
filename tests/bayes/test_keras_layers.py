"""Variational Keras layers: draws, means, divergences; on the backend of this process."""

from math import log, sqrt

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from nnlo.bayes import keras_layers  # noqa: E402
from nnlo.bayes.gaussians import find_gaussians, softplus  # noqa: E402
from nnlo.bayes.keras_layers import DenseFlipout, DenseReparameterization  # noqa: E402
from nnlo.bayes.priors import Moped, Normal, ScaleMixture  # noqa: E402
from nnlo.errors import ConfigError  # noqa: E402
from nnlo.model import make_adapter  # noqa: E402
from nnlo.model.keras_vector import value_of  # noqa: E402

# Keras' variables have an __array__ of before NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KINDS = ("Reparameterization", "Flipout")
CASES = [
    ("Dense", (6,), {}, (5, 4)),
    ("Dense", (6,), {"use_bias": False}, (5, 3, 4)),
    ("Conv1D", (6, 3), {"padding": "causal", "dilation_rate": 2}, (5, 9, 4)),
    ("Conv2D", (6, (2, 3)), {"padding": "same", "groups": 2}, (5, 4, 5, 4)),
    ("Conv2D", (6, (4, 1)), {"strides": (2, 1)}, (5, 6, 3, 4)),
    ("Conv3D", (6, (1, 2, 3)), {"use_bias": False}, (5, 3, 4, 5, 4)),
    ("DepthwiseConv2D", ((3, 2),), {"depth_multiplier": 2, "padding": "same"}, (5, 4, 3, 4)),
]
RNG = np.random.default_rng(0)


def numpy_of(tensor):
    return tensor.detach().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)


def built(kind, name, sizes, options, shape):
    """A layer with scattered weights, and inputs."""
    layer = getattr(keras_layers, name + kind)(*sizes, seed=1, **options)
    layer.build(shape)
    for tensor in layer.tensors.values():
        tensor.loc.assign(RNG.normal(0.0, 0.5, tensor.loc.shape))
        tensor.rho.assign(RNG.normal(-1.0, 0.5, tensor.rho.shape))
    return layer, RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_in_inference_a_layer_is_keras_own_at_the_means(kind, case):
    name, sizes, options, shape = case
    layer, x = built(kind, name, sizes, options | {"activation": "tanh"}, shape)
    plain = getattr(keras.layers, name)(*sizes, **options, activation="tanh")
    plain.build(shape)
    plain.set_weights([value_of(one) for one in layer.weights if one.name[-3:] in ("loc", "ias")])
    np.testing.assert_allclose(numpy_of(layer(x)), numpy_of(plain(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_outputs_scatter_as_the_posterior_says(kind, case):
    name, sizes, options, shape = case
    layer, x = built(kind, name, sizes, {"bayesian_bias": True} | options, shape)
    draws = np.stack([numpy_of(layer(x, training=True)) for _ in range(60)])
    variance = layer._linear(x**2, layer.tensors["kernel"].sigma() ** 2)
    if "bias" in layer.tensors:
        variance = layer._plus(variance, layer.tensors["bias"].sigma() ** 2)
    assert draws.var(axis=0).sum() == pytest.approx(numpy_of(variance).sum(), rel=0.2)
    error = np.sqrt(numpy_of(variance) / len(draws))
    assert (np.abs(draws.mean(axis=0) - numpy_of(layer(x))) < 5.5 * error + 1e-6).all()


def gradients(kind, x, y, n, sigma=0.1):
    """Gradients (n, 20, 10) of the squared error with respect to loc and rho, and loc."""
    layer = getattr(keras_layers, f"Dense{kind}")(10, kl_weight=0.0, use_bias=False)
    model = keras.Sequential([keras.Input((20,)), layer])
    layer.tensors["kernel"].loc.assign(np.random.default_rng(4).normal(size=(20, 10)))
    layer.tensors["kernel"].rho.assign(np.full((20, 10), np.log(np.expm1(sigma))))
    adapter = make_adapter(model, "mse", [])
    adapter.seed(5)
    out = np.empty((n, adapter.manifest.size), np.float32)
    for row in out:
        adapter.gradient((x, y), row)
    return out[:, :400].reshape(n, 2, 20, 10), value_of(layer.tensors["kernel"].loc)


def data(n):
    rng = np.random.default_rng(244)  # x close to the mean over all x in the table below
    return rng.normal(size=(n, 20)).astype("f"), rng.normal(size=(n, 10)).astype("f")


@pytest.mark.parametrize("kind", KINDS)
def test_mean_gradient_is_that_of_the_expected_loss(kind):
    (x, y), n = data(16), 600
    drawn, loc = gradients(kind, x, y, n)
    to_loc = x.T @ (x @ loc - y) * 2 / y.size
    slope = 1 - np.exp(-0.1)  # of softplus where it is 0.1
    to_rho = np.repeat((x**2).mean(axis=0)[:, None], 10, 1) * 2 / 10 * 0.1 * slope
    error = drawn.std(axis=0) / sqrt(n)
    assert (np.abs(drawn.mean(axis=0) - [to_loc, to_rho]) < 5.5 * error).all()


@pytest.mark.parametrize("kind", KINDS)
def test_seed_alone_decides_the_draws_of_a_network(kind):
    conv, depthwise = (
        getattr(keras_layers, name + kind) for name in ("Conv2D", "DepthwiseConv2D")
    )
    parts = [conv(4, (2, 3), groups=2), depthwise((3, 1)), keras.layers.Flatten()]
    network = [keras.Input((5, 4, 2)), *parts, getattr(keras_layers, f"Dense{kind}")(3)]
    adapter = make_adapter(keras.Sequential(network), "mse")
    batch = RNG.normal(size=(3, 5, 4, 2)).astype("f"), RNG.normal(size=(3, 3)).astype("f")
    out = np.empty((3, adapter.manifest.size), np.float32)
    for row, seed in zip(out, (1, 2, 1), strict=True):
        adapter.seed(seed)
        adapter.gradient(batch, row)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out[0], out[2], rtol=1e-5, atol=1e-6)
    assert np.abs(out[0] - out[1]).max() > 1e-3


# ratio of the variances of reparameterization and Flipout for x ~ N(0, I) of 20 numbers:
# (20 batch + 420) / 440, as E |x|^4 = 440 and E |X'X / batch|^2 = 20 + 420 / batch
@pytest.mark.parametrize(
    ("batch", "ratio"), [(1, 1.0), (4, 1.12), (16, 1.69), (64, 4.07), (256, 12.4)]
)
def test_flipout_scatters_less_the_larger_the_batch(batch, ratio):
    x, y = data(batch)
    shared, own = (gradients(kind, x, y, 200)[0][:, 0].var(axis=0).sum() for kind in KINDS)
    gram, fourth = x.T @ x / batch, (x**2).sum(axis=1) ** 2
    assert shared / own == pytest.approx((gram**2).sum() * batch / fourth.mean(), rel=0.15)
    assert shared / own == pytest.approx(ratio, rel=0.15)


def layer_at(loc, rho, **options):
    layer = DenseFlipout(len(loc), use_bias=False, **options)
    layer.build((None, 1))
    layer.tensors["kernel"].loc.assign(np.reshape(loc, (1, -1)))
    layer.tensors["kernel"].rho.assign(np.reshape(rho, (1, -1)))
    return layer


def divergence(loc, rho, **options):
    return float(numpy_of(layer_at(loc, rho, **options).kl_divergence()))


@pytest.mark.parametrize(("center", "scale"), [(0.0, 1.0), (0.3, 0.2)])
def test_divergence_is_that_of_torch_and_of_samples(center, scale):
    torch = pytest.importorskip("torch")
    loc, rho = RNG.normal(size=50).astype("f"), RNG.normal(-1.0, 1.0, 50).astype("f")
    found = divergence(loc, rho, prior=Normal(center, scale))
    mine = torch.distributions.Normal(torch.from_numpy(loc), torch.from_numpy(softplus(rho)))
    prior = torch.distributions.Normal(center, scale)
    expected = torch.distributions.kl_divergence(mine, prior).sum().item()
    assert found == pytest.approx(expected, rel=1e-5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = mine.sample((20_000,))
    rows = (mine.log_prob(drawn) - prior.log_prob(drawn)).sum(dim=1)
    assert found == pytest.approx(rows.mean().item(), abs=5 * rows.std().item() / sqrt(20_000))


@pytest.mark.parametrize("rho", [-80.0, -20.0, -15.0, -14.9, 0.0, 15.0, 90.0])
def test_divergence_and_its_slope_are_exact_for_any_rho(rho):
    sigma = np.logaddexp(0.0, rho)  # in float64
    expected = (0.25 + sigma**2) / 2 - log(sigma) - 0.5
    assert divergence([0.5], [rho]) == pytest.approx(expected, rel=1e-5)
    model = keras.Sequential([keras.Input((1,)), layer_at([0.5], [rho])])
    adapter = make_adapter(model, "mse", [])
    out = np.empty(adapter.manifest.size, np.float32)
    adapter.gradient((np.zeros((1, 1), "f"), np.zeros((1, 1), "f")), out)
    slope = (sigma - 1 / sigma) / (1 + np.exp(-rho))
    assert out[:2] == pytest.approx([0.5, slope], rel=1e-4)


def test_mixture_of_equal_parts_has_the_divergence_of_a_normal_up_to_noise():
    loc, rho = RNG.normal(size=4000), RNG.normal(-1.0, 1.0, 4000)
    sampled = divergence(loc, rho, prior=ScaleMixture(0.3, 0.8, 0.8))
    assert sampled == divergence(loc, rho, prior=ScaleMixture(0.3, 0.8, 0.8))
    assert sampled == pytest.approx(divergence(loc, rho, prior=Normal(0.0, 0.8)), rel=0.05)


def test_mixture_counts_both_parts():
    prior = ScaleMixture(0.25, 1.0, 0.01)
    found = divergence([0.02], [-60.0], prior=prior)  # sigma is next to 0: no noise
    density = 0.25 * np.exp(-(0.02**2) / 2) + 0.75 / 0.01 * np.exp(-2.0)
    expected = 60.0 - 0.5 * (1 + log(2 * np.pi)) - log(density / sqrt(2 * np.pi))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_masked_weights_are_zero_and_cost_nothing(training):
    layer = DenseFlipout(3, masked=True, bayesian_bias=True)
    layer.build((None, 4))
    for tensor in layer.tensors.values():
        tensor.loc.assign(np.full(tensor.loc.shape, 7.0))
        tensor.mask.assign(np.zeros(tensor.mask.shape))
    out = layer(RNG.normal(size=(5, 4)).astype("f"), training=training)
    assert (numpy_of(out) == 0.0).all()
    assert [float(numpy_of(one)) for one in layer.losses] == [0.0]


def test_first_weights_are_those_of_the_documentation():
    layer = DenseReparameterization(300, bayesian_bias=True)
    layer.build((None, 200))
    tensor = layer.tensors["kernel"]
    loc, rho = value_of(tensor.loc), value_of(tensor.rho)
    assert (loc.mean(), loc.std()) == pytest.approx((0.0, 0.1), abs=0.002)
    assert (rho.mean(), rho.std()) == pytest.approx((-3.0, 0.1), abs=0.002)
    assert not value_of(layer.tensors["bias"].loc).any()


def test_gaussian_weights_are_found_in_the_flat_vector():
    layers = [DenseFlipout(3, prior=Moped(), masked=True), DenseFlipout(2, bayesian_bias=True)]
    adapter = make_adapter(keras.Sequential([keras.Input((4,)), *layers]), "mse")
    found = find_gaussians(adapter.manifest)
    assert [one.loc.shape for one in found] == [(4, 3), (3, 2), (2,)]
    assert [one.mask is not None for one in found] == [True, False, False]
    state = [one.name.split("/")[-1] for one in adapter.manifest.entries if one.kind == "S"]
    parts = ["kernel_prior_loc", "kernel_prior_scale", "kernel_mask"]
    assert state == ["kl_weight", *parts, "kl_weight"]


def test_loss_has_the_weighted_divergence_in_training_and_evaluation():
    layer = DenseFlipout(2, kl_weight=0.25)
    model = keras.Sequential([keras.Input((3,)), layer])
    for training in (True, False):
        model(np.zeros((1, 3), np.float32), training=training)
        (loss,) = model.losses
        assert float(numpy_of(loss)) == pytest.approx(0.25 * numpy_of(layer.kl_divergence()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prior": "normal"}, "one of Normal, ScaleMixture, Moped"),
        ({"kl_weight": -1.0}, "kl_weight must be 0 or more"),
        ({"kl_weight": float("nan")}, "kl_weight must be 0 or more"),
        ({"kernel_regularizer": "l2"}, "no regularizer"),
        ({"kernel_constraint": "non_neg"}, "no constraint"),
    ],
)
def test_what_a_layer_cannot_be_is_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        DenseFlipout(3, **options)
