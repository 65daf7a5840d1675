import numpy as np
import pytest

from nnlo.data import showers
from nnlo.data.showers import ENERGIES, RESOLUTION, SAMPLING_FRACTION, make_showers
from nnlo.errors import DataError


@pytest.fixture(scope="module")
def many():
    return make_showers(400)


def test_deposits_are_images_with_the_energies_that_made_them(many):
    x, y = many
    assert (x.shape, x.dtype) == ((400, 25, 25, 25, 1), np.float32)
    assert (y.shape, y.dtype) == ((400,), np.float32)
    assert ENERGIES[0] <= y.min() < 30 < 480 < y.max() <= ENERGIES[1]


def test_no_deposit_is_negative_or_below_the_threshold(many):
    x, _ = many
    assert np.isfinite(x).all()
    assert x[x != 0].min() >= np.float32(showers.THRESHOLD)


def test_deposited_energy_is_proportional_to_the_primary_one(many):
    x, y = many
    response = x.sum(axis=(1, 2, 3, 4)) / y
    low, high = response[y < 150], response[y > 350]
    assert abs(low.mean() / high.mean() - 1) < 0.02
    assert 0.95 * SAMPLING_FRACTION < response.mean() < SAMPLING_FRACTION


def test_deposited_energy_fluctuates_as_the_sampling_says(many):
    x, y = many
    low = y < 60  # above, leakage adds to it
    response = (x.sum(axis=(1, 2, 3, 4)) / y)[low]
    spread = (response / response.mean() - 1) * np.sqrt(y[low])
    assert abs(spread.std() / RESOLUTION - 1) < 0.25


def test_depth_of_the_maximum_grows_with_the_logarithm_of_the_energy(many):
    x, y = many
    layers = x.sum(axis=(1, 2, 4)).argmax(axis=1)
    slope, _ = np.polyfit(np.log(y), layers, 1)
    assert abs(slope - 1) < 0.3
    assert layers[y > 400].mean() - layers[y < 50].mean() > 1.5


def test_single_profile_has_its_maximum_where_the_parameters_say():
    profile = showers.Profile(alpha=5.0, beta=0.5)
    parts = showers._in_depth(profile)
    assert parts.argmax() + 0.5 == pytest.approx(profile.maximum, abs=0.5)
    tail = np.exp(-12.5) * sum(12.5**k / [1, 1, 2, 6, 24][k] for k in range(5))
    assert parts.sum() == pytest.approx(1 - tail, abs=1e-5)


def test_showers_are_centred_and_narrow(many):
    x, _ = many
    place = np.arange(25) - 12
    for across in (x.sum(axis=(2, 3, 4)), x.sum(axis=(1, 3, 4))):
        assert abs((across @ place / across.sum(axis=1)).mean()) < 0.05
    inner = x[:, 10:15, 10:15].sum() / x.sum()  # 1.25 Moliere radii
    assert 0.85 < inner < 0.97


def test_share_of_a_cell_is_the_integral_of_the_density():
    middles = (np.arange(400) + 0.5) / 400 * 0.7
    squares = middles[:, None] ** 2 + middles**2
    density = 0.3**2 / (np.pi * (squares + 0.3**2) ** 2)
    found = showers._quadrant(np.array(0.7), np.array(0.7), np.array(0.3))
    assert found == pytest.approx(density.mean() * 0.7**2, rel=1e-5)


def test_shower_depends_on_seed_and_number_only():
    x, y = make_showers(5, seed=3)
    again, energies = make_showers(2, seed=3, first=2)
    np.testing.assert_array_equal(again, x[2:4])
    np.testing.assert_array_equal(energies, y[2:4])
    assert not np.array_equal(make_showers(5, seed=4)[1], y)


def test_negative_numbers_are_refused():
    with pytest.raises(DataError, match=r"not be negative, got 2, 0 and -1"):
        make_showers(2, first=-1)
