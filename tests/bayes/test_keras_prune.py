"""Pruned Keras models: in training and inference, in files, through training."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from nnlo.bayes import keras_gaussian, keras_layers
from nnlo.bayes.gaussians import find_gaussians
from nnlo.bayes.keras_masked import flat
from nnlo.bayes.prune import masked, prune, pruned_share
from nnlo.errors import ModelError
from nnlo.model import load_builder
from nnlo.model.keras_adapter import KerasAdapter
from tests.bayes.test_torch_prune import pruned_parts

# Keras' variables have an __array__ of before NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KINDS = ("Flipout", "Reparameterization")


def network(kind="Flipout", **options):
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 2)),
            getattr(keras_layers, f"Conv1D{kind}")(3, 3, bayesian_bias=True, **options),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            getattr(keras_layers, f"Dense{kind}")(8, activation="relu", **options),
            keras.layers.Dense(2),
        ]
    )


def batch(n=16):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 6, 2)).astype(np.float32)
    return x, rng.normal(size=(n, 2)).astype(np.float32)


def outputs(model, x=None, *, training):
    x = batch()[0] if x is None else x
    return keras.ops.convert_to_numpy(model(x, training=training))


def divergence(model):
    layers = [one for one in model.layers if hasattr(one, "kl_divergence")]
    return sum(float(keras.ops.convert_to_numpy(one.kl_divergence())) for one in layers)


@pytest.mark.parametrize("kind", KINDS)
def test_pruning_nothing_changes_nothing(kind):
    model = network(kind, seed=1)
    same = prune(model, fraction=0.0)
    for training in (False, True):
        assert (outputs(same, training=training) == outputs(model, training=training)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_whose_weights_are_pruned_does_not_vary(kind):
    model = keras.Sequential([keras.Input((4,)), getattr(keras_layers, f"Dense{kind}")(2)])
    loc = model.layers[0].trainable_variables[0]
    loc.assign(keras.ops.where([True, False], 1e-9, loc))
    model = prune(model, fraction=0.5)
    drawn = np.stack([outputs(model, np.ones((3, 4), "f4"), training=True) for _ in range(20)])
    assert (drawn[..., 0] == 0.0).all()
    assert (drawn[..., 1].std(axis=0) > 0.0).all()


def test_a_mask_on_the_mean_alone_is_found_out(monkeypatch):
    def unmasked(self, sigma, seed):
        return sigma * keras.random.normal(self.loc.shape, seed=seed)

    monkeypatch.setattr(keras_gaussian.GaussianTensor, "deviation", unmasked)
    with pytest.raises(AssertionError):
        test_an_output_whose_weights_are_pruned_does_not_vary("Reparameterization")


def test_the_divergence_counts_what_is_left():
    model = network()
    half, nothing = prune(model, fraction=0.5), prune(model, fraction=1.0)
    assert 0.0 < divergence(half) < divergence(masked(model)) == divergence(model)
    assert divergence(nothing) == 0.0


@pytest.mark.parametrize("optimizer", ["adamw", {"name": "sgd", "momentum": 0.9}])
@pytest.mark.parametrize("kind", KINDS)
def test_training_leaves_the_zeros(kind, optimizer):
    adapter = KerasAdapter(
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
    adapter = KerasAdapter(prune(network(), fraction=0.6), "mse")
    gaussians, vector = find_gaussians(adapter.manifest), np.empty(adapter.manifest.size, "f4")
    adapter.get_flat(vector)
    gradient = np.empty_like(vector)
    adapter.gradient(batch(), gradient)
    gradient[adapter.manifest.n_trainable :] = vector[adapter.manifest.n_trainable :]
    assert (pruned_parts(gradient, gaussians) == 0.0).all()


def test_files_keep_the_masks_and_a_builder_reads_them(tmp_path):
    adapter = KerasAdapter(prune(network(), fraction=0.6), "mse")
    adapter.save(tmp_path / "model.keras")
    model = load_builder(tmp_path / "model.keras").build_model()
    assert np.array_equal(flat(model)[1], flat(adapter.model)[1])


def test_a_process_that_knows_no_layers_of_ours_reads_the_file(tmp_path):
    prune(network(), fraction=0.6).save(tmp_path / "model.keras")
    (tmp_path / "model.json").write_text(network().to_json())
    code = "import sys; from nnlo.model import load_builder as load\n"
    code += "for file in sys.argv[1:]: print(load(file).build_model().layers[0].name)"
    files = [str(tmp_path / name) for name in ("model.json", "model.keras")]
    for file in files:
        ended = subprocess.run([sys.executable, "-c", code, file], capture_output=True, check=True)
        assert ended.stdout.startswith(b"conv1d_flipout")


def test_more_can_be_pruned_later():
    model = prune(network(), fraction=0.5)
    first, second = flat(model)[1], flat(prune(model, fraction=0.7))[1]
    gaussians = find_gaussians(flat(model)[0])
    for one in gaussians:
        assert (one.masks(second) <= one.masks(first)).all()
    assert pruned_share(gaussians, second) == pytest.approx(0.7, abs=0.01)


def test_layers_inside_others_are_masked_too():
    inner = keras.Sequential([keras.Input((4,)), keras_layers.DenseFlipout(3)])
    x = keras.Input((5, 4))
    model = keras.Model(x, keras.layers.TimeDistributed(inner)(x))
    (one,) = find_gaussians(flat(prune(model, fraction=0.5))[0])
    assert one.mask is not None


def test_the_model_stays_as_it_was():
    model = network()
    before = flat(model)[1].copy()
    prune(model, fraction=0.5)
    assert np.array_equal(flat(model)[1], before)


def test_a_model_that_keras_cannot_copy_is_refused():
    class Own(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def call(self, x):
            return self.layer(x)

    model = Own(keras_layers.DenseFlipout(2))
    model(np.ones((1, 3), "f4"))
    with pytest.raises(ModelError, match="must be one that Keras can copy, got 'own'"):
        prune(model, fraction=0.5)
