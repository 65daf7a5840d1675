"""MultiSWAG: moments of paths, draws from them, and training that takes them."""

import numpy as np
import pytest

from nnlo.bayes.method import Setting, Source
from nnlo.bayes.posterior import InFolder, vector_of
from nnlo.bayes.posterior import save as save_posterior
from nnlo.bayes.swag import Moments, MultiSWAG, SwagPosterior, sample
from nnlo.errors import CheckpointError, ConfigError
from nnlo.model.manifest import Manifest

MANIFEST = Manifest.pack([("kernel", (3, 2))], [("mean", (2,))])
T, P, K = 6, 2, 4


def paths(n=30):
    """Paths of two particles, (P, n, T): far from zero against their own spread."""
    rng = np.random.default_rng(0)
    return (5.0 + 0.01 * rng.normal(size=(P, n, T))).astype(np.float32)


def collected(trajectory, moments):
    for points in trajectory.swapaxes(0, 1):
        for row, point in enumerate(points):
            moments.take(row, point)
    return moments


def check_moments(moments, trajectory):
    """Against numpy on the whole paths, each by its own count."""
    exact = trajectory.astype(np.float64)
    np.testing.assert_array_equal(moments.count, [exact.shape[1]] * P)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, exact.var(axis=1), rtol=1e-6)


def test_moments_are_those_of_the_path():
    check_moments(collected(paths(), Moments(P, T, K)), paths())


def test_a_counter_that_the_models_share_fails_the_check():
    moments = Moments(P, T, K)
    one = np.zeros(1, np.int64)
    moments.count = np.lib.stride_tricks.as_strided(one, (P,), (0,))  # a mutation
    with pytest.raises(AssertionError):
        check_moments(collected(paths(), moments), paths())


def test_last_deviations_are_points_minus_the_mean_of_their_time():
    trajectory = paths(n=7)
    found = collected(trajectory, Moments(P, T, K)).deviations[1]
    path = trajectory[1].astype(np.float64)
    expected = [path[i] - path[: i + 1].mean(axis=0) for i in (4, 5, 6, 3)]  # a ring of K
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_models_are_independent():
    both = collected(paths(), Moments(P, T, K))
    alone = collected(paths()[1:], Moments(1, T, K))
    for name, array in alone.arrays().items():
        np.testing.assert_array_equal(both.arrays()[name][1], array[0])


def covariance_of_draws(variance, deviations, n=200_000):
    rng, draws = np.random.default_rng(1), np.empty((n, 3), np.float32)
    for out in draws:
        sample(np.full(3, 7.0), variance, deviations, 0.5, rng, out)
    np.testing.assert_allclose(draws.mean(axis=0), 7.0, atol=0.02)
    return np.cov(draws.T, bias=True)


DEVIATIONS = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0], [1.0, 1.0, 2.0]], np.float32)
VARIANCE = np.array([0.5, 1.0, 2.0])


def test_draws_have_the_covariance_of_the_formula():
    expected = 0.5 * (np.diag(VARIANCE) + DEVIATIONS.T @ DEVIATIONS / 2.0)
    error = covariance_of_draws(VARIANCE, DEVIATIONS) - expected
    assert np.abs(error).max() < 0.01 * np.abs(expected).max()


def test_rank_0_draws_from_the_diagonal_alone():
    found = covariance_of_draws(VARIANCE, DEVIATIONS[:0], n=50_000)
    np.testing.assert_allclose(found, 0.5 * np.diag(VARIANCE), atol=0.02)


def test_path_of_one_point_is_drawn_as_it_is():
    moments = collected(paths(n=1), Moments(P, T, K))
    out = np.empty(T, np.float32)
    rng = np.random.default_rng(0)
    sample(moments.mean[0], moments.variance[0], moments.deviations[0, :1], 0.5, rng, out)
    np.testing.assert_allclose(out, paths(n=1)[0, 0])


def setting(n_epochs=8, steps=5):
    return Setting(MANIFEST, range(P), P, 100, n_epochs, steps, seed=3)


def trained(method, n_epochs=8, steps=5, first=0, stepper=None, weights=None):
    """(stepper, weights, weights after each step, state after each epoch)."""
    stepper = stepper or method.start(setting(n_epochs, steps))
    weights = np.ones((P, T), np.float32) if weights is None else weights
    steps_seen, states = [], []
    for epoch in range(first, n_epochs):
        for step in range(steps):
            rng = np.random.default_rng([epoch, step])
            stepper.step(weights, rng.normal(size=(P, T)).astype(np.float32))
            steps_seen.append(weights.copy())
        states.append(np.full((P, MANIFEST.n_state), float(epoch), np.float32))
        stepper.end_epoch(epoch, weights, states[-1])
    return stepper, weights, np.array(steps_seen), np.array(states)


def test_one_point_an_epoch_after_the_start():
    stepper, _, steps, states = trained(MultiSWAG(swa_start=0.5))
    check_moments(stepper.moments, steps[[24, 29, 34, 39]].swapaxes(0, 1))
    np.testing.assert_allclose(stepper.kept()["state_mean"], states[4:].mean(axis=0))


def test_one_point_every_3_steps_across_epochs():
    stepper, _, steps, _ = trained(MultiSWAG(swa_start=0.5, every=3))
    check_moments(stepper.moments, steps[[22, 25, 28, 31, 34, 37]].swapaxes(0, 1))


def test_training_is_that_of_an_ensemble_until_the_start():
    _, _, plain, _ = trained(MultiSWAG(swa_start=0.75))
    _, _, swa, _ = trained(MultiSWAG(swa_start=0.75, swa_lr=0.1))
    np.testing.assert_array_equal(plain[:30], swa[:30])
    assert np.abs(swa[30] - swa[29]).max() > 20.0 * np.abs(plain[30] - plain[29]).max()


@pytest.mark.parametrize("every", [None, 3])
@pytest.mark.parametrize("epochs", [3, 6])
def test_a_restored_run_goes_on_exactly(epochs, every):
    method = MultiSWAG(swa_start=0.5, swa_lr=0.01, every=every)
    whole, expected, _, _ = trained(method)
    old, weights = method.start(setting()), np.ones((P, T), np.float32)
    trained(method, n_epochs=epochs, stepper=old, weights=weights)
    new = method.start(setting())
    new.load_arrays({name: array.copy() for name, array in old.arrays().items()})
    new.load_scalars(old.scalars())
    trained(method, first=epochs, stepper=new, weights=weights)
    np.testing.assert_array_equal(weights, expected)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(new.arrays()[name], array)


def test_collecting_that_has_begun_goes_on_in_a_longer_run():
    method = MultiSWAG(swa_start=0.5)
    old, _, _, _ = trained(method, n_epochs=8)
    new = method.start(setting(n_epochs=20))
    new.load_arrays(old.arrays())
    new.load_scalars(old.scalars())
    assert new.is_collecting


def test_a_checkpoint_of_another_rank_is_refused():
    old, _, _, _ = trained(MultiSWAG(rank=5))
    with pytest.raises(CheckpointError, match="restore with the same rank"):
        MultiSWAG(rank=6).start(setting()).load_arrays(old.arrays())


@pytest.mark.parametrize(
    ("numbers", "epochs"), [({}, 4), ({"every": 11}, 8), ({"swa_start": 0.99}, 50)]
)
def test_too_few_collections_are_refused_at_the_start(numbers, epochs):
    with pytest.raises(ConfigError, match="must collect 2 times or more"):
        MultiSWAG(**numbers).start(setting(n_epochs=epochs))


@pytest.mark.parametrize(
    "numbers",
    [{"swa_start": 1.0}, {"swa_lr": -1.0}, {"every": 0}, {"rank": 1}, {"scale": 0.0}],
)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(ConfigError):
        MultiSWAG(**numbers)


def source(n_epochs=8):
    method = MultiSWAG(swa_start=0.5, rank=3)
    stepper, weights, _, states = trained(method, n_epochs=n_epochs)
    kept = stepper.kept()
    return method, Source(MANIFEST, range(P), P, 3, weights, states[-1], kept)


def test_draws_are_functions_of_their_number_and_leave_everything_as_it_was():
    method, particles = source()
    before = {name: array.copy() for name, array in particles.kept.items()}
    posterior = method.posterior(particles)
    first = [vector_of(posterior, index, MANIFEST) for index in range(4)]
    again = [vector_of(posterior, index, MANIFEST) for index in (3, 2, 1, 0)]
    np.testing.assert_array_equal(first, again[::-1])
    assert len({one.tobytes() for one in first}) == 4
    for name, array in before.items():
        np.testing.assert_array_equal(particles.kept[name], array)


def test_draws_come_from_the_particles_in_turn():
    method, particles = source()
    particles.kept["mean"][1] += 100.0
    draws = [vector_of(method.posterior(particles), index, MANIFEST) for index in range(4)]
    assert [draw[0] > 50.0 for draw in draws] == [False, True, False, True]
    np.testing.assert_array_equal(draws[0][T:], particles.kept["state_mean"][0])


def test_a_posterior_read_from_its_folder_draws_the_same(tmp_path):
    method, particles = source()
    posterior = method.posterior(particles)
    save_posterior(None, tmp_path / "posterior", particles, {"kind": "multiswag"})
    loaded = SwagPosterior(InFolder(tmp_path / "posterior", MANIFEST), **method.numbers())
    for index in loaded.mine(5):
        expected = vector_of(posterior, index, MANIFEST)
        np.testing.assert_array_equal(vector_of(loaded, index, MANIFEST), expected)


def test_a_posterior_of_a_training_that_ended_early_is_refused():
    method, particles = source()
    particles.kept["count"][:] = 1
    with pytest.raises(CheckpointError, match="the training ended early"):
        vector_of(method.posterior(particles), 0, MANIFEST)
