import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from nnlo.errors import ModelError  # noqa: E402
from nnlo.model.torch_adapter import TorchAdapter  # noqa: E402

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
Y = X[:, :2].copy()


def flat(adapter):
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    return vector


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4, bias=False)
        self.two = nn.Linear(4, 4, bias=False)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))[:, :2]


def test_shared_parameters_appear_once_and_stay_shared():
    adapter = TorchAdapter(Tied(), "mse")
    assert adapter.manifest.size == 16
    adapter.set_flat(np.full(16, 0.5, np.float32))
    assert adapter.model.two.weight is adapter.model.one.weight
    assert (adapter.model.two.weight == 0.5).all()


class TwoByTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, one, other):
        return self.layer(one), self.layer(other)


def test_several_inputs_and_outputs():
    adapter = TorchAdapter(TwoByTwo(), ["mse", "mae"], ["mse"])
    sums = adapter.gradient(([X, X + 1], [Y, Y]), flat(adapter))
    assert adapter.metric_names == ("loss", "mean_squared_error_1", "mean_squared_error_2")
    first, second = adapter.predict([X, X + 1])
    expected = ((first - Y) ** 2).mean(axis=1) + np.abs(second - Y).mean(axis=1)
    assert sums[1] == pytest.approx(expected.sum(), rel=1e-5)


def test_one_loss_for_two_outputs_is_refused():
    adapter = TorchAdapter(TwoByTwo(), "mse")
    with pytest.raises(ModelError, match="as many as the losses, 1, got 2 outputs"):
        adapter.test_step(([X, X], [Y, Y]))


class Averaging(nn.Module):
    """Puts a new tensor in place of its buffer, as some layers do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("hidden", torch.zeros(3), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.mean = 0.5 * self.mean + x.detach().mean(dim=0)
            self.steps += 1
        return self.layer(x - self.mean)


def test_buffers_that_the_module_replaces_are_followed():
    adapter = TorchAdapter(Averaging(), "mse")
    start, out = flat(adapter), flat(adapter)
    adapter.gradient((X, Y), out)
    np.testing.assert_allclose(out[10:], X.mean(axis=0), atol=1e-6)
    adapter.set_flat(start)
    assert (adapter.model.mean == 0).all()


def test_integer_buffers_are_local_and_hidden_ones_nowhere():
    adapter = TorchAdapter(Averaging(), "mse")
    assert adapter.manifest.n_state == 4
    adapter.gradient((X, Y), flat(adapter))
    state = adapter.local_state()
    assert state["local/steps"] == 1
    adapter.gradient((X, Y), flat(adapter))
    adapter.load_local_state(state)
    assert adapter.model.steps == 1


def test_lazy_module_needs_an_example():
    with pytest.raises(ModelError, match=r"got the lazy 0\.weight"):
        TorchAdapter(nn.Sequential(nn.LazyLinear(2)), "mse")
    adapter = TorchAdapter(nn.Sequential(nn.LazyLinear(2)), "mse", example=(X, Y))
    assert adapter.manifest.size == 10


def test_unused_parameters_get_a_zero_gradient():
    model = nn.Sequential(nn.Linear(4, 2))
    model.spare = nn.Parameter(torch.ones(3))
    model.forward = lambda x: model[0](x)
    adapter = TorchAdapter(model, "mse")
    out = np.ones(13, np.float32)
    adapter.gradient((X, Y), out)
    assert (out[:3] == 0).all() or (out[-3:] == 0).all()


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad", "adadelta", "nadam", "adamw"])
def test_local_optimizer_equals_torch_on_every_tensor(name):
    from nnlo.model.torch_network import OPTIMIZERS

    torch.manual_seed(0)
    plain, ours = nn.Linear(4, 2), nn.Linear(4, 2)
    ours.load_state_dict(plain.state_dict())
    optimizer = OPTIMIZERS[name](plain.parameters(), lr=0.01)
    adapter = TorchAdapter(ours, "mse", optimizer=name, learning_rate=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (plain(torch.from_numpy(X)) - torch.from_numpy(Y)).square().mean().backward()
        optimizer.step()
        adapter.train_step((X, Y))
    torch.testing.assert_close(ours.weight, plain.weight)


def test_clipping_bounds_the_step():
    adapter = TorchAdapter(nn.Linear(4, 2), "mse", optimizer="sgd", learning_rate=1, clip_norm=0.5)
    before = flat(adapter)
    adapter.train_step((X, 100 * Y))
    assert np.linalg.norm(flat(adapter) - before) == pytest.approx(0.5, rel=1e-4)


def test_saved_file_is_no_larger_than_the_weights(tmp_path):
    adapter = TorchAdapter(nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100)), "mse")
    adapter.save(tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 4 * adapter.manifest.size + 10_000


def test_global_random_state_is_left_alone():
    adapter = TorchAdapter(nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)), "mse")
    before = torch.get_rng_state()
    adapter.seed(4)
    adapter.gradient((X, Y), flat(adapter))
    assert torch.equal(torch.get_rng_state(), before)
