"""What the ranks of a run that stands still have said, in words."""

from collections.abc import Collection, Mapping

from nnlo.mpi.fence import Registry, State

MOST_LINES = 30

_REASONS: dict[State | None, str] = {
    "stopped": "stopped",
    "running": "computes, or is inside a blocking call",
    "gone": "its process is gone",
    None: "on another machine",
}


def name_ranks(ranks: Collection[int]) -> str:
    """Ranks in words: "rank 3", "ranks 1, 4-9 and 12", "nobody"."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts: list[str] = []
    for run in runs:
        parts += map(str, run) if len(run) < 3 else [f"{run[0]}-{run[-1]}"]
    if not parts:
        return "nobody"
    listed = ", ".join(parts[:-1])
    noun = "ranks" if len(ranks) > 1 else "rank"
    return f"{noun} {listed} and {parts[-1]}" if listed else f"{noun} {parts[-1]}"


def describe(
    head: str,
    dead: Collection[int],
    missing: Collection[int],
    answers: Mapping[int, tuple[str, float]],
    registry: Registry,
) -> list[str]:
    """The report, a line each: ``head``, who cannot answer and why, what the others do.

    missing: ranks that have not answered. answers: what each rank is doing and for how many
    seconds; those that do the same are named together. At most MOST_LINES and how many are
    left out.
    """
    lines = [head]
    lines += [f"rank {rank} ({registry.name(rank)}) is dead" for rank in sorted(dead)]
    for rank in sorted(missing):
        reason = _REASONS[registry.state(rank)]
        lines.append(f"rank {rank} ({registry.name(rank)}) does not answer: {reason}")
    groups: dict[str, list[int]] = {}
    for rank, (doing, _) in sorted(answers.items()):
        groups.setdefault(doing, []).append(rank)
    for doing, ranks in groups.items():
        times = [answers[rank][1] for rank in ranks]
        lines.append(f"{name_ranks(ranks)} {_is(ranks)} {doing} for {_span(times)} s")
    n_more = len(lines) - MOST_LINES
    return lines if n_more <= 0 else [*lines[:MOST_LINES], f"and {n_more} lines more"]


def _is(ranks: Collection[int]) -> str:
    return "is" if len(ranks) == 1 else "are"


def _span(times: Collection[float]) -> str:
    least, most = f"{min(times):.0f}", f"{max(times):.0f}"
    return most if least == most else f"{least} to {most}"
