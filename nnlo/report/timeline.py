"""What each rank did when, as a trace that Chrome (chrome://tracing) and Perfetto open."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnlo.files import write_text
from nnlo.spans import Span


def write_timeline(path: Path, ranks: Mapping[str, Sequence[Span]]) -> None:
    """Write the spans of all ranks; their clocks are those since the common start of the run.

    ranks: by name ("master", "worker 1"). One row a rank, one colour a kind of work.
    """
    events: list[dict[str, object]] = []
    for number, (name, spans) in enumerate(ranks.items()):
        events.append({"ph": "M", "pid": number, "name": "process_name", "args": {"name": name}})
        events += [
            {
                "ph": "X",
                "pid": number,
                "tid": 0,
                "name": what,
                "ts": round(start * 1e6, 1),
                "dur": round((end - start) * 1e6, 1),
            }
            for what, start, end in spans
        ]
    write_text(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
