"""Dimensions and their place in the unit cube."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnlo.errors import ConfigError
from nnlo.optimize.dimensions import Categorical, Integer, Real
from nnlo.optimize.space import Params, Space

TUNE = ["lr=1e-4:1e-1:log", "batch=32,64,128", "sync=1:16", "width=16:512:log", "opt=adam,sgd"]
SPACE = Space.from_tune(TUNE)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def skopt_space() -> Any:
    return pytest.importorskip("skopt.space")


def test_tune_lines_become_dimensions() -> None:
    assert SPACE.dimensions == (
        Real("lr", 1e-4, 0.1, log=True),
        Categorical("batch", (32, 64, 128)),
        Integer("sync", 1, 16),
        Integer("width", 16, 512, log=True),
        Categorical("opt", ("adam", "sgd")),
    )


def test_a_category_is_read_as_what_it_looks_like() -> None:
    one = Space.from_tune(["a=true,none,3,0.5,x y, relu"]).dimensions[0]
    assert one == Categorical("a", (True, None, 3, 0.5, "x y", "relu"))


@pytest.mark.parametrize(
    "text", ["lr", "lr=", "=1:2", "lr=1:2:cube", "lr=1:2:log:3", "lr=a:b", "my lr=1:2", "lr=:2"]
)
def test_a_line_of_no_known_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must read name=low:high"):
        Space.from_tune([text])


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ([], "at least one parameter"),
        (["a=1:2", "a=3:4"], "searched once, got a twice"),
        (["a=2:2"], "up to a larger one, got 2 to 2"),
        (["a=2.0:1.0"], "up to a larger one"),
        (["a=nan:1.0"], "must read"),
        (["a=0:8:log"], "begin above 0"),
        (["a=x,y,x"], "must differ"),
        (["a=1,true"], "must differ"),
    ],
)
def test_a_space_that_cannot_be_is_refused(tune: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Space.from_tune(tune)


def test_skopt_dimensions_come_in_with_their_names_or_by_their_place() -> None:
    skopt = skopt_space()
    ranges = [
        skopt.Real(1e-3, 1, prior="log-uniform", name="lr"),
        (1, 5),
        skopt.Categorical(["a", "b"], prior=[0.25, 0.75]),
    ]
    assert Space.from_range(ranges, ["x", "y", "z"]).dimensions == (
        Real("lr", 1e-3, 1.0, log=True),
        Integer("y", 1, 5),
        Categorical("z", ("a", "b"), (0.25, 0.75)),
    )


def test_numbers_from_skopt_are_pythons_own() -> None:
    skopt = skopt_space()
    space = Space.from_range([skopt.Categorical(np.array([1, 2]), name="a")])
    assert [type(one) for one in space.dimensions[0].categories] == [int, int]


def test_a_skopt_dimension_without_any_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="must have a name"):
        Space.from_range([skopt_space().Real(0, 1)])


def test_categories_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match="numbers, texts, booleans or None"):
        Space.from_range([skopt_space().Categorical([(1, 2), (3, 4)], name="a")])


def test_skopt_dimensions_go_out_and_in_again() -> None:
    skopt_space()
    assert Space.from_range(SPACE.skopt_dimensions()) == SPACE


def test_json_keeps_a_space() -> None:
    assert Space.from_json(json.loads(json.dumps(SPACE.to_json()))) == SPACE


@pytest.mark.parametrize("about", [{}, {"kind": "real"}, {"kind": "cube", "name": "a"}])
def test_damaged_json_is_refused(about: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"as Dimension\.to_json writes it"):
        Space.from_json([about])


def test_samples_are_in_the_space_and_plain() -> None:
    for _ in range(200):
        params = SPACE.sample(rng())
        SPACE.check(params)
        assert json.loads(json.dumps(params)) == params


def test_a_sample_is_even_in_the_logarithm() -> None:
    generator = rng()
    rates = [SPACE.sample(generator)["lr"] for _ in range(2000)]
    assert abs(np.mean(np.log10(rates)) + 2.5) < 0.06


def test_a_sample_follows_the_prior_of_categories() -> None:
    space, generator = Space((Categorical("a", ("x", "y"), (0.1, 0.9)),)), rng()
    share = np.mean([space.sample(generator)["a"] == "y" for _ in range(2000)])
    assert abs(share - 0.9) < 0.03


def test_every_integer_is_drawn_equally_often() -> None:
    space, generator = Space((Integer("k", -1, 2),)), rng()
    draws = [space.sample(generator)["k"] for _ in range(4000)]
    assert np.all(np.abs(np.unique(draws, return_counts=True)[1] - 1000) < 120)


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5))
def test_parameters_come_back_from_the_cube(uniform: list[float]) -> None:
    params = SPACE.at(np.array(uniform))
    assert params is not None
    unit = SPACE.to_unit(params)
    back = SPACE.from_unit(unit)
    assert back.pop("lr") == pytest.approx(params.pop("lr"), rel=1e-12)
    assert back == params
    assert unit.shape == (SPACE.n_unit,)
    assert unit.min() >= 0 <= 1 >= unit.max()


def test_the_cube_is_what_it_says() -> None:
    params: Params = {"lr": 1e-2, "batch": 64, "sync": 1, "width": 91, "opt": "sgd"}
    unit = SPACE.to_unit(params)
    middle = math.log(90.5 * 91.5) / 2 - math.log(15.5)
    width = middle / math.log(512.5 / 15.5)
    assert unit == pytest.approx([2 / 3, 0, 1, 0, 0.5 / 16, width, 0, 1])


def test_snapping_is_the_way_through_parameters() -> None:
    points = rng().random((50, SPACE.n_unit))
    through = [SPACE.to_unit(SPACE.from_unit(point)) for point in points]
    np.testing.assert_allclose(SPACE.snap(points), through, atol=1e-12)


def test_what_lies_outside_the_cube_comes_back_to_its_border() -> None:
    params = SPACE.from_unit(np.full(SPACE.n_unit, 3.0))
    assert (params["lr"], params["sync"], params["width"]) == (0.1, 16, 512)


def test_keys_tell_values_apart_and_nothing_else() -> None:
    space = Space((Categorical("a", (1, "1", None)), Real("x", 0.0, 2.0)))
    keys = {space.key({"a": a, "x": x}) for a in (1, "1", None) for x in (0.1, 0.1 + 1e-16, 1)}
    assert len(keys) == 9
    assert space.key({"a": 1, "x": 1}) == space.key({"x": 1.0, "a": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1.0}, "lr must be in the range 0.0001 to 0.1"),
        ({"sync": 2.0}, "sync must be"),
        ({"sync": True}, "sync must be"),
        ({"opt": "lion"}, "'adam', 'sgd'"),
        ({"more": 1}, "exactly lr, batch"),
    ],
)
def test_parameters_outside_are_refused(change: Params, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SPACE.check({**SPACE.sample(rng()), **change})


def test_repair_changes_what_is_drawn() -> None:
    def no_large_steps(params: Params) -> Params | None:
        return None if params["opt"] == "sgd" else {**params, "sync": np.int64(1)}

    space = Space.from_tune(TUNE, no_large_steps)
    found = [space.sample(rng()) for _ in range(20)]
    assert {(one["opt"], one["sync"], type(one["sync"])) for one in found} == {("adam", 1, int)}


def test_repair_cannot_leave_the_space_or_change_its_input() -> None:
    def spoil(params: Params) -> Params:
        params["sync"] = 99
        return params

    space, params = Space.from_tune(TUNE, spoil), SPACE.sample(rng())
    with pytest.raises(ConfigError, match="sync must be in the range"):
        space.repaired(params)
    assert params["sync"] != 99


def test_a_repair_that_rejects_all_is_told() -> None:
    with pytest.raises(ConfigError, match="1000 draws in a row"):
        Space.from_tune(["a=1:9"], lambda params: None).sample(rng())


def test_spaces_join_with_their_repairs() -> None:
    first = Space.from_tune(["a=1:9"], lambda params: {**params, "a": 3})
    second = Space.from_tune(["b=1:9"], lambda params: None if params["b"] == 9 else params)
    both = first | second
    assert both.names == ("a", "b")
    assert both.repaired({"a": 1, "b": 2}) == {"a": 3, "b": 2}
    assert both.repaired({"a": 1, "b": 9}) is None


def test_a_name_in_both_spaces_is_refused() -> None:
    with pytest.raises(ConfigError, match="searched once, got a twice"):
        Space.from_tune(["a=1:9"]) | Space.from_tune(["a=1:3"])


def test_the_size_of_a_huge_space_is_infinite() -> None:
    assert Space.from_tune(["a=1:3", "b=x,y"]).size == 6
    huge = [f"x{i}=1:1000000000" for i in range(40)]
    assert math.isinf(Space.from_tune([*huge, "y=0.0:1.0"]).size)


def test_a_finite_space_can_be_listed() -> None:
    space = Space.from_tune(
        ["a=1:3", "b=x,y"], lambda params: params if params["a"] != 2 else None
    )
    assert [tuple(one.values()) for one in space.every()] == [
        *((1, "x"), (1, "y"), (3, "x"), (3, "y"))
    ]
