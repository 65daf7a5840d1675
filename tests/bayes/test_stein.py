"""The Stein direction against its formula."""

import numpy as np
import pytest

from nnlo.bayes.stein import descent, gram, kernels, layer_groups, mean_interaction, part_of
from nnlo.model.manifest import Manifest

P, D = 7, 12
WHOLE = [slice(0, D)]


def matrices(seed=0, n=P, columns=D):
    return np.random.default_rng(seed).normal(size=(2, n, columns)).astype(np.float32)


def phi_of(x, g, scale=None):
    """Equation 8 of Liu & Wang 2016, pair by pair, in float64."""
    x, g = x.astype(np.float64), g.astype(np.float64)
    squares = ((x[:, None] - x[None]) ** 2).sum(-1)
    h = np.median(squares) / (2 * np.log(len(x) + 1)) if scale is None else scale**2
    k = np.exp(-squares / (2 * h))
    pairs = k[:, :, None] * (g[None] + (x[:, None] - x[None]) / h)
    return pairs.mean(axis=1)


def descend(x, g, groups=WHOLE, scale=None, rows=slice(None)):
    kernel, widths = kernels(gram(x, groups), scale)
    out = np.empty_like(g[rows])
    descent(x, g, kernel, widths, groups, rows, out)
    return out


@pytest.mark.parametrize("scale", [None, 0.7, 3.0])
def test_the_direction_is_that_of_the_paper(scale):
    x, g = matrices()
    np.testing.assert_allclose(descend(x, g, scale=scale), -phi_of(x, g, scale), atol=1e-6)


def test_a_rank_computes_the_rows_that_are_its_own():
    x, g = matrices()
    own = descend(x, g, rows=slice(2, 5))
    np.testing.assert_allclose(own, descend(x, g)[2:5], rtol=1e-6)


def test_each_group_of_columns_is_as_a_space_of_its_own():
    x, g = matrices()
    both = descend(x, g, [slice(0, 5), slice(5, D)])
    np.testing.assert_allclose(both[:, :5], -phi_of(x[:, :5], g[:, :5]), atol=1e-6)
    np.testing.assert_allclose(both[:, 5:], -phi_of(x[:, 5:], g[:, 5:]), atol=1e-6)


def test_inner_products_of_parts_of_the_columns_add_up():
    x, groups = matrices()[0], [slice(0, 5), slice(5, D)]
    parts = [gram(x[:, a:b], part_of(groups, a, b)) for a, b in ((0, 3), (3, 3), (3, 9), (9, D))]
    np.testing.assert_allclose(sum(parts), gram(x, groups), rtol=1e-12, atol=1e-12)


def test_close_particles_far_from_zero_keep_their_distances():
    x, g = matrices()
    far = (1000.0 + x * 2.0**-10).astype(np.float32)  # |x|^2 = 1e7, |d|^2 = 1e-5
    np.testing.assert_allclose(descend(far, g), -phi_of(far, g), rtol=1e-5)


def test_one_particle_climbs_alone():
    x, g = matrices(n=1)
    np.testing.assert_array_equal(descend(x, g), -g)


def test_particles_at_one_place_move_together_and_stay_finite():
    x, g = np.ones((P, D), np.float32), matrices()[1]
    np.testing.assert_allclose(descend(x, g), np.tile(-g.mean(axis=0), (P, 1)), atol=1e-6)


def test_where_most_particles_coincide_the_bandwidth_is_above_0():
    x = np.zeros((P, D), np.float32)
    x[0] = 1.0
    _, widths = kernels(gram(x, WHOLE), None)
    squares = 2 * (P - 1) * D / P**2  # their mean over all pairs, as the median is 0
    np.testing.assert_allclose(widths, squares / (2 * np.log(P + 1)))


def test_blocks_of_columns_change_nothing(monkeypatch):
    x, g = matrices(columns=1000)
    whole = descend(x, g, [slice(0, 1000)])
    monkeypatch.setattr("nnlo.bayes.stein._BLOCK", 10)
    np.testing.assert_allclose(descend(x, g, [slice(0, 1000)]), whole, rtol=1e-6, atol=1e-7)


def test_the_mean_interaction_leaves_out_a_particle_with_itself():
    kernel = np.array([[[1.0, 0.2], [0.2, 1.0]], [[1.0, 0.4], [0.4, 1.0]]])
    assert mean_interaction(kernel) == pytest.approx(0.3)
    assert np.isnan(mean_interaction(np.ones((1, 1, 1))))


@pytest.mark.parametrize(
    "names",
    [
        ["dense/kernel", "dense/bias", "dense/kernel", "dense/bias", "norm/gamma"],
        ["0.weight", "0.bias", "2.weight", "2.bias", "3.weight"],
    ],
    ids=["Keras", "torch"],
)
def test_the_weights_of_a_layer_share_a_kernel(names):
    sizes = [6, 2, 4, 2, 3]
    variables = [(name, (size,)) for name, size in zip(names, sizes, strict=True)]
    manifest = Manifest.pack(variables, [("norm/mean", (3,))])
    assert layer_groups(manifest) == [slice(0, 8), slice(8, 14), slice(14, 17)]
