"""What a user sees of a search while it lasts: one line an event, on rank 0."""

import logging
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

from nnlo.optimize.trials import Record, Trial, Trials

log = logging.getLogger(__name__)


class SearchLog:
    """Is told of each record of the log, see ``conductor.Hear``. n_trials: to come."""

    def __init__(self, n_trials: int) -> None:
        self._n_trials = n_trials

    def __call__(self, record: Record, trials: Trials) -> None:
        method = getattr(self, f"_{record['event']}", None)
        if method is not None:
            method(record, trials[record["trial"]], trials)

    def _started(self, record: Record, trial: Trial, trials: Trials) -> None:
        again = f", attempt {record['attempt']}" if record["attempt"] > 1 else ""
        since = f" from epoch {record['from_epoch']}" if record["from_epoch"] else ""
        log.info(
            "trial %d begins on block %d%s%s: %s",
            trial.number,
            record["block"],
            again,
            since,
            in_words(trial.params),
        )

    def _reported(self, record: Record, trial: Trial, trials: Trials) -> None:
        words = {
            "continue": "",
            "pause": ": paused",
            "stop": ": stopped",
            "suspend": ": suspended",
        }
        verdict = words[record["verdict"]]
        level = logging.INFO if verdict else logging.DEBUG
        log.log(
            level,
            "trial %d: %g after %d%s",
            trial.number,
            record["merit"],
            record["epoch"],
            verdict,
        )

    def _finished(self, record: Record, trial: Trial, trials: Trials) -> None:
        merit = record["merit"]
        finished = [one for one in trials.rows if one.state == "finished"]
        best = min(finished, key=lambda one: (one.merit, one.number))
        several = ", ".join(f"{one:.6g}" for one in record["merits"]) or f"{merit:.6g}"
        spread = trial.metrics.get("spread")
        log.info(
            "trial %d: %s%s after %d epochs, %.1f s; best %.6g (trial %d); %d of %d over",
            trial.number,
            several,
            f" +- {spread:.2g}" if spread is not None else "",
            record["epochs"],
            record["seconds"],
            best.merit,
            best.number,
            sum(one.is_over for one in trials.rows),
            self._n_trials,
        )

    def _failed(self, record: Record, trial: Trial, trials: Trials) -> None:
        cause = shorten(trial.cause, 300, placeholder=" …")
        log.warning("trial %d failed (%s): %s", trial.number, record["kind"], cause)

    def _lost(self, record: Record, trial: Trial, trials: Trials) -> None:
        log.warning("trial %d lost block %d: %s", trial.number, record["block"], record["reason"])

    def _suspended(self, record: Record, trial: Trial, trials: Trials) -> None:
        log.info("trial %d suspended: %s", trial.number, record["reason"])


def in_words(params: Mapping[str, Any]) -> str:
    """``width=32, rate=0.00123``."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )
