"""The trials of a search as tables, best first."""

import csv
import io
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from nnlo.files import write_text
from nnlo.optimize.trials import Trial

_WIDTH = 24
"""Letters of a value in a table for people."""


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """By merit, of equals the earlier one; those that have finished before all others.

    In a search for several merits the Pareto front comes first, then the rest, each by its
    first merit. A merit of fewer epochs is not comparable, so trials that were stopped or are
    paused come behind; those without a merit are at the end.
    """
    return _sorted(trials, _front(trials))


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other one beats in one merit without losing in another, in their order.

    Empty in a search for one merit. Equal ones stay together.
    """
    front = _front(trials)
    return [trial for trial in trials if trial.number in front]


def rows(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """One flat object a trial, best first: number, state, merit, merit_1 ... (of several),
    param_*, metric_*, epochs, attempts, seconds, kind and reason of a failure, file_*."""
    front = _front(trials)
    return [_row(trial, trial.number in front) for trial in _sorted(trials, front)]


def to_json(trials: Sequence[Trial]) -> str:
    return json.dumps(rows(trials), indent=1)


def to_csv(trials: Sequence[Trial]) -> str:
    """With one column for each field that any trial has; empty where a trial has none."""
    table = rows(trials)
    columns = list(dict.fromkeys(name for row in table for name in row))
    kinds = ("param_", "merit_", "metric_", "file_")
    groups = {kind: [name for name in columns if name.startswith(kind)] for kind in kinds}
    rest = [name for name in columns if not name.startswith(kinds)]
    names = [*rest[:3], *groups["merit_"], *groups["param_"], *rest[3:]]
    names += [*groups["metric_"], *groups["file_"]]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()


def export(trials: Sequence[Trial], folder: Path) -> None:
    """Write ``trials.csv`` and ``trials.json``."""
    write_text(folder / "trials.csv", to_csv(trials))
    write_text(folder / "trials.json", to_json(trials) + "\n")


def to_text(trials: Sequence[Trial], n: int = 20) -> str:
    """The best ``n`` trials in aligned columns, for a terminal."""
    chosen = best_first(trials)[:n]
    names = list(dict.fromkeys(name for trial in chosen for name in trial.params))
    lines = [["trial", "state", "merit", "epochs", *names]]
    for one in chosen:
        merits = one.merits or (() if one.merit is None else (one.merit,))
        merit = " ".join(f"{number:.6g}" for number in merits)
        values = [_shown(one.params.get(name, "")) for name in names]
        lines.append([str(one.number), one.state, merit, str(one.epochs), *values])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pairs = (zip(line, widths, strict=True) for line in lines)
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in pair).rstrip() for pair in pairs
    )


def failures(trials: Sequence[Trial]) -> str:
    """Why trials have failed, a line a reason, the most frequent first; empty without any.

    Reasons that differ only in numbers are one; the first of them is shown.
    """
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if trial.state == "failed":
            alike = re.sub(r"[\d.]+", "0", trial.cause)
            groups.setdefault((trial.kind, alike), []).append(trial)
    return "\n".join(
        f"{len(group)} failed ({kind}), trial {listed([one.number for one in group])}: "
        f"{shorten(group[0].cause, 300, placeholder=' …')}"
        for (kind, _), group in sorted(groups.items(), key=lambda pair: -len(pair[1]))
    )


def listed(numbers: Sequence[int], most: int = 8) -> str:
    """The first ``most`` numbers, and how many more there are."""
    rest = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + rest


def _sorted(trials: Sequence[Trial], front: Collection[int]) -> list[Trial]:
    def key(trial: Trial) -> tuple[bool, bool, bool, float, int]:
        merit = trial.merit
        later = (merit is None, trial.state != "finished", trial.number not in front)
        return (*later, 0.0 if merit is None else merit, trial.number)

    return sorted(trials, key=key)


def _front(trials: Sequence[Trial]) -> set[int]:
    """Numbers of the trials on the Pareto front."""
    having = [trial for trial in trials if trial.merits and trial.state == "finished"]
    if not having:
        return set()
    having.sort(key=lambda trial: trial.merits)  # whoever beats a trial is before it now
    merits = np.array([trial.merits for trial in having])
    chosen: list[int] = []
    for place, one in enumerate(merits):
        others = merits[chosen]
        is_beaten = (others <= one).all(axis=1) & (others < one).any(axis=1)
        if not is_beaten.any():
            chosen.append(place)
    return {having[place].number for place in chosen}


def _row(trial: Trial, is_in_front: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"number": trial.number, "state": trial.state, "merit": trial.merit}
    if trial.merits:
        row |= {f"merit_{i}": merit for i, merit in enumerate(trial.merits, 1)}
        row["pareto"] = is_in_front
    row |= {f"param_{name}": value for name, value in trial.params.items()}
    row |= {"epochs": trial.epochs, "attempts": trial.attempts, "seconds": trial.seconds}
    row |= {"kind": trial.kind, "reason": trial.reason}
    row |= {f"metric_{name}": value for name, value in trial.metrics.items()}
    return row | {f"file_{name}": value for name, value in trial.files.items()}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).split())
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
