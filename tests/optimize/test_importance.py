"""What a search has learnt, where the truth is known."""

import numpy as np
import pytest

from nnlo.optimize.dimensions import Categorical, Integer, Real
from nnlo.optimize.importance import Surrogate, places_along, tamed
from nnlo.optimize.searcher import Told
from nnlo.optimize.space import Space

SPACE = Space(
    (
        Real("rate", 1e-4, 1e-1, log=True),
        Integer("n", 1, 16),
        Categorical("kind", ("a", "b")),
        Real("idle", 0.0, 1.0),
    )
)


def told(function, n=120, space=SPACE):
    rng = np.random.default_rng(0)
    every = [space.sample(rng) for _ in range(n)]
    return [Told(i, params, function(params)) for i, params in enumerate(every)]


def added(params):
    """Variances: 9/12 of the logarithm's place, about 1/12 of n's, 1/4 of the kind."""
    place = np.log(params["rate"] / 1e-4) / np.log(1e3)
    return 3 * place + params["n"] / 16 + (params["kind"] == "b")


def test_parts_that_add_up_have_their_share_of_the_variance():
    found = Surrogate.of(SPACE, told(added)).importance()
    shares = {"rate": 9 / 12, "n": (1 - 1 / 256) / 12, "kind": 1 / 4, "idle": 0.0}
    total = sum(shares.values())
    assert found == pytest.approx({k: v / total for k, v in shares.items()}, abs=0.04)


def test_factors_of_a_product_around_zero_have_all_of_it():
    space = Space.from_tune(["x=-1.0:1.0", "y=-1.0:1.0", "idle=0.0:1.0"])
    found = Surrogate.of(space, told(lambda p: p["x"] * p["y"], 150, space)).importance()
    assert found == pytest.approx({"x": 1.0, "y": 1.0, "idle": 0.0}, abs=0.06)


def test_the_dependence_is_the_function_where_parts_add_up():
    model = Surrogate.of(SPACE, told(added))
    places, means, deviations = model.dependence(SPACE.dimensions[0])
    assert means - means[0] == pytest.approx(3 * places[:, 0], abs=0.1)
    assert deviations.max() < 0.1


def test_the_dependence_on_categories_has_a_place_each():
    places, means, _ = Surrogate.of(SPACE, told(added)).dependence(SPACE.dimensions[2])
    assert places.tolist() == [[1, 0], [0, 1]]
    assert means[1] - means[0] == pytest.approx(1.0, abs=0.1)


def test_a_function_is_foretold_and_noise_is_not():
    rng = np.random.default_rng(1)
    assert Surrogate.of(SPACE, told(added)).explained > 0.95
    assert Surrogate.of(SPACE, told(lambda _: rng.normal())).explained < 0.2


@pytest.mark.parametrize("merits", [[], [1.0, 2.0], [1.0] * 9, [None] * 9])
def test_there_is_no_model_of_too_few_or_equal_merits(merits):
    params = SPACE.sample(np.random.default_rng(0))
    assert Surrogate.of(SPACE, [Told(i, params, one) for i, one in enumerate(merits)]) is None


def test_failed_trials_do_not_count():
    known = told(added, 30)
    failed = [Told(99, SPACE.sample(np.random.default_rng(5)), None)]
    assert Surrogate.of(SPACE, known + failed).merits.tolist() == [one.merit for one in known]


def test_diverged_merits_are_cut_and_others_stay():
    merits = [1.0, 2.0, 3.0, 4.0, 5.0, 1e300]
    cut = tamed(merits)
    assert cut[:5].tolist() == merits[:5]
    assert 5 < cut[5] < 20


def test_places_are_those_of_values():
    assert len(places_along(SPACE.dimensions[1], 41)) == 16
    assert len(places_along(Integer("n", 1, 10**6), 41)) == 41


def test_hundreds_of_trials_take_seconds():
    model = Surrogate.of(SPACE, told(added, 400))
    assert len(model.merits) == 300
    assert model.importance()["rate"] > 0.6
