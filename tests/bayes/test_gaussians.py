"""The Gaussians of a flat vector: found by name, drawn, rated."""

import numpy as np
import pytest

from nnlo.bayes.gaussians import Gaussian, draw, find_gaussians, rho_of, softplus
from nnlo.errors import ModelError
from nnlo.model.manifest import Manifest

Variables = list[tuple[str, tuple[int, ...]]]

LAYER: Variables = [("flip/kernel_loc", (2, 3)), ("flip/kernel_rho", (2, 3)), ("flip/bias", (3,))]
MASKED: Variables = [("flip/kl_weight", ()), ("flip/kernel_mask", (2, 3))]
PLAIN: Variables = [("flip/kl_weight", ())]


def pruned(gaussian: Gaussian, vector: np.ndarray) -> np.ndarray:
    mask = gaussian.masks(vector)
    assert mask is not None
    return mask


def filled(manifest: Manifest, loc: float, sigma: float) -> np.ndarray:
    vector = np.arange(manifest.size, dtype=np.float32)
    for one in find_gaussians(manifest):
        one.means(vector)[:] = loc
        one.rhos(vector)[:] = rho_of(sigma)
    return vector


def test_a_pair_that_follows_each_other_is_a_gaussian() -> None:
    (one,) = find_gaussians(Manifest.pack(LAYER, PLAIN))
    assert one.name == "flip/kernel"
    assert (one.loc.offset, one.rho.offset, one.mask) == (0, 6, None)


@pytest.mark.parametrize(
    "variables",
    [
        [("a/kernel", (2,)), ("a/bias", (2,))],
        [("a/kernel_loc", (2,)), ("b/kernel_rho", (2,))],
        [("a/kernel_loc", (2,)), ("a/kernel_rho", (3,))],
        [("a/kernel_rho", (2,)), ("a/kernel_loc", (2,))],
        [("a/kernel_loc", (2,))],
    ],
)
def test_other_variables_are_none(variables: Variables) -> None:
    assert find_gaussians(Manifest.pack(variables, [])) == []


@pytest.mark.parametrize("masked", [(0,), (1,), (2,), (0, 2), (0, 1, 2), ()])
def test_a_mask_goes_to_its_own_layer_of_equally_named_ones(masked: tuple[int, ...]) -> None:
    state = [one for i in range(3) for one in (MASKED if i in masked else PLAIN)]
    found = find_gaussians(Manifest.pack(LAYER * 3, state))
    assert [i for i, one in enumerate(found) if one.mask is not None] == list(masked)


def test_a_bayesian_bias_has_a_mask_of_its_own() -> None:
    bias: Variables = [("flip/bias_loc", (3,)), ("flip/bias_rho", (3,))]
    state = [*PLAIN, *MASKED, ("flip/bias_mask", (3,))]
    found = find_gaussians(Manifest.pack(LAYER[:2] + LAYER[:2] + bias, state))
    names = [one.mask and one.mask.name for one in found]
    assert names == [None, "flip/kernel_mask", "flip/bias_mask"]


def test_torch_names_and_networks_keep_layers_apart() -> None:
    tensors = [("0.weight_loc", (2,)), ("0.weight_rho", (2,))]
    masked = [("0.kl_weight", ()), ("0.weight_mask", (2,))]
    manifest = Manifest.pack_networks({"g": (tensors, masked[:1]), "d": (tensors, masked)})
    first, second = find_gaussians(manifest)
    assert first.mask is None
    assert second.mask is not None
    assert second.mask.network == "d"


def test_a_mask_without_its_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="must belong to Bayesian weights"):
        find_gaussians(Manifest.pack(LAYER, [*PLAIN, *MASKED]))
    with pytest.raises(ModelError, match="must have the shape of its weights"):
        find_gaussians(Manifest.pack(LAYER, [*PLAIN, ("flip/kernel_mask", (2,))]))


def test_a_state_named_like_a_mask_of_another_layer_disturbs_nothing() -> None:
    (one,) = find_gaussians(Manifest.pack(LAYER, [*PLAIN, ("attention/causal_mask", (2,))]))
    assert one.mask is None


def test_a_draw_moves_only_the_means_by_sigma_times_noise() -> None:
    manifest = Manifest.pack(LAYER, PLAIN)
    gaussians, vector = find_gaussians(manifest), filled(manifest, 1.0, 0.5)
    out = np.empty_like(vector)
    draw(gaussians, vector, np.random.default_rng(3), out)
    noise = np.random.default_rng(3).standard_normal((2, 3), dtype=np.float32)
    np.testing.assert_allclose(gaussians[0].means(out), 1.0 + 0.5 * noise, rtol=1e-6)
    np.testing.assert_array_equal(out[6:], vector[6:])


def test_draws_have_the_moments_of_the_posterior() -> None:
    manifest = Manifest.pack([("a/w_loc", (100_000,)), ("a/w_rho", (100_000,))], [])
    vector = filled(manifest, -2.0, 0.1)
    draw(find_gaussians(manifest), vector, np.random.default_rng(0), vector)
    assert vector[:100_000].mean() == pytest.approx(-2.0, abs=2e-3)
    assert vector[:100_000].std() == pytest.approx(0.1, rel=0.01)


def test_pruned_weights_are_exactly_zero_in_every_draw() -> None:
    manifest = Manifest.pack(LAYER, MASKED)
    vector = filled(manifest, 1.0, 0.5)
    (one,) = find_gaussians(manifest)
    pruned(one, vector)[:] = [[1, 0, 1], [0, 0, 1]]
    draw([one], vector, np.random.default_rng(0), vector)
    np.testing.assert_array_equal(one.means(vector) != 0, [[1, 0, 1], [0, 0, 1]])


def test_the_ratio_of_signal_to_noise() -> None:
    manifest = Manifest.pack(LAYER, MASKED)
    vector = filled(manifest, -1.0, 0.25)
    (one,) = find_gaussians(manifest)
    pruned(one, vector)[:] = [[1, 1, 1], [0, 0, 0]]
    np.testing.assert_allclose(one.snr(vector), [[4, 4, 4], [0, 0, 0]], rtol=1e-6)
    one.rhos(vector)[:] = -1000.0  # sigma underflows
    np.testing.assert_array_equal(one.snr(vector)[0], np.inf)


def test_softplus_neither_overflows_nor_loses_small_values() -> None:
    rho = np.array([-50.0, 0.0, 100.0], np.float32)
    np.testing.assert_allclose(softplus(rho), [np.exp(-50.0), np.log(2.0), 100.0], rtol=1e-6)
    sigma = np.array([1e-6, 0.05, 3.0, 200.0])
    np.testing.assert_allclose(softplus(rho_of(sigma)), sigma, rtol=1e-9)
