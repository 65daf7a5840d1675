"""The tables of benchmarks/faults.py."""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.distributed import cases

Record = dict[str, Any]


def read(results: Path) -> list[Record]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def table(records: list[Record]) -> str:
    """Markdown: undisturbed runs, faults, and faults by shape."""
    usual = [record for record in records if record["fault"] == "none"]
    faulty = [record for record in records if record["fault"] != "none"]
    least = accuracies(usual)
    parts = [by_fault(faulty, least), by_shape(faulty), undisturbed_table(usual)]
    return "\n\n".join(parts)


def accuracies(usual: list[Record]) -> dict[tuple[str, str], list[float]]:
    found = defaultdict(list)
    for record in usual:
        found[record["shape"], record["mode"]].append(record["accuracy"])
    return dict(found)


def shortfall(record: Record, usual: dict[tuple[str, str], list[float]]) -> float | None:
    """How far the accuracy is from the median of undisturbed runs of that shape and mode."""
    known = usual.get((record["shape"], record["mode"]))
    if record["accuracy"] is None or not known:
        return None
    return record["accuracy"] - statistics.median(known)


def of_kind(records: list[Record], kind: str) -> int:
    return sum(any(p.startswith(kind) for p in record["problems"]) for record in records)


def by_fault(records: list[Record], usual: dict[tuple[str, str], list[float]]) -> str:
    lines = [
        "| fault | runs | as promised | hangs | samples lost | accuracy against undisturbed | "
        "longest, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in [*cases.FAULTS, "all"]:
        some = [r for r in records if name in (r["fault"], "all")]
        if not some:
            continue
        gaps = [gap for record in some if (gap := shortfall(record, usual)) is not None]
        span = f"{min(gaps):+.3f} ... {max(gaps):+.3f}" if gaps else "-"
        good = sum(not record["problems"] for record in some)
        worst = max(record["seconds"] for record in some)
        lines.append(
            f"| {name} | {len(some)} | {good} | {of_kind(some, 'hang')} | "
            f"{of_kind(some, 'lost')} | {span} | {worst:.0f} |"
        )
    return "\n".join(lines)


def by_shape(records: list[Record]) -> str:
    shapes = [*cases.SHAPES]
    lines = [
        f"| fault | {' | '.join(shapes)} |",
        f"| --- |{' --- |' * len(shapes)}",
    ]
    for name in cases.FAULTS:
        cells = []
        for shape in shapes:
            some = [r for r in records if r["fault"] == name and r["shape"] == shape]
            good = sum(not record["problems"] for record in some)
            cells.append(f"{good}/{len(some)}" if some else "")
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def undisturbed_table(records: list[Record]) -> str:
    lines = ["| shape | mode | runs | accuracy |", "| --- | --- | --- | --- |"]
    for (shape, mode), values in accuracies(records).items():
        lines.append(
            f"| {shape} | {mode} | {len(values)} | {min(values):.3f} ... {max(values):.3f} |"
        )
    return "\n".join(lines)
