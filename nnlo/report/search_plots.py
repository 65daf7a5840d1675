"""Figures of a search, from its log alone; matplotlib is loaded on use.

Names of the files that ``write_all`` makes, one figure each, ``.png`` or ``.svg``::

    convergence   merits and the best so far, by number of results and by seconds of the search
    slices        merits by each parameter
    parallel      each trial as a line through its parameters, coloured by merit
    importance    how much the merit depends on each parameter, see ``optimize.importance``
    dependence    the merit by each parameter, averaged over the others, with a band
    blocks        what each block did when, and the share of time in which it had a trial
    pareto        merits against each other, only of a search for several

Merits of trials that had only some of their epochs are shown as they came in ``convergence``
and elsewhere as ``optimize.fidelity`` makes them comparable, the worst ones cut.
A figure for which there are too few trials says so instead of being left out.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnlo.files import write_atomic
from nnlo.optimize.course import Course
from nnlo.optimize.dimensions import Categorical
from nnlo.optimize.importance import Surrogate, tamed
from nnlo.optimize.table import pareto_front
from nnlo.optimize.trials import Trial
from nnlo.report.search_axes import (
    drawable,
    dress,
    empty,
    figure_of,
    grid,
    height_of,
    marks,
    place_of,
    require,
    scale_for,
    shown,
    upright,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 500  # of trials in ``parallel``, the best
MOST_NUMBERS = 30  # of trials in ``pareto``
_TALLEST = 30.0  # inches
COLORS = {
    "finished": "tab:blue",
    "paused": "tab:cyan",
    "stopped": "tab:purple",
    "suspended": "tab:gray",
    "failed": "tab:red",
    "lost": "tab:orange",
    "killed": "tab:brown",
    "running": "tab:green",
}


def write_all(course: Course, folder: Path, kind: Literal["png", "svg"] = "png") -> list[Path]:
    """Write all figures that the search has, each atomically; what was written.

    Raises ConfigError where matplotlib is missing, OSError where the disk does not take them.
    """
    require()
    model = Surrogate.of(course.space, course.told)
    drawn: dict[str, Callable[[], Figure]] = {
        "convergence": lambda: convergence(course),
        "slices": lambda: slices(course),
        "parallel": lambda: parallel(course),
        "importance": lambda: importance(model),
        "dependence": lambda: dependence(course, model),
        "blocks": lambda: blocks(course),
    }
    if len(course.merit_names) > 1:
        drawn["pareto"] = lambda: pareto(course)
    files = []
    for name, draw in drawn.items():
        files.append(folder / f"{name}.{kind}")
        write(draw(), files[-1])
    return files


def write(figure: "Figure", file: Path) -> None:
    """Write a figure atomically, in the format that the suffix names."""
    kind = file.suffix.removeprefix(".")
    write_atomic(file, lambda stream: figure.savefig(stream, format=kind, dpi=120))


def convergence(course: Course) -> "Figure":
    """Each result as a point and the best so far as a line; hollow: of unfinished trials."""
    known = [one for one in course.results if one.merit is not None]
    if not known:
        return empty(_no_merit(course))
    figure = figure_of(9.0, 4.2)
    merits = drawable([one.merit for one in known])
    best = list(accumulate(merits, min))
    is_final = np.array([one.is_final for one in known])
    hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": "tab:gray"}
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, label, every in (
        (left, "results", range(1, len(course.results) + 1)),
        (right, "time of the search (s)", [one.at for one in course.results]),
    ):
        pairs = list(zip(every, course.results, strict=True))
        at = np.array([place for place, one in pairs if one.merit is not None], float)
        failed = [place for place, one in pairs if one.merit is None]
        axes.scatter(at[is_final], merits[is_final], 14, "tab:gray", label="finished")
        if not is_final.all():
            rest = ~is_final
            axes.scatter(at[rest], merits[rest], 14, **hollow, label="paused or stopped")
        if failed:
            below: dict[str, Any] = {
                "transform": axes.get_xaxis_transform(),
                "clip_on": False,
                "marker": "x",
            }
            axes.scatter(failed, [0.0] * len(failed), 20, "tab:red", **below, label="failed")
        axes.step(at, best, "tab:blue", where="post", label="best so far")
        axes.set(xlabel=label, yscale=scale_for(merits))
    left.set_ylabel(shown(course.merit_names[0]))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(_counts(course), fontsize="small")
    return figure


def slices(course: Course) -> "Figure":
    """The merit of every trial against each of its parameters."""
    known = _known(course)
    if not known:
        return empty(_no_merit(course))
    merits = tamed([one.merit for one in known])
    figure, parts = grid(course.space.dimensions, shown(course.merit_names[0]))
    for axes, one in parts:
        at = [place_of(one, told.params[one.name]) for told in known]
        axes.scatter(at, merits, 14, range(len(known)), cmap="viridis", alpha=0.8)
        dress(axes, one)
        axes.set_yscale(scale_for(merits))
    figure.suptitle("every result; light: the newest", fontsize="small")
    return figure


def parallel(course: Course) -> "Figure":
    """A line a trial, over an axis a parameter and one for the merit, the best on top."""
    known = sorted(_known(course), key=lambda one: (one.merit, one.trial))
    if not known:
        return empty(_no_merit(course))
    known = known[MOST_LINES - 1 :: -1]
    merits = tamed([one.merit for one in known])
    low, high = merits.min(), merits.max()
    dimensions = course.space.dimensions
    heights = np.full((len(known), len(dimensions) + 1), 0.5)
    for column, one in enumerate(dimensions):
        heights[:, column] = [height_of(one, told.params[one.name]) for told in known]
    if high > low:
        heights[:, -1] = (merits - low) / (high - low)
    figure = figure_of(1.6 * (len(dimensions) + 2), 4.5)
    axes = figure.add_subplot()
    from matplotlib.collections import LineCollection

    lines = LineCollection(
        [list(enumerate(row)) for row in heights], cmap="viridis_r", linewidths=1.0, alpha=0.7
    )
    lines.set_array(merits)
    axes.add_collection(lines)
    for column, one in enumerate(dimensions):
        upright(axes, column, marks(one))
    upright(axes, len(dimensions), [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")][: 1 + (high > low)])
    names = [*(shown(one.name) for one in dimensions), shown(course.merit_names[0])]
    axes.set_xticks(range(len(names)), names, rotation=20)
    axes.set(xlim=(-0.2, len(names) - 0.4), ylim=(-0.08, 1.08), yticks=[])
    axes.set_title("light: the best", fontsize="small")
    axes.spines[:].set_visible(False)
    return figure


def importance(model: Surrogate | None) -> "Figure":
    """Bars, the most important parameter at the top."""
    if model is None:
        return empty(_NO_MODEL)
    found = sorted(model.importance().items(), key=lambda pair: pair[1])
    figure = figure_of(6.4, 1.6 + 0.35 * len(found))
    axes = figure.add_subplot()
    axes.barh(range(len(found)), [value for _, value in found])
    axes.set_yticks(range(len(found)), [shown(name) for name, _ in found])
    axes.set(xlabel="share of the merit's variance, alone and with others", xlim=(0, None))
    axes.set_title(_trust(model), fontsize="small")
    return figure


def dependence(course: Course, model: Surrogate | None) -> "Figure":
    """Means over the other parameters, and a band of two standard deviations."""
    if model is None:
        return empty(_NO_MODEL)
    figure, parts = grid(course.space.dimensions, shown(course.merit_names[0]))
    for axes, one in parts:
        places, means, deviations = model.dependence(one)
        at = np.array([place_of(one, one.from_unit(place)) for place in places])
        if isinstance(one, Categorical):
            axes.errorbar(at, means, 2 * deviations, fmt="o", capsize=4)
        else:
            axes.plot(at, means)
            axes.fill_between(at, means - 2 * deviations, means + 2 * deviations, alpha=0.25)
        dress(axes, one)
    figure.suptitle(_trust(model), fontsize="small")
    return figure


def blocks(course: Course) -> "Figure":
    """A row a block, a bar for each time in which it had a trial; dotted: restored."""
    if not course.stretches:
        return empty("no block has begun a trial yet")
    names = sorted({one.block for one in course.stretches})
    figure = figure_of(9.0, min(1.6 + 0.3 * len(names), _TALLEST))
    axes = figure.add_subplot()
    for outcome, color in COLORS.items():
        bars = [one for one in course.stretches if one.outcome == outcome]
        if bars:
            axes.barh(
                [names.index(one.block) for one in bars],
                [one.end - one.start for one in bars],
                left=[one.start for one in bars],
                height=0.8,
                color=color,
                edgecolor="white",
                linewidth=0.4,
                label=outcome,
            )
    for begin, _ in course.sessions[1:]:
        axes.axvline(begin, color="black", linestyle=":")
    labelled = range(0, len(names), 1 + len(names) // 100)
    axes.set_yticks(labelled, [f"block {names[i]}" for i in labelled])
    axes.set(xlabel="time of the search (s)", xlim=(0, None), ylim=(len(names) - 0.4, -0.6))
    axes.set_title(f"in use: {course.utilisation:.1%} of the blocks' time", fontsize="small")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def pareto(course: Course) -> "Figure":
    """Each pair of merits against each other; joined: trials that no other one beats in all."""
    having = [one for one in course.trials if one.merits and one.state == "finished"]
    if not having:
        return empty(_no_merit(course))
    front = pareto_front(course.trials)
    names = [shown(name) for name in course.merit_names]
    pairs = list(combinations(range(len(names)), 2))
    figure = figure_of(4.8 * min(3, len(pairs)), 4.0 * math.ceil(len(pairs) / 3))
    for place, (i, j) in enumerate(pairs, 1):
        axes = figure.add_subplot(math.ceil(len(pairs) / 3), min(3, len(pairs)), place)
        every, best = (drawable([one.merits for one in some]) for some in (having, front))
        axes.scatter(every[:, i], every[:, j], 14, "tab:gray", label="other trials")
        order = np.argsort(best[:, i], kind="stable")
        style = "o-" if len(names) == 2 else "o"
        ends = best[order]
        axes.plot(ends[:, i], ends[:, j], style, drawstyle="steps-post", label="Pareto front")
        for one, place in list(zip(front, best, strict=True))[:MOST_NUMBERS]:
            near: dict[str, Any] = {
                "xytext": (4, 4),
                "textcoords": "offset points",
                "fontsize": "x-small",
            }
            axes.annotate(str(one.number), place[[i, j]], **near)
        axes.set(xlabel=names[i], ylabel=names[j])
        axes.set(xscale=scale_for(every[:, i]), yscale=scale_for(every[:, j]))
        axes.legend(fontsize="small")
    figure.suptitle("numbers are those of trials", fontsize="small")
    return figure


_NO_MODEL = "at least 3 trials with a merit, not all the same, are needed"


def _known(course: Course) -> list[Any]:
    return [one for one in course.told if one.merit is not None]


def _counts(course: Course) -> str:
    states = [one.state for one in course.trials]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _no_merit(course: Course) -> str:
    failed: Sequence[Trial] = [one for one in course.trials if one.state == "failed"]
    if not failed:
        return f"no trial has a merit yet ({_counts(course) or 'none asked'})"
    return f"no trial has a merit ({_counts(course)}); the last failed with: {failed[-1].cause}"


def _trust(model: Surrogate) -> str:
    return (
        f"from a model of {len(model.merits)} trials that foretells "
        f"{max(0.0, model.explained):.0%} of their variance"
    )
