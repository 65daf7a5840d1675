"""Variational torch layers: draws, means, divergences, conversion of modules."""

from math import log

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from nnlo.bayes import torch_layers  # noqa: E402
from nnlo.bayes.gaussians import find_gaussians  # noqa: E402
from nnlo.bayes.priors import Moped, Normal, ScaleMixture  # noqa: E402
from nnlo.bayes.torch_convert import to_bayesian  # noqa: E402
from nnlo.bayes.torch_layers import LinearFlipout, LinearReparameterization, Noise  # noqa: E402
from nnlo.errors import ConfigError, ModelError  # noqa: E402
from nnlo.model import make_adapter  # noqa: E402

LINEAR = [LinearReparameterization, LinearFlipout]
CASES = [
    (f"{kind}{estimator}", sizes, options, shape)
    for estimator in ("Reparameterization", "Flipout")
    for kind, sizes, options, shape in (
        ("Linear", (4, 6), {}, (5, 4)),
        ("Linear", (4, 6), {"bias": False}, (5, 3, 4)),
        ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1}, (5, 4, 9)),
        ("Conv2d", (4, 6, (2, 3)), {"padding": "same", "dilation": 2}, (5, 4, 8, 7)),
        (
            "Conv2d",
            (4, 8, 3),
            {"groups": 4, "padding": 1, "padding_mode": "circular"},
            (5, 4, 6, 6),
        ),
        ("Conv3d", (4, 6, 2), {"bias": False}, (5, 4, 3, 4, 5)),
    )
]


@pytest.fixture(autouse=True)
def fixed_draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("name", "sizes", "options", "shape"), CASES)
def test_in_eval_mode_a_layer_is_torchs_own_at_the_means(name, sizes, options, shape):
    layer = getattr(torch_layers, name)(*sizes, **options).eval()
    plain = getattr(nn, name[:6])(*sizes, **options)
    plain.weight.data = layer.weight_loc.data
    if plain.bias is not None:
        plain.bias.data = layer.bias.data
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("bayesian_bias", [False, True])
@pytest.mark.parametrize(("name", "sizes", "options", "shape"), CASES)
def test_outputs_scatter_as_the_posterior_says(name, sizes, options, shape, bayesian_bias):
    options = {"bayesian_bias": bayesian_bias, **options}
    layer, x = getattr(torch_layers, name)(*sizes, **options), torch.randn(shape)
    with torch.no_grad():
        layer.weight_rho.normal_(-1.0, 0.5)
        draws = torch.stack([layer(x) for _ in range(1500)])
        bias = layer.scales("bias") ** 2 if layer.bias_loc is not None else None
        expected = layer._run(x**2, layer.scales("weight") ** 2, bias)
        torch.testing.assert_close(draws.var(dim=0), expected, rtol=0.2, atol=1e-3)
        error = expected.sqrt() / 1500**0.5
        assert ((draws.mean(dim=0) - layer.eval()(x)).abs() < 5.5 * error + 1e-6).all()


@pytest.mark.parametrize(("kind", "correlation"), list(zip(LINEAR, (1.0, 0.0), strict=True)))
def test_flipout_alone_gives_samples_noise_of_their_own(kind, correlation):
    layer, x = kind(8, 1), torch.randn(1, 8).expand(2, 8)
    with torch.no_grad():
        draws = torch.stack([layer(x)[:, 0] for _ in range(4000)])
    assert torch.corrcoef(draws.T)[0, 1].item() == pytest.approx(correlation, abs=0.06)


@pytest.mark.parametrize(("batch", "ratio"), [(1, 1.0), (16, 1.7), (64, 4.1)])
def test_flipout_gradients_are_those_of_reparameterization_with_less_variance(batch, ratio):
    x, y = torch.randn(batch, 20), torch.randn(batch, 10)
    found = []
    for layer in (LinearReparameterization(20, 10), LinearFlipout(20, 10)):
        nn.init.constant_(layer.weight_loc, 0.1)
        nn.init.constant_(layer.weight_rho, log(np.expm1(0.1)))
        gradients = []
        for _ in range(800):
            loss = (layer(x) - y).square().sum(dim=1).mean()
            gradients.append(torch.autograd.grad(loss, layer.weight_loc)[0].flatten())
        found.append(torch.stack(gradients))
    error = (sum(one.var(dim=0) for one in found) / 800).sqrt()
    assert ((found[0].mean(dim=0) - found[1].mean(dim=0)).abs() < 5 * error).all()
    assert (found[0].var(dim=0).sum() / found[1].var(dim=0).sum()).item() >= 0.6 * ratio


@pytest.mark.parametrize("prior", [Normal(), Normal(0.3, 0.7), Moped(scale=0.5)])
def test_the_divergence_of_gaussians_is_that_of_torch(prior):
    layer = LinearFlipout(30, 20, prior=prior, bayesian_bias=True)
    expected = 0.0
    for name in ("weight", "bias"):
        centre = getattr(layer, f"{name}_prior_loc", getattr(prior, "loc", None))
        posterior = torch.distributions.Normal(layer.means(name), layer.scales(name))
        other = torch.distributions.Normal(torch.as_tensor(centre), prior.scale)
        expected += torch.distributions.kl_divergence(
            posterior, other.expand(posterior.batch_shape)
        ).sum()
    torch.testing.assert_close(layer.kl_divergence(), expected, rtol=1e-5, atol=0)


def test_the_divergence_stays_finite_where_sigma_underflows():
    layer = LinearFlipout(1, 1)
    nn.init.constant_(layer.weight_rho, -200.0)
    divergence = layer.kl_divergence()
    assert divergence.item() == pytest.approx(200.0, abs=1.0)
    assert torch.autograd.grad(divergence, layer.weight_rho)[0].item() == pytest.approx(-1.0)


def test_the_divergence_from_a_mixture_is_right_in_the_mean():
    prior = ScaleMixture(0.25, 1.0, 0.1)
    layer = LinearFlipout(200, 100, prior=prior)
    draws = torch.distributions.Normal(layer.means("weight"), layer.scales("weight"))
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.25, 0.75])),
        torch.distributions.Normal(torch.zeros(2), torch.tensor([1.0, 0.1])),
    )
    w = draws.sample((50,))
    expected = (draws.log_prob(w) - mixture.log_prob(w)).mean(dim=0).sum().item()
    assert layer.kl_divergence().item() == pytest.approx(expected, rel=0.02)
    layer.eval()
    assert layer.kl_divergence().item() == pytest.approx(expected, rel=0.02)
    assert layer.kl_divergence().item() == layer.kl_divergence().item()


@pytest.mark.parametrize("kind", LINEAR)
def test_a_pruned_weight_is_zero_in_every_draw_and_costs_nothing(kind):
    layer, x = kind(4, 3, masked=True, bias=False), torch.randn(6, 4)
    whole = layer.kl_divergence()
    layer.weight_mask[1:] = 0.0
    assert all((layer(x)[:, 1:] == 0.0).all() for _ in range(5))
    assert (layer.eval()(x)[:, 1:] == 0.0).all()
    layer.weight_mask[:] = 0.0
    assert whole > 0.0
    assert layer.kl_divergence() == 0.0


def test_masks_can_be_added_to_a_layer_that_is_there():
    layer = LinearFlipout(4, 3, bayesian_bias=True)
    layer.add_masks()
    layer.weight_mask[:] = 0.0
    layer.add_masks()
    assert layer.masked
    assert (layer.weight_mask.sum().item(), layer.bias_mask.sum().item()) == (0.0, 3.0)


def test_the_vector_of_a_module_holds_its_gaussians():
    net = nn.Sequential(LinearFlipout(4, 3), nn.ReLU(), LinearFlipout(3, 2, masked=True))
    found = find_gaussians(make_adapter(net, "mse").manifest)
    assert [one.name for one in found] == ["0.weight", "2.weight"]
    assert [one.mask is not None for one in found] == [False, True]


@pytest.mark.parametrize("initializer", ["normal", "he"])
def test_layers_begin_as_documented(initializer):
    layer = LinearFlipout(300, 200, initializer=initializer)
    deviation = 0.1 if initializer == "normal" else (2 / 300) ** 0.5
    assert layer.weight_loc.std().item() == pytest.approx(deviation, rel=0.02)
    assert layer.weight_rho.mean().item() == pytest.approx(-3.0, abs=0.01)
    assert layer.weight_rho.std().item() == pytest.approx(0.1, rel=0.02)
    assert not layer.bias.any()


def small_net():
    shared = nn.Linear(12, 12)
    head = nn.Sequential(nn.Conv2d(1, 2, (1, 3), padding="same"), nn.Flatten(), shared, nn.Tanh())
    return nn.Sequential(head, shared, nn.Linear(12, 3, bias=False))


@pytest.mark.parametrize("flipout", [True, False])
def test_a_converted_module_predicts_as_before(flipout):
    net, x = small_net(), torch.randn(5, 1, 2, 3)
    before = net(x)
    assert to_bayesian(net, flipout=flipout) is net
    assert net[0][2] is net[1]
    assert isinstance(net[1], LINEAR[flipout])
    assert not torch.equal(net(x), net(x))
    torch.testing.assert_close(net.eval()(x), before)


def test_moped_begins_around_the_weights():
    layer = nn.Linear(4, 3)
    layer.weight.data[0, 0] = 0.0
    new = to_bayesian(layer, prior=Moped(delta=0.2, scale=2.0))
    expected = (0.2 * layer.weight.abs()).clamp(min=1e-6)
    torch.testing.assert_close(new.scales("weight"), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(new.weight_prior_loc, layer.weight.detach())
    assert torch.isfinite(new.kl_divergence())


def test_frozen_layers_stay_deterministic():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    to_bayesian(net)
    assert [type(one) for one in net] == [nn.Linear, LinearFlipout]


def test_what_cannot_be_converted_is_refused():
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModelError, match="weights of its own"):
        to_bayesian(tied)
    with pytest.raises(ModelError, match="must have trained Linear or Conv layers"):
        to_bayesian(nn.Sequential(nn.ReLU(), LinearFlipout(2, 2)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Normal(0.0, 0.0), "scale must be above 0"),
        (lambda: Normal(float("nan")), "loc must be finite"),
        (lambda: ScaleMixture(1.0), r"pi must be in \(0, 1\)"),
        (lambda: Moped(delta=-1.0), "delta must be above 0"),
        (lambda: LinearFlipout(2, 2, initializer="glorot"), "must be normal or he"),
        (lambda: Noise([0.1, 0.0]), "noise must be above"),
    ],
)
def test_bad_numbers_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize("trainable", [False, True])
def test_noise_appends_the_raw_scales(trainable):
    noise, x = Noise([0.5, 3.0], trainable=trainable), torch.randn(7, 2)
    means, raw = noise(x).chunk(2, dim=1)
    torch.testing.assert_close(means, x)
    scales = nn.functional.softplus(raw) + 1e-6
    torch.testing.assert_close(scales, torch.tensor([[0.5, 3.0]]).expand(7, 2))
    assert [one.shape for one in noise.parameters()] == [(2,)] * trainable


def test_a_state_dict_carries_all():
    one = LinearFlipout(4, 3, prior=Moped(), masked=True)
    other = LinearFlipout(4, 3, prior=Moped(), masked=True)
    one.kl_weight.fill_(0.25)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 4)
    torch.testing.assert_close(other.eval()(x), one.eval()(x))
    assert other.kl_divergence() == one.kl_divergence()
    assert other.kl_weight == 0.25


@pytest.mark.parametrize("kind", LINEAR)
def test_layers_can_be_mapped_over_many_weights(kind):
    layer, x = kind(4, 3), torch.randn(5, 4)
    stacked = {name: torch.stack([one.detach()] * 6) for name, one in layer.named_parameters()}
    buffers = dict(layer.named_buffers())

    def run(parameters):
        return torch.func.functional_call(layer, (parameters, buffers), (x,))

    outputs = torch.func.vmap(run, randomness="different")(stacked)
    assert outputs.shape == (6, 5, 3)
    assert not torch.equal(outputs[0], outputs[1])
