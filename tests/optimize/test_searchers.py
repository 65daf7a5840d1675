"""What every searcher of the registry promises."""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from nnlo.errors import ConfigError
from nnlo.optimize.searcher import SEARCHERS, Searcher, Told, draw, imputed, make_searcher
from nnlo.optimize.space import Params, Space

MIXED = Space.from_tune(["lr=1e-4:1.0:log", "k=1:9", "opt=adam,sgd,none", "on=true,false"])
SMALL = Space.from_tune(["a=1:3", "b=x,y"])


@pytest.fixture(params=SEARCHERS)
def name(request: pytest.FixtureRequest) -> str:
    """Each searcher; those of Optuna only where it is installed."""
    if "optuna" in SEARCHERS[request.param]:
        pytest.importorskip("cmaes" if request.param == "cmaes" else "optuna")
    if request.param == "optuna-gp":
        pytest.importorskip("torch")
    return str(request.param)


def bowl(params: Params) -> float:
    return float(sum(MIXED.to_unit(params) ** 2))


def search(
    searcher: Searcher,
    n: int,
    merit: Callable[[Params], float | None] = bowl,
    n_running: int = 2,
) -> tuple[list[Told], dict[int, Params]]:
    """Told and running after ``n`` trials have ended in the order of their start."""
    told: list[Told] = []
    running: dict[int, Params] = {}
    trial = 0
    while len(told) < n:
        params = searcher.ask(trial, told, running)
        assert params is not None
        running[trial], trial = params, trial + 1
        if len(running) > n_running:
            first = min(running)
            told.append(Told(first, running[first], merit(running.pop(first))))
    return told, running


def given(space: Space, n: int, merit: Callable[[int], float | None]) -> list[Told]:
    """Trials that no searcher has asked for."""
    rng = np.random.default_rng(5)
    return [Told(i, space.sample(rng), merit(i)) for i in range(n)]


def test_proposals_are_plain_and_in_the_space(name: str) -> None:
    told, running = search(make_searcher(name, MIXED, 1), 13)
    for params in (*(one.params for one in told), *running.values()):
        MIXED.check(params)
        assert json.loads(json.dumps(params)) == params
        assert list(params) == list(MIXED.names)


def test_equal_questions_get_equal_answers_whatever_was_asked_before(name: str) -> None:
    told, used = given(MIXED, 14, float), make_searcher(name, MIXED, 1)
    running = {50: MIXED.sample(np.random.default_rng(0))}
    used.ask(41, told[:12], {})
    first = used.ask(40, told, running)
    assert make_searcher(name, MIXED, 1).ask(40, told, running) == first
    assert used.ask(40, told, running) == first


def test_what_is_given_is_not_changed(name: str) -> None:
    told, running = given(MIXED, 12, float), {30: MIXED.sample(np.random.default_rng(0))}
    before = json.dumps([told, running])
    make_searcher(name, MIXED, 1).ask(20, told, running)
    assert json.dumps([told, running]) == before


def test_another_seed_or_trial_brings_other_proposals(name: str) -> None:
    answers = [
        make_searcher(name, MIXED, seed).ask(trial, [], {})
        for seed, trial in ((1, 0), (1, 1), (2, 0))
    ]
    assert len({MIXED.key(one) for one in answers if one is not None}) == 3


def test_a_small_space_is_tried_through_without_repeats_and_then_is_exhausted(name: str) -> None:
    searcher = make_searcher(name, SMALL, 3)
    told, running = search(searcher, 4, lambda params: float(str(params["a"])), n_running=2)
    keys = {SMALL.key(one) for one in (*(one.params for one in told), *running.values())}
    assert len(keys) == 6
    assert searcher.ask(6, told, running) is None


@pytest.mark.parametrize("name", sorted({*SEARCHERS} - {"random", "sobol"}), indirect=True)
def test_what_is_told_makes_proposals_better(name: str) -> None:
    told = [one._replace(merit=bowl(one.params)) for one in given(MIXED, 36, bool)]
    searcher = make_searcher(name, MIXED, 1)
    proposals = [searcher.ask(trial, told, {}) for trial in range(60, 65)]
    merits = [bowl(params) for params in proposals if params is not None]
    assert np.median(merits) < np.median([one.merit or 0 for one in told])


def test_failed_trials_alone_stop_nothing(name: str) -> None:
    told, _ = search(make_searcher(name, MIXED, 1), 12, lambda params: None)
    assert len({MIXED.key(one.params) for one in told}) == 12


@pytest.mark.parametrize(
    "merit",
    [
        lambda i: 0.5,
        lambda i: 10.0 ** (20 * i - 200),
        lambda i: -(10.0**i),
        lambda i: None if i % 2 else 1e300,
        lambda i: 1 / 3 if i else -1e-300,
    ],
    ids=["constant", "decades", "negative", "failed", "alone"],
)
def test_any_merits_are_taken(name: str, merit: Callable[[int], float | None]) -> None:
    params = make_searcher(name, MIXED, 1).ask(30, given(MIXED, 22, merit), {})
    assert params is not None
    MIXED.check(params)


def test_equal_parameters_with_different_merits_are_taken(name: str) -> None:
    told = [
        one._replace(params=given(MIXED, 1, bool)[0].params) for one in given(MIXED, 20, float)
    ]
    params = make_searcher(name, MIXED, 1).ask(30, told, {30: told[0].params})
    assert params is not None
    assert params != told[0].params


def test_many_running_trials_bring_different_proposals(name: str) -> None:
    searcher, told = make_searcher(name, MIXED, 1), given(MIXED, 12, lambda i: i / 7)
    running = {100 + i: one.params for i, one in enumerate(given(MIXED, 40, bool)[12:])}
    for trial in range(200, 203):
        params = searcher.ask(trial, told, running)
        assert params is not None
        assert MIXED.key(params) not in {MIXED.key(one) for one in running.values()}
        running[trial] = params


def test_proposals_are_repaired(name: str) -> None:
    def repair(params: Params) -> Params | None:
        if params["opt"] == "none":
            return None
        return {**params, "k": 1} if params["opt"] == "sgd" else params

    space = Space(MIXED.dimensions, repair)
    told, _ = search(make_searcher(name, space, 1), 13)
    assert all(repair(dict(one.params)) == one.params for one in told)


@pytest.mark.parametrize("tune", [["a=0.0:1.0"], ["a=x"], ["a=x", "b=1:40"]])
def test_narrow_spaces_are_searched(name: str, tune: list[str]) -> None:
    space = Space.from_tune(tune)
    told = given(space, 12, float)[: 12 if space.size > 1 else 0]
    params = make_searcher(name, space, 1).ask(12, told, {})
    assert params is not None
    space.check(params)


def test_thirty_dimensions_are_searched(name: str) -> None:
    space = Space.from_tune([f"x{i}=0.0:1.0" for i in range(28)] + ["y=1:5", "z=a,b,c"])
    params = make_searcher(name, space, 1).ask(40, given(space, 35, float), {})
    assert params is not None
    space.check(params)


def test_several_merits_are_taken(name: str) -> None:
    told = [
        one._replace(merits=() if one.merit is None else (one.merit, 3 - one.merit))
        for one in given(MIXED, 20, lambda i: None if i == 3 else i / 4)
    ]
    params = make_searcher(name, MIXED, 1).ask(30, told, {})
    assert params is not None
    MIXED.check(params)


def test_an_unknown_searcher_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be one of bayesian, genetic"):
        make_searcher("bayes", MIXED, 1)


def test_an_option_of_another_searcher_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="options of the searcher"):
        make_searcher(name, MIXED, 1, temperature=3)


def test_a_negative_seed_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="seed of a search"):
        make_searcher(name, MIXED, -1)


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnlo.optimize.optuna_searcher.find_spec", lambda library: None)
    with pytest.raises(ConfigError, match=r"optuna installed.*pip install 'nnlo\[optuna\]'"):
        make_searcher("tpe", MIXED, 1)


def test_a_draw_avoids_the_known_to_the_last() -> None:
    keys = {SMALL.key(one) for one in SMALL.every()}
    last = keys.pop()
    found = draw(SMALL, np.random.default_rng(0), keys)
    assert found is not None
    assert SMALL.key(found) == last


def test_a_failed_trial_counts_as_the_worst_in_every_merit() -> None:
    rows: Sequence[tuple[float | None, tuple[float, ...]]] = [
        *((1.0, (1.0, 8.0)), (None, ()), (3.0, (3.0, 2.0)))
    ]
    told = [Told(i, {}, merit, merits) for i, (merit, merits) in enumerate(rows)]
    assert imputed(told).tolist() == [[1, 8], [3, 8], [3, 2]]


def test_the_mapping_of_running_trials_may_be_any() -> None:
    class Frozen(Mapping[int, Params]):
        def __getitem__(self, trial: int) -> Params:
            return next(SMALL.every())

        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter([4])

        def __len__(self) -> int:
            return 1

    params = make_searcher("random", SMALL, 1).ask(5, [], Frozen())
    assert params is not None
