"""What every adapter must do with a variational model; run with ``adapter_suite``."""

import numpy as np
import pytest

from nnlo.bayes.gaussians import find_gaussians
from nnlo.model import make_adapter
from tests.contracts.adapter_suite import (
    BACKEND,
    N_CLASSES,
    N_INPUTS,
    adapter_of,
    batch,
    flat,
    gradient,
)

LOSS = "categorical_crossentropy"


def bayesian_network(penalty=0.0):
    if BACKEND == "native":
        from torch import nn

        from nnlo.bayes.torch_layers import LinearFlipout, LinearReparameterization

        return nn.Sequential(
            LinearFlipout(N_INPUTS, 5), nn.Tanh(), LinearReparameterization(5, N_CLASSES)
        )
    import keras

    from nnlo.bayes.keras_layers import DenseFlipout, DenseReparameterization

    return keras.Sequential(
        [
            keras.Input((N_INPUTS,)),
            DenseFlipout(5, activation="tanh"),
            keras.layers.ActivityRegularization(penalty),
            DenseReparameterization(N_CLASSES, activation="softmax"),
        ]
    )


def bayesian(optimizer="sgd", lr=0.1, **named):
    return make_adapter(bayesian_network(**named), LOSS, optimizer=optimizer, learning_rate=lr)


def divergence(adapter):
    """The KL from N(0, 1) in nats and its gradient, by numpy on the vector."""
    vector, total = flat(adapter), 0.0
    slope = np.zeros(adapter.manifest.n_trainable)
    for one in find_gaussians(adapter.manifest):
        loc, rho = (part(vector).astype(float) for part in (one.means, one.rhos))
        sigma = np.logaddexp(0.0, rho)
        total += np.sum(0.5 * (sigma**2 + loc**2 - 1.0) - np.log(sigma))
        one.means(slope)[...] = loc
        one.rhos(slope)[...] = (sigma - 1.0 / sigma) / (1.0 + np.exp(-rho))
    return total, slope


def test_the_loss_is_its_parts_in_training_and_validation():
    adapter, data = bayesian(lr=0.0), batch()
    assert adapter.is_variational
    assert adapter.metric_names == ("loss", "nll", "kl", "accuracy")
    expected = divergence(adapter)[0]
    for weight in (0.25, 1.0):
        adapter.weigh_kl(weight)
        for sums in (
            adapter.train_step(data),
            gradient(adapter, data)[0],
            adapter.test_step(data),
        ):
            n, loss, nll, kl, _ = sums
            assert kl / n == pytest.approx(expected, rel=1e-5)
            assert loss / n == pytest.approx(nll / n + weight * expected, rel=1e-5)


def test_the_weight_of_the_divergence_scales_its_part_of_the_gradient():
    adapter, data = bayesian(), batch()
    slope, found = divergence(adapter)[1], []
    for weight in (0.0, 0.5):
        adapter.weigh_kl(weight)
        adapter.seed(3)
        found.append(gradient(adapter, data)[1][: adapter.manifest.n_trainable])
    np.testing.assert_allclose(found[1] - found[0], 0.5 * slope, rtol=1e-4, atol=1e-4)


def test_the_weight_travels_with_the_state():
    adapter, data = bayesian(), batch()
    before, n = flat(adapter), adapter.manifest.n_trainable
    adapter.weigh_kl(0.125)
    np.testing.assert_array_equal(flat(adapter)[n:], [0.125, 0.125])
    np.testing.assert_array_equal(gradient(adapter, data)[1][n:], [0.125, 0.125])
    np.testing.assert_array_equal(flat(adapter)[:n], before[:n])
    adapter.set_flat(before)
    np.testing.assert_array_equal(flat(adapter)[n:], [1.0, 1.0])


def test_training_draws_weights_and_validation_takes_their_means():
    adapter, data = bayesian(), batch()
    adapter.weigh_kl(0.0)
    first, second = (gradient(adapter, data)[0] for _ in range(2))
    assert first[1] != second[1]
    local = adapter.local_state()
    np.testing.assert_array_equal(adapter.test_step(data), adapter.test_step(data))
    np.testing.assert_array_equal(adapter.predict(data[0]), adapter.predict(data[0]))
    after = adapter.local_state()
    assert all(np.array_equal(local[name], after[name]) for name in local)


def test_a_seed_repeats_the_draws():
    adapter, data = bayesian(), batch()
    found = []
    for seed in (5, 5, 6):
        adapter.seed(seed)
        found.append(gradient(adapter, data)[1])
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


@pytest.mark.skipif(BACKEND == "native", reason="torch has no regularisers in modules")
def test_another_penalty_is_in_the_loss_and_not_in_its_parts():
    plain, data = bayesian(), batch()
    other = bayesian(penalty=0.5)
    other.set_flat(flat(plain))
    expected, found = plain.test_step(data), other.test_step(data)
    np.testing.assert_allclose(found[2:], expected[2:], rtol=1e-5)
    assert found[1] > expected[1] + 0.1


def test_an_empty_batch_has_as_many_sums():
    adapter, (x, y) = bayesian(), batch()
    empty = (x[:0], y[:0])
    for sums in (adapter.test_step(empty), adapter.train_step(empty), gradient(adapter, empty)[0]):
        np.testing.assert_array_equal(sums, np.zeros(5))


@pytest.mark.skipif(BACKEND != "native", reason="only torch hands gradients over early")
def test_the_sum_of_gradients_holds_the_divergence_for_each_sample():
    adapter, data = bayesian(), batch()
    adapter.weigh_kl(0.5)
    adapter.seed(1)
    mean = gradient(adapter, data)[1]
    total = np.empty_like(mean)
    adapter.seed(1)
    adapter.gradient_sum(data, total, None, adds=False)
    n = adapter.manifest.n_trainable
    np.testing.assert_allclose(total[:n], len(data[0]) * mean[:n], rtol=1e-4, atol=1e-4)


def test_a_model_without_such_layers_has_nothing_to_weigh():
    adapter, data = adapter_of(), batch()
    before = flat(adapter)
    adapter.weigh_kl(0.5)
    assert not adapter.is_variational
    np.testing.assert_array_equal(flat(adapter), before)
    assert len(adapter.test_step(data)) == 3
