"""The trials of a search as tables, best first."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnlo.files import write_text
from nnlo.optimize.trials import Trial


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """By merit, of equals the earlier one; those without a merit at the end.

    In a search for several merits the Pareto front comes first, then the rest, each by its
    first merit.
    """
    front = {trial.number for trial in pareto_front(trials)}
    return sorted(trials, key=lambda one: (one.number not in front, *_merit_key(one), one.number))


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other one beats in one merit without losing in another, in their order.

    Empty in a search for one merit. Equal ones stay together.
    """
    having = [trial for trial in trials if trial.merits and trial.state == "finished"]
    return [one for one in having if not any(_dominates(other, one) for other in having)]


def rows(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """One flat object a trial, best first: number, state, merit, merit_1 ... (of several),
    param_*, metric_*, epochs, attempts, seconds, kind and reason of a failure, file_*."""
    front = {trial.number for trial in pareto_front(trials)}
    return [_row(trial, trial.number in front) for trial in best_first(trials)]


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
        merit = (
            "" if one.merit is None else " ".join(f"{m:.6g}" for m in one.merits or (one.merit,))
        )
        values = [_shown(one.params.get(name, "")) for name in names]
        lines.append([str(one.number), one.state, merit, str(one.epochs), *values])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pairs = (zip(line, widths, strict=True) for line in lines)
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in pair).rstrip() for pair in pairs
    )


def _merit_key(trial: Trial) -> tuple[bool, float]:
    return (trial.merit is None, 0.0 if trial.merit is None else trial.merit)


def _dominates(one: Trial, other: Trial) -> bool:
    pairs = list(zip(one.merits, other.merits, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


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
    return f"{value:.6g}" if isinstance(value, float) else str(value)
