"""What happened in a run, epoch by epoch and rank by rank, as one JSON file.

Schema 1::

    schema          1
    epochs          one object an epoch, in order:
                    epoch (from 1), loss and the other training metrics (means over the samples
                    applied in the epoch), val_loss ... (where validated), samples, time_s,
                    samples_per_s, version, learning_rate, staleness (mean); of a variational
                    model kl_weight, which the KL divergence counted in the loss at its end
    ranks           by rank (as text): a list of objects an epoch of the rank's own data:
                    epoch, loss ..., samples, steps, busy_s, wait_s; refused: updates that
                    were not finite and not sent (absent where there were none)
    particles       of a run of particles, by number (as text): a list of objects an epoch: epoch,
                    loss ..., val_loss ... (where validated), samples; else empty
    best            metric, value, epoch of the weights kept as best; null without validation
    stopped         why the run ended: "epochs", "early stopping ...", "target ...", ...
    train_time_s    seconds from the first batch to the last update, restarts added up
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnlo.errors import CheckpointError
from nnlo.files import write_text

Record = dict[str, Any]

AMOUNTS = ("steps", "busy_s", "wait_s")
"""What adds up in the rows of a rank; its metrics are means over samples."""


@dataclass
class History:
    """The content of ``history.json``."""

    epochs: list[Record] = field(default_factory=list)
    ranks: dict[str, list[Record]] = field(default_factory=dict)
    best: Record | None = None
    stopped: str = ""
    train_time_s: float = 0.0
    schema: int = 1
    particles: dict[str, list[Record]] = field(default_factory=dict)

    def values(self, metric: str) -> list[float]:
        """The values of ``metric`` in the epochs that have it."""
        return [record[metric] for record in self.epochs if metric in record]

    def add_to_rank(
        self,
        rank: int,
        epoch: int,
        n_samples: int,
        sums: Mapping[str, float],
        **amounts: float,
    ) -> None:
        """Count an update of ``rank`` in its row of ``epoch``, from 1.

        sums: of metrics over the samples; their means are kept. amounts: added up.
        """
        row = self._row(rank, epoch)
        before = row["samples"]
        row["samples"] += n_samples
        for name, total in sums.items():
            row[name] = float((row.get(name, 0) * before + total) / row["samples"])
        for name, amount in amounts.items():
            row[name] = row.get(name, 0) + amount

    def count_refused(self, rank: int, epoch: int, n_updates: int = 1) -> None:
        """Count updates of ``rank`` in ``epoch``, from 1, that were not finite and not sent."""
        row = self._row(rank, epoch)
        row["refused"] = row.get("refused", 0) + n_updates

    def _row(self, rank: int, epoch: int) -> Record:
        rows = self.ranks.setdefault(str(rank), [])
        if not rows or rows[-1]["epoch"] != epoch:
            rows.append({"epoch": epoch, "samples": 0, **dict.fromkeys(AMOUNTS, 0)})
        return rows[-1]

    def add_ranks(self, ranks: Mapping[str, Sequence[Record]]) -> None:
        """Count the rows of another book; an epoch that both have becomes one row."""
        for rank, rows in ranks.items():
            for row in rows:
                amounts = {name: row[name] for name in AMOUNTS}
                others = row.keys() - {"epoch", "samples", "refused", *AMOUNTS}
                sums = {name: row[name] * row["samples"] for name in row if name in others}
                self.add_to_rank(int(rank), row["epoch"], row["samples"], sums, **amounts)
                if "refused" in row:
                    self.count_refused(int(rank), row["epoch"], row["refused"])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "History":
        """Raises CheckpointError for a text that is no history of this schema."""
        try:
            history = cls(**json.loads(text))
            if not history._is_whole():
                raise ValueError("a part of it is missing or of another kind")  # noqa: TRY301
        except (ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"a history must be the JSON text that a run has written, got another ({error}); "
                "take that of another checkpoint"
            ) from error
        return history

    def _is_whole(self) -> bool:
        best, ranks = self.best, self.ranks
        return (
            self.schema == 1
            and isinstance(self.stopped, str)
            and isinstance(self.train_time_s, int | float)
            and _are_rows(self.epochs, "epoch")
            and isinstance(ranks, dict)
            and all(r.isdecimal() and _are_rows(ranks[r], "epoch", "samples") for r in ranks)
            and isinstance(self.particles, dict)
            and all(_are_rows(rows, "epoch") for rows in self.particles.values())
            and (best is None or _are_rows([best], "epoch", "value"))
            and (best is None or isinstance(best.get("metric"), str))
        )

    def save(self, path: Path) -> None:
        write_text(path, self.to_json())


def _are_rows(rows: Any, *names: str) -> bool:
    """Whether these are records with numbers called ``names``."""
    return isinstance(rows, list) and all(
        isinstance(row, dict) and all(isinstance(row.get(name), int | float) for name in names)
        for row in rows
    )
