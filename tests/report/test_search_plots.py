"""Figures of a search: what they show, and that none fails for a search that went badly."""

import sys

import numpy as np
import pytest

from nnlo.errors import ConfigError
from nnlo.optimize.course import Course
from nnlo.optimize.dimensions import Categorical, Integer, Real
from nnlo.optimize.importance import Surrogate
from nnlo.optimize.pruning import Asha
from nnlo.optimize.space import Space
from nnlo.optimize.study import Study
from nnlo.report import search_plots as plots
from tests.optimize.simulated import Faults, Simulation

SPACE = Space(
    (Real("x", 0.0, 1.0), Integer("n", 1, 9, log=True), Categorical("kind", ("a", "b", None)))
)
HEADER = {"event": "header", "schema": 1, "merit": "val_loss", "space": SPACE.to_json(), "at": 1e9}
NAMES = ["convergence", "slices", "parallel", "importance", "dependence", "blocks"]


@pytest.fixture(autouse=True)
def _matplotlib():
    pytest.importorskip("matplotlib", reason="pip install matplotlib")


def search(n_trials=20, header=HEADER, **options) -> Course:
    done = Simulation(3, n_trials, **options).run()
    return Course([header, *({"at": 1e9 + i} | one for i, one in enumerate(done.records))])


def results(*merits, space=SPACE, header=HEADER, params=None) -> Course:
    """One block's trials with these merits: a number, several, or None for a failure."""
    records, rng, at = [header], np.random.default_rng(0), 1e9
    for trial, merit in enumerate(merits):
        several = merit if isinstance(merit, tuple) else ()
        about = {"metrics": {}, "epochs": 1, "seconds": 1.0, "files": {}}
        end = {"event": "finished", "merit": several[0] if several else merit, "merits": several}
        if merit is None:
            end = {"event": "failed", "reason": "no such $layer", "kind": "error", "attempt": 1}
        chosen = params or space.sample(rng)
        steps = (
            {"event": "asked", "params": chosen, "told": trial, "running": []},
            {"event": "started", "block": 0, "attempt": 1, "from_epoch": 0, "to_epoch": 1},
            about | end,
        )
        for step in steps:
            at += 1.0
            records.append({"trial": trial, "at": at} | step)
    return Course(records)


def words(figure) -> str:
    """All texts in a figure."""
    from matplotlib.text import Text

    return " | ".join(text.get_text() for text in figure.findobj(Text) if text.get_text())


def check(course, tmp_path, names=NAMES):
    """Every figure is written, as a picture."""
    files = plots.write_all(course, tmp_path)
    assert files == [tmp_path / f"{name}.png" for name in names]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_a_search_with_failures_and_pauses_has_all_figures(tmp_path):
    check(search(40, pruner=Asha(9), faults=Faults(error=0.2, death=0.02)), tmp_path)


def test_a_copy_of_a_log_is_enough(tmp_path):
    course = search(6)
    with Study.create(tmp_path / "run", course.records[0]) as study:
        study.append(*course.records[1:])
    copy = tmp_path / "copy.log"
    copy.write_bytes((tmp_path / "run" / "study.log").read_bytes() + b'{"event":"fin')
    check(Course.load(copy), tmp_path / "report")


@pytest.mark.parametrize(
    "merits",
    [
        (),
        (0.5,),
        (0.5, 0.5, 0.5, 0.5),
        (None, None),
        (0.5, None),
        (0.1, 0.2, 0.4, 1e300, 1e308),
        (-1e308, 0.0, 1e308, 1.0),
        (1e-9, 2e-9, 1e-9),
        (0.0, 1.0, 2.0),
    ],
)
def test_any_merits_give_figures(tmp_path, merits):
    check(results(*merits), tmp_path)


def test_failed_trials_alone_say_so_and_why():
    course = results(None, None)
    assert "2 failed" in words(plots.convergence(course))
    assert r"the last failed with: no such \$layer" in words(plots.slices(course))


def test_too_few_trials_say_so():
    assert "at least 3 trials" in words(plots.importance(None))
    assert "no trial has a merit yet" in words(plots.parallel(results()))
    assert "no block has begun" in words(plots.blocks(results()))


def test_the_line_of_convergence_is_the_best_so_far():
    figure = plots.convergence(results(3.0, None, 1.0, 2.0))
    for axes, at in zip(figure.axes, ([1, 3, 4], [3, 9, 12]), strict=True):
        assert axes.lines[0].get_xydata().tolist() == [[at[0], 3], [at[1], 1], [at[2], 1]]


def test_convergence_shows_when_trials_failed():
    figure = plots.convergence(results(3.0, None, 1.0, None))
    for axes, at in zip(figure.axes, ([2, 4], [6, 12]), strict=True):
        assert axes.collections[-1].get_label() == "failed"
        assert axes.collections[-1].get_offsets()[:, 0].tolist() == at


def test_labels_of_a_narrow_logarithmic_axis_have_room():
    axes = plots.slices(results(3.0, 1.0)).axes[1]
    labels = [one.get_text() for one in axes.get_xticklabels() + axes.get_xticklabels(minor=True)]
    assert labels == ["1", "4", "9"]


def test_slices_have_a_point_a_trial_at_its_value():
    course = results(3.0, 1.0)
    for axes, one in zip(plots.slices(course).axes, SPACE.dimensions, strict=True):
        shown = axes.collections[0].get_offsets()[:, 0].tolist()
        values = [trial.params[one.name] for trial in course.trials]
        is_number = not isinstance(one, Categorical)
        assert shown == (values if is_number else [one.categories.index(v) for v in values])
    assert [axes.get_xscale() for axes in plots.slices(course).axes] == ["linear", "log", "linear"]


def test_importance_is_sorted_and_tells_how_far_to_trust_it():
    course = search(30)  # whose merit depends on x alone
    figure = plots.importance(Surrogate.of(course.space, course.told))
    (axes,) = figure.axes
    assert axes.get_yticklabels()[-1].get_text() == "x"
    assert "30 trials that foretells" in words(figure)
    assert axes.patches[-1].get_width() > 0.9


def test_blocks_have_their_row_and_the_time_in_use():
    course = search(9)
    found = words(plots.blocks(course))
    assert all(f"block {i}" in found for i in range(3))
    assert f"in use: {course.utilisation:.1%}" in found


def test_very_many_blocks_are_no_taller_than_a_picture_can_be():
    done = Simulation(1000, 1500).run().records
    figure = plots.blocks(Course([HEADER, *({"at": 1e9} | one for one in done)]))
    assert figure.get_figheight() == 30.0
    assert len(figure.axes[0].get_yticks()) <= 100


def test_several_merits_have_a_front(tmp_path):
    header = HEADER | {"merit": "val_loss,time"}
    course = results((3.0, 1.0), (1.0, 3.0), (3.0, 3.0), (2.0, 2.0), header=header)
    check(course, tmp_path, [*NAMES, "pareto"])
    (axes,) = plots.pareto(course).axes
    assert axes.lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("val_loss", "time")
    assert [one.get_text() for one in axes.texts] == ["0", "1", "3"]


def test_odd_names_and_many_parameters_are_drawn(tmp_path):
    odd = ("$x_", "a\nb", "{" * 99, True, None, 2.5)
    dimensions = [Categorical(f"${i}$_^", odd) for i in range(5)]
    space = Space((*dimensions, Real("tiny", 1e-300, 1e-200, log=True), Integer("n", -5, 5)))
    header = HEADER | {"space": space.to_json(), "merit": "$\\frac$"}
    check(results(1.0, 2.0, 3.0, 4.0, space=space, header=header), tmp_path)


def test_the_same_parameters_again_and_again_are_drawn(tmp_path):
    check(results(1.0, 2.0, 3.0, params={"x": 0.5, "n": 1, "kind": None}), tmp_path)


def test_svg_is_text(tmp_path):
    files = plots.write_all(search(5), tmp_path, "svg")
    assert all(b"<svg" in file.read_bytes()[:1000] for file in files)


def test_a_missing_matplotlib_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="install it by pip install matplotlib"):
        plots.write_all(search(3), tmp_path)
