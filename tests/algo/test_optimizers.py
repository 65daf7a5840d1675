"""The master's optimizers against Keras, torch.optim and their own promises."""

import pickle
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from nnlo.algo import kernels
from nnlo.algo.optimizers import OPTIMIZERS, Adam, AdamW, Nadam, RMSprop, make_optimizer
from nnlo.errors import CheckpointError, ConfigError, ModelError

N_WEIGHTS, N_STEPS = 1000, 100

# optimizer, variant of it: numbers that differ from the defaults
VARIANTS = {
    "sgd": {},
    "sgd momentum": {"momentum": 0.9},
    "sgd nesterov": {"momentum": 0.9, "nesterov": True},
    "adam": {},
    "rmsprop": {},
    "rmsprop momentum": {"momentum": 0.9},
    "rmsprop centered": {"momentum": 0.5, "centered": True},
    "adadelta": {"learning_rate": 1.0},
    "nadam": {},
    "adagrad": {"learning_rate": 0.1},
    # 1 - rate * decay is exact in float32: torch multiplies the weights by its rounded value
    "adamw": {"learning_rate": 2.0**-10, "weight_decay": 2.0**-4},
}
KERAS_NAMES = {
    "sgd": "SGD", "adam": "Adam", "rmsprop": "RMSprop", "adadelta": "Adadelta",
    "nadam": "Nadam", "adagrad": "Adagrad", "adamw": "AdamW",
}  # fmt: skip
TORCH_NAMES = KERAS_NAMES | {"nadam": "NAdam"}


def make(variant):
    return make_optimizer(variant.split()[0], **VARIANTS[variant])


def run(n_steps=N_STEPS, n_weights=N_WEIGHTS):
    """Weights and gradients; these from 1e-5 to 1, so that epsilon shows where it is added."""
    random = np.random.default_rng(7)
    weights = random.standard_normal(n_weights, dtype=np.float32)
    sizes = 10.0 ** random.uniform(-5.0, 0.0, n_weights)
    return weights, (random.standard_normal((n_steps, n_weights)) * sizes).astype(np.float32)


def train(rule, weights, gradients, state=None, **options):
    """The weights after all gradients."""
    weights, state = weights.copy(), state or rule.init(weights.size)
    for gradient in gradients:
        rule.update(state, weights, gradient, weights, **options)
    return weights


# Weights below 4 round by at most 2**-23 per step and side, at random: 10 * 2**-23 = 1.2e-6 in
# 100 steps. Keras takes 1 - 0.999**t in float32, 4.7e-5 off at t = 1, half of that after the
# root, over the 0.1 that 100 steps of 1e-3 can go: 2.4e-6.
TOLERANCE = 4e-6


def test_every_optimizer_has_a_reference():
    names = {variant.split()[0] for variant in VARIANTS}
    assert names == set(OPTIMIZERS) == set(KERAS_NAMES) == set(TORCH_NAMES)


# of numpy, at the way that Keras' TensorFlow and torch backends hand over their arrays
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_hundred_steps_equal_keras(variant):
    keras = pytest.importorskip("keras")
    weights, gradients = run()
    reference = getattr(keras.optimizers, KERAS_NAMES[variant.split()[0]])(**VARIANTS[variant])
    theirs = keras.Variable(weights)
    for gradient in gradients:
        reference.apply([keras.ops.convert_to_tensor(gradient)], [theirs])
    ours = train(make(variant), weights, gradients)
    expected = keras.ops.convert_to_numpy(theirs.value)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)
    assert np.abs(ours - weights).max() > 1000 * TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_hundred_steps_equal_torch_where_epsilon_is_negligible(variant):
    torch = pytest.importorskip("torch")
    rule = make(variant)
    if hasattr(rule, "epsilon") and "adadelta" not in variant:
        rule = make_optimizer(rule, epsilon=1e-30)  # torch adds it elsewhere, but for Adadelta
    weights, gradients = run()
    theirs = torch.tensor(weights, requires_grad=True)
    reference = getattr(torch.optim, TORCH_NAMES[variant.split()[0]])([theirs], **in_torch(rule))
    for gradient in gradients:
        theirs.grad = torch.from_numpy(gradient)
        reference.step()
    ours = train(rule, weights, gradients)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=TOLERANCE)


def in_torch(rule):
    """The numbers of ``rule`` under torch's names."""
    names = {"learning_rate": "lr", "epsilon": "eps"}
    if isinstance(rule, RMSprop):
        names["rho"] = "alpha"
    numbers = {names.get(name, name): value for name, value in asdict(rule).items()}
    if "beta_1" in numbers:
        numbers["betas"] = numbers.pop("beta_1"), numbers.pop("beta_2")
    if isinstance(rule, Nadam):
        numbers["momentum_decay"] = 1.0  # of Dozat's schedule; torch's default slows it down
    return numbers


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_out_equals_in_place_bit_for_bit_and_keeps_its_inputs(variant, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 300)
    rule = make(variant)
    weights, gradients = run(n_steps=5)
    before, state, here = weights.copy(), rule.init(weights.size), weights.copy()
    for gradient in gradients:
        kept, there = (here.copy(), gradient.copy()), np.empty_like(here)
        rule.update(state, here, gradient, there)
        np.testing.assert_array_equal((here, gradient), kept)
        here = there
    np.testing.assert_array_equal(here, train(rule, before, gradients))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("chunk", [1, 7, 16, 333])
def test_chunks_of_any_size_equal_the_whole_bit_for_bit(variant, chunk):
    rule = make(variant)
    weights, gradients = run(n_steps=3)
    whole = train(rule, weights, gradients)
    parts = [slice(start, start + chunk) for start in range(0, weights.size, chunk)]
    chunked = [train(rule, weights[part], gradients[:, part]) for part in parts]
    np.testing.assert_array_equal(np.concatenate(chunked), whole)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scale_multiplies_the_gradient(variant):
    rule = make(variant)
    weights, gradients = run(n_steps=5)
    scaled = train(rule, weights, gradients, scale=0.3)
    expected = train(rule, weights, gradients * np.float32(0.3))
    np.testing.assert_array_equal(scaled, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_given_learning_rate_takes_the_place_of_the_own(variant):
    rule = make(variant)
    weights, gradients = run(n_steps=5)
    given = train(rule, weights, gradients, learning_rate=0.125)
    expected = train(make_optimizer(rule, learning_rate=0.125), weights, gradients)
    np.testing.assert_array_equal(given, expected)
    np.testing.assert_array_equal(train(rule, weights, gradients, learning_rate=0.0), weights)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_restored_state_goes_on_exactly(variant):
    rule = make(variant)
    weights, gradients = run(n_steps=20)
    state = rule.init(weights.size)
    middle = train(rule, weights, gradients[:7], state)
    saved, restored = state.arrays(), rule.init(weights.size)
    end = train(rule, middle, gradients[7:], state)
    restored.load(saved)
    np.testing.assert_array_equal(train(rule, middle, gradients[7:], restored), end)
    assert restored.count == state.count == 20


def test_the_first_adam_step_is_the_learning_rate_against_the_sign():
    moved = train(Adam(learning_rate=0.25), np.float32([1, 1, 1]), np.float32([[3, -0.5, 0]]))
    np.testing.assert_allclose(moved, [0.75, 1.25, 1.0], rtol=1e-5)  # epsilon takes 6e-6


def test_adamw_without_gradient_shrinks_by_rate_times_decay():
    rule = AdamW(learning_rate=0.5, weight_decay=0.25)
    shrunk = train(rule, np.float32([8, -16]), np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(shrunk, [8 * 0.875**2, -16 * 0.875**2])


def test_centered_rmsprop_stays_finite_on_a_constant_large_gradient():
    gradients = np.full((500, 3), [100.0, 777.7, 12345.6], np.float32)
    weights = train(RMSprop(centered=True), np.zeros(3, np.float32), gradients)
    assert np.isfinite(weights).all()


def test_a_state_of_another_optimizer_or_size_is_refused():
    state = Adam().init(3)
    for other in (Adam().init(4), make_optimizer("adagrad").init(3)):
        with pytest.raises(CheckpointError, match="optimizer state must have arrays"):
            state.load(other.arrays())


@pytest.mark.parametrize(
    "wrong", [np.ones(4, np.float32), np.ones(3), np.ones(6, np.float32)[::2], np.float32([[1]])]
)
def test_a_vector_that_does_not_fit_is_refused_and_nothing_moves(wrong):
    weights = np.ones(3, np.float32)
    for rule in (Adam(), Nadam()):
        state = rule.init(3)
        with pytest.raises(ModelError, match="contiguous float32 of shape"):
            rule.update(state, weights, wrong, weights)
        assert (state.count, state.momentum_product) == (0, 1.0)
        np.testing.assert_array_equal(weights, 1.0)


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("lamb", {}, "optimizer must be one of sgd, adam, .*, got 'lamb'"),
        ("adam", {"rho": 0.9}, "got rho; it has learning_rate, beta_1, beta_2, epsilon"),
        ("adam", {"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ("adam", {"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ("adam", {"learning_rate": "1e-3"}, "learning_rate must be a number, got '1e-3'"),
        ("adam", {"beta_2": 1.0}, r"beta_2 must be in \[0, 1\), got 1.0"),
        ("adamw", {"weight_decay": -1}, "weight_decay must be at least 0, got -1"),
        ("sgd", {"nesterov": 1}, "nesterov must be true or false, got 1"),
        ("sgd", {"nesterov": True}, "momentum must be above 0 with nesterov"),
        ({"learning_rate": 1.0}, {}, "optimizer must be one of"),
    ],
)
def test_bad_numbers_and_names_say_what_must_hold(name, numbers, message):
    with pytest.raises(ConfigError, match=message):
        make_optimizer(name, **numbers)


def test_names_mappings_and_instances_make_the_same_optimizer():
    expected = Adam(learning_rate=0.5, beta_1=0.5)
    assert make_optimizer("Adam", learning_rate=0.5, beta_1=0.5) == expected
    assert make_optimizer({"name": "adam", "learning_rate": 0.5}, beta_1=0.5) == expected
    assert make_optimizer(Adam(beta_1=0.5), learning_rate=0.5) == expected
    assert pickle.loads(pickle.dumps(expected)) == expected


def test_importing_the_algorithms_does_not_import_numba():
    code = "import sys, nnlo.algo.optimizers; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
