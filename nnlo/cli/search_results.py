"""What a search leaves in its folder: tables, the best trial ready for use, figures; no more."""

import json
import logging
import math
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from nnlo.cli.search_files import aside, clear, copy, model_in, put
from nnlo.cli.train_options import TrainOptions
from nnlo.errors import ConfigError
from nnlo.files import remove_leftovers, write_text
from nnlo.optimize.block import part_folder
from nnlo.optimize.course import Course
from nnlo.optimize.space import Params
from nnlo.optimize.table import best_first, export, failures, listed, pareto_front, to_text
from nnlo.optimize.trials import Record, Trial, Trials
from nnlo.report.best_config import to_config

log = logging.getLogger(__name__)

SHARE = 0.01
"""Of the time of a search, for tables while it lasts."""

# Of the search and its trials, not of a training by what it found.
_OWN = ("restore", "checkpoint", "checkpoint_interval")


class SearchResults:
    """The results in ``root``, written by the one process that leads the search.

    root: folder of the search. options: those of the command line that differ from their
    defaults, by name; those that TrainingDriver has go to ``config.yaml``. named: which
    option each parameter is that is no argument of get_model. note: lines for the top of
    ``config.yaml``. keep: trials, at least 1, whose models stay, beside the Pareto front of a
    search for several merits.
    """

    def __init__(
        self,
        root: Path,
        options: Mapping[str, Any],
        named: Callable[[Params], Mapping[str, str]] = lambda params: {},
        note: str = "",
        keep: int = 5,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"the models of at least 1 trial must be kept, got {keep}; keep 1")
        self.root = root
        self.best = root / "best"
        self._options = options
        self._named = named
        self._note = note
        self._keep = keep
        self._seen: set[int] = set()  # trials that have been tidied up
        self._kept: list[Trial] = []  # of those, the ones with models
        self._tables_from = -math.inf  # when the next ones may be written

    def update(self, trials: Trials) -> None:
        """After each trial that has ended. What the disk does not take is only a warning.

        Tables are not written anew while that would take more than ``SHARE`` of the time.
        """
        for step in (self.write_best, self.tidy, self._update_tables):
            try:
                step(trials)
            except OSError as error:
                log.warning("results cannot be written to %s: %s", self.root, error)

    def finish(
        self,
        trials: Trials,
        records: Sequence[Record] | None = None,
        *,
        tensorboard: bool = False,
    ) -> str:
        """Everything, when no block trains any more; returns ``text``.

        records: of the whole search, for figures; None: no figures. Each step is tried,
        whatever became of the others; raises ConfigError with what the disk did not take.
        """
        self._seen.clear()  # a block may have written where it had been tidied up
        self._kept.clear()
        self._tidy(trials, is_over=True)  # first: it makes room
        steps: list[Callable[[], object]] = [
            lambda: self.write_tables(trials),
            lambda: self.write_best(trials),
        ]
        if tensorboard:
            steps.append(lambda: self.write_hparams(trials))
        if records is not None:
            steps.append(lambda: self.write_plots(records))
        errors: list[OSError] = []
        for step in steps:
            try:
                step()
            except OSError as error:
                errors.append(error)
            except ConfigError as error:
                log.warning("%s", error)
        if errors:
            reasons = "; ".join(dict.fromkeys(map(str, errors)))
            raise ConfigError(
                f"results must be written to {self.root}, got {reasons}; free space, then let "
                "the search write them by --opt-restore"
            ) from errors[0]
        return self.text(trials)

    def write_tables(self, trials: Trials) -> None:
        """``trials.csv`` and ``trials.json``; raises OSError."""
        kept = {trial.number for trial in self._kept}
        export(
            [one if one.number in kept else replace(one, files={}) for one in trials.rows],
            self.root,
        )

    def write_best(self, trials: Trials) -> Path | None:
        """``best/``: the folder of the best trial, ``trial.json`` and ``config.yaml``.

        Returns it, None if no trial has finished. It is written if it is not that trial's yet:
        beside its place, then renamed, so that it is complete or, where a kill came between the
        renames, absent until the next call. Parameters that no file of options can hold are a
        warning. Raises OSError; what was there is as it was then.
        """
        trial = _best_of(trials)
        if trial is None:
            return None
        remove_leftovers(self.root, "best")
        about = json.dumps(_about(trial), indent=1) + "\n"
        try:
            if (self.best / "trial.json").read_text() == about:
                return self.best
        except (OSError, ValueError):
            pass  # there is none, or not of ours
        half = aside(self.best)
        try:
            copy(part_folder(self.root, trial.number), half)
            self._write_config(trial, half / "config.yaml")
            write_text(half / "trial.json", about)
            put(half, self.best)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        return self.best

    def write_hparams(self, trials: Trials) -> None:
        """``tensorboard/trial-0007/``; raises OSError."""
        from nnlo.report.search_events import write_hparams

        write_hparams(trials.rows, self.root / "tensorboard")

    def write_plots(self, records: Sequence[Record]) -> None:
        """``plots/``; raises ConfigError without matplotlib, OSError."""
        from nnlo.report.search_plots import write_all

        write_all(Course(records), self.root / "plots")

    def tidy(self, trials: Trials) -> None:
        """Remove what the search does not need any more; what stays against that is a warning.

        That is checkpoints of trials that are over, and models beyond the best ``keep``.
        A trial that was stopped is left alone until its block has gone on to another one.
        """
        self._tidy(trials, is_over=False)

    def text(self, trials: Trials) -> str:
        """What became of the search, for a terminal."""
        states = Counter(trial.state for trial in trials.rows)
        counts = ", ".join(f"{n} {state}" for state, n in states.most_common())
        parts = [f"{len(trials)} trial{'s' * (len(trials) != 1)}: {counts or 'none asked'}"]
        if trials.rows:
            parts.append(to_text(trials.rows, 10))
        if reasons := failures(trials.rows):
            parts.append(reasons)
        parts += self._about_best(trials)
        return "\n\n".join(parts)

    def _about_best(self, trials: Trials) -> list[str]:
        trial = _best_of(trials)
        if trial is None:
            return ["no trial has finished, so there is no best model"]
        found = []
        front = pareto_front(trials.rows)
        if front:
            numbers = listed(sorted(one.number for one in front))
            found.append(f"no other trial beats {numbers} in all merits (the Pareto front)")
        lines = [f"best model, of trial {trial.number}: {model_in(self.best)}"]
        if (self.best / "config.yaml").exists():
            file = shlex.quote(str(self.best / "config.yaml"))
            lines.append(f"train with its parameters: TrainingDriver --config {file}")
        return [*found, "\n".join(lines)]

    def _update_tables(self, trials: Trials) -> None:
        begin = time.monotonic()
        if begin >= self._tables_from:
            self.write_tables(trials)
            end = time.monotonic()
            self._tables_from = end + (end - begin) / SHARE

    def _write_config(self, trial: Trial, file: Path) -> None:
        known = {entry.name for entry in fields(TrainOptions)}.difference(_OWN)
        options = {name: value for name, value in self._options.items() if name in known}
        # else a training by it would go into the folder of the search
        options["trial_name"] = f"{options.get('trial_name', 'search')}-best"
        try:
            names = self._named(trial.params)
            params = {names.get(name, name): value for name, value in trial.params.items()}
            text = to_config(params, names.values(), options, self._note)
        except ConfigError as error:
            log.warning("trial %d gets no config.yaml: %s", trial.number, error)
        else:
            write_text(file, text)

    def _tidy(self, trials: Trials, *, is_over: bool) -> None:
        busy = {trial.block for trial in trials.rows if trial.state == "running"}
        new = [
            trial
            for trial in trials.rows
            if trial.is_over
            and trial.number not in self._seen
            and (is_over or trial.state == "finished" or trial.block in busy)
        ]
        self._seen.update(trial.number for trial in new)
        # who has once been beaten stays beaten, so those without models need no second look
        having = [*self._kept, *(trial for trial in new if trial.state == "finished")]
        by_merit = sorted(having, key=lambda trial: (trial.merit, trial.number))
        chosen = {trial.number for trial in (*by_merit[: self._keep], *pareto_front(having))}
        dropped = [trial for trial in self._kept if trial.number not in chosen]
        self._kept = [trial for trial in having if trial.number in chosen]
        for trial in (*new, *dropped):
            try:
                folder = part_folder(self.root, trial.number)
                clear(folder, with_models=trial.number not in chosen)
            except OSError as error:
                log.warning("files of trial %d cannot be removed: %s", trial.number, error)


def _best_of(trials: Trials) -> Trial | None:
    """The first of the table, if it has finished."""
    finished = [trial for trial in trials.rows if trial.state == "finished"]
    lowest = min((trial.merit for trial in finished if trial.merit is not None), default=None)
    # of several merits one with the lowest first is on the front, but not each
    return next(iter(best_first([trial for trial in finished if trial.merit == lowest])), None)


def _about(trial: Trial) -> dict[str, Any]:
    names = ("number", "params", "merit", "merits", "metrics", "epochs", "seconds")
    return {name: getattr(trial, name) for name in names}
