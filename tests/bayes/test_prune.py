"""Which weights are pruned, and that pruned means 0 and 0."""

import numpy as np
import pytest

from nnlo.bayes.gaussians import draw, find_gaussians, rho_of
from nnlo.bayes.prune import apply_masks, layers, masks, pruned_share
from nnlo.errors import ConfigError, ModelError
from nnlo.model.manifest import Manifest

MANIFEST = Manifest.pack(
    [
        *(("a/kernel_loc", (2, 3)), ("a/kernel_rho", (2, 3)), ("a/bias", (3,))),
        *(("b/kernel_loc", (2,)), ("b/kernel_rho", (2,))),
        *(("b/bias_loc", (2,)), ("b/bias_rho", (2,))),
    ],
    [
        *(("a/kl_weight", ()), ("a/kernel_mask", (2, 3))),
        *(("b/kl_weight", ()), ("b/kernel_mask", (2,)), ("b/bias_mask", (2,))),
    ],
)
GAUSSIANS = find_gaussians(MANIFEST)


def vector_of(*ratios):
    """Return a vector without pruned weights whose |loc| / sigma are ``ratios``, sigma 0.5."""
    vector = np.ones(MANIFEST.size, np.float32)
    start = 0
    for one in GAUSSIANS:
        part = np.float32(ratios[start : start + one.loc.size])
        one.means(vector)[...] = 0.5 * part.reshape(one.loc.shape)
        one.rhos(vector)[...] = rho_of(0.5)
        start += one.loc.size
    return vector


def flat(chosen):
    return np.concatenate([one.reshape(-1) for one in chosen]).astype(int).tolist()


RISING = [-1, 2, -3, 4, 5, -6, 7, 8, -9, 10]


def test_nothing_is_pruned_at_a_fraction_of_0():
    assert flat(masks(GAUSSIANS, vector_of(*RISING), fraction=0.0)) == [1] * 10


def test_everything_is_pruned_at_a_fraction_of_1():
    assert flat(masks(GAUSSIANS, vector_of(*RISING), fraction=1.0)) == [0] * 10


@pytest.mark.parametrize(("fraction", "n"), [(0.04, 0), (0.05, 1), (0.31, 3), (0.75, 8)])
def test_the_smallest_ratios_of_all_layers_go_first(fraction, n):
    chosen = masks(GAUSSIANS, vector_of(*RISING), fraction=fraction)
    assert flat(chosen) == [0] * n + [1] * (10 - n)
    assert [one.shape for one in chosen] == [(2, 3), (2,), (2,)]


def test_equal_ratios_are_pruned_in_the_order_of_the_vector_and_no_more_than_asked():
    vector = vector_of(2, 1, 2, 2, 3, 2, 2, 3, 3, 3)
    assert flat(masks(GAUSSIANS, vector, fraction=0.4)) == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_the_scale_counts_as_much_as_the_mean():
    vector = vector_of(*[1] * 10)
    GAUSSIANS[1].rhos(vector)[1] = rho_of(5.0)
    assert flat(masks(GAUSSIANS, vector, fraction=0.1)) == [1] * 7 + [0] + [1] * 2


def test_a_layer_is_its_kernel_and_its_bias():
    assert layers(GAUSSIANS) == [[0], [1, 2]]
    chosen = masks(GAUSSIANS, vector_of(*RISING), fraction=0.5, per_layer=True)
    assert flat(chosen) == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]


def test_layers_of_one_name_are_told_apart():
    pair = [("a/kernel_loc", (2,)), ("a/kernel_rho", (2,))]
    assert layers(find_gaussians(Manifest.pack(pair * 3, []))) == [[0], [1], [2]]


def test_a_threshold_prunes_what_is_below_it():
    assert flat(masks(GAUSSIANS, vector_of(*RISING), threshold=4.0)) == [0] * 3 + [1] * 7


@pytest.mark.parametrize("how", [{"fraction": 0.1}, {"fraction": 0.3}, {"threshold": 0.0}])
def test_pruned_weights_stay_pruned_and_count(how):
    vector = vector_of(*RISING)
    apply_masks(GAUSSIANS, vector, masks(GAUSSIANS, vector, fraction=0.2))
    GAUSSIANS[0].means(vector)[0, :2] = 100.0
    n = 3 if how == {"fraction": 0.3} else 2
    assert flat(masks(GAUSSIANS, vector, **how)) == [0] * n + [1] * (10 - n)


def test_applied_masks_are_in_the_vector_and_the_rest_stays():
    vector = vector_of(*RISING)
    before = vector.copy()
    apply_masks(GAUSSIANS, vector, masks(GAUSSIANS, vector, fraction=0.3))
    assert pruned_share(GAUSSIANS, vector) == 0.3
    assert GAUSSIANS[0].means(vector).reshape(-1).tolist() == [0, 0, 0, 2, 2.5, -3]
    assert np.flatnonzero(vector != before).tolist() == [0, 1, 2, 6, 7, 8, 24, 25, 26]


def test_pruned_weights_have_neither_mean_nor_variance_in_draws():
    vector = vector_of(*RISING)
    apply_masks(GAUSSIANS, vector, masks(GAUSSIANS, vector, fraction=0.7))
    drawn = np.stack([sample(vector, seed) for seed in range(50)])
    assert (drawn[:, :7] == 0.0).all()
    assert (drawn[:, 7:].std(axis=0) > 0.3).all()


def test_a_mean_of_0_without_a_mask_is_found_out():
    """The fault of BPrune: rho = 0 in place of sigma = 0 leaves N(0, 0.69^2)."""
    vector = vector_of(*RISING)
    apply_masks(GAUSSIANS, vector, masks(GAUSSIANS, vector, fraction=0.7))
    for one in GAUSSIANS:
        one.masks(vector)[...] = 1.0
    drawn = np.stack([sample(vector, seed) for seed in range(2000)])
    assert drawn[:, :7].std() == pytest.approx(np.log(2.0), rel=0.05)


def sample(vector, seed):
    out = vector.copy()
    draw(GAUSSIANS, vector, np.random.default_rng(seed), out)
    return np.concatenate([one.means(out).reshape(-1) for one in GAUSSIANS])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "either a fraction or a threshold"),
        ({"fraction": 0.5, "threshold": 1.0}, "either a fraction or a threshold"),
        ({"fraction": 1.5}, "from 0 to 1, got 1.5"),
        ({"fraction": float("nan")}, "from 0 to 1, got nan"),
        ({"threshold": -1.0}, "at least 0, got -1.0"),
        ({"threshold": 1.0, "per_layer": True}, "per_layer must go with a fraction"),
    ],
)
def test_numbers_without_sense_are_refused(how, message):
    with pytest.raises(ConfigError, match=message):
        masks(GAUSSIANS, vector_of(*RISING), **how)


def test_a_deterministic_model_cannot_be_pruned():
    with pytest.raises(ModelError, match="must have Gaussian weights to be pruned, got none"):
        masks([], np.zeros(3, np.float32), fraction=0.5)


def test_masks_need_a_place_in_the_vector():
    gaussians = find_gaussians(Manifest.pack([("a/w_loc", (2,)), ("a/w_rho", (2,))], []))
    with pytest.raises(ModelError, match="must hold masks to be pruned, got none for a/w"):
        apply_masks(gaussians, np.zeros(4, np.float32), [np.ones(2, np.float32)])
