"""Pruned torch modules: in training and inference, in files, through training."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nnlo.bayes import torch_layers  # noqa: E402
from nnlo.bayes.gaussians import find_gaussians  # noqa: E402
from nnlo.bayes.prune import masked, prune, pruned_share  # noqa: E402
from nnlo.bayes.torch_masked import add_masks, flat, load  # noqa: E402
from nnlo.model.torch_adapter import TorchAdapter  # noqa: E402

KINDS = ("Flipout", "Reparameterization")


def network(kind="Flipout", **options):
    torch.manual_seed(3)
    linear = getattr(torch_layers, f"Linear{kind}")
    convolution = getattr(torch_layers, f"Conv1d{kind}")
    return torch.nn.Sequential(
        convolution(2, 3, 3, bayesian_bias=True, **options),
        torch.nn.Flatten(),
        linear(12, 8, **options),
        torch.nn.Linear(8, 2),
    )


def batch(n=16):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 2, 6)).astype(np.float32)
    return x, rng.normal(size=(n, 2)).astype(np.float32)


def pruned_parts(vector, gaussians):
    """Return loc and rho of the pruned weights."""
    where = [one.masks(vector) == 0.0 for one in gaussians]
    parts = [
        (one.means(vector)[at], one.rhos(vector)[at])
        for one, at in zip(gaussians, where, strict=True)
    ]
    return np.concatenate([part for pair in parts for part in pair])


@pytest.mark.parametrize("kind", KINDS)
def test_pruning_nothing_changes_nothing(kind):
    model, x = network(kind), torch.from_numpy(batch()[0])
    same = prune(model, fraction=0.0)
    assert torch.equal(same.eval()(x), model.eval()(x))
    outputs = []
    for one in (model, same):
        torch.manual_seed(0)
        outputs.append(one.train()(x))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_without_any_weight_left_gives_its_biases_only(kind):
    model = prune(network(kind), fraction=1.0).train()
    noise = model(torch.from_numpy(batch()[0]))
    assert (noise == noise[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_whose_weights_are_pruned_does_not_vary(kind):
    layer = getattr(torch_layers, f"Linear{kind}")(4, 2)
    layer.weight_loc.data[0] = 1e-9
    layer = prune(layer, fraction=0.5).train()
    drawn = torch.stack([layer(torch.ones(3, 4)) for _ in range(20)])
    assert (drawn[..., 0] == layer.bias[0]).all()
    assert (drawn[..., 1].std(0) > 0.0).all()


def test_a_mask_on_the_mean_alone_is_found_out(monkeypatch):
    def means_only(self, name, values):
        is_mean = values is self.get_parameter(f"{name}_loc")
        return values * self.get_buffer(f"{name}_mask") if is_mean else values

    monkeypatch.setattr(torch_layers.Variational, "_masked", means_only)
    with pytest.raises(AssertionError):
        test_an_output_whose_weights_are_pruned_does_not_vary("Reparameterization")


def test_the_divergence_counts_what_is_left():
    model = network()
    whole = sum(one.kl_divergence() for one in (model[0], model[2]))
    half, nothing = prune(model, fraction=0.5), prune(model, fraction=1.0)
    assert 0.0 < sum(one.kl_divergence() for one in (half[0], half[2])) < whole
    assert sum(one.kl_divergence() for one in (nothing[0], nothing[2])) == 0.0


@pytest.mark.parametrize("optimizer", ["adamw", {"name": "sgd", "momentum": 0.9}])
@pytest.mark.parametrize("kind", KINDS)
def test_training_leaves_the_zeros(kind, optimizer):
    adapter = TorchAdapter(
        prune(network(kind), fraction=0.6), "mse", optimizer=optimizer, learning_rate=0.01
    )
    gaussians, vector = find_gaussians(adapter.manifest), np.empty(adapter.manifest.size, "f4")
    adapter.get_flat(vector)
    before = vector.copy()
    for _ in range(10):
        adapter.train_step(batch())
    adapter.get_flat(vector)
    assert (pruned_parts(vector, gaussians) == 0.0).all()
    assert pruned_share(gaussians, vector) == pytest.approx(0.6, abs=0.01)
    assert (vector != before)[: adapter.manifest.n_trainable].mean() > 0.3


def test_pruned_weights_get_no_gradient():
    adapter = TorchAdapter(prune(network(), fraction=0.6), "mse")
    gaussians, vector = find_gaussians(adapter.manifest), np.empty(adapter.manifest.size, "f4")
    adapter.get_flat(vector)
    gradient = np.empty_like(vector)
    adapter.gradient(batch(), gradient)
    gradient[adapter.manifest.n_trainable :] = vector[adapter.manifest.n_trainable :]
    assert (pruned_parts(gradient, gaussians) == 0.0).all()


def test_files_keep_the_masks(tmp_path):
    adapter = TorchAdapter(prune(network(), fraction=0.6), "mse")
    adapter.save(tmp_path / "model.pt")
    other = add_masks(network())
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert np.array_equal(flat(other)[1], flat(adapter.model)[1])


def test_more_can_be_pruned_later():
    model = prune(network(), fraction=0.5)
    first, second = flat(model)[1], flat(prune(model, fraction=0.7))[1]
    gaussians = find_gaussians(flat(model)[0])
    assert [pruned_share(gaussians, one) for one in (first, second)] == pytest.approx(
        [0.5, 0.7], abs=0.01
    )
    for one in gaussians:
        assert (one.masks(second) <= one.masks(first)).all()


def test_the_model_stays_as_it_was():
    model = network()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    prune(model, fraction=0.5)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_masks_without_zeros_can_be_written_to():
    model = masked(network())
    _, vector = flat(model)
    vector[:] = 0.0
    load(model, vector)
    assert not model(torch.from_numpy(batch()[0])).any()
