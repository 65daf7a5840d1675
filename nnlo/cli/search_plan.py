"""What OptimizationDriver searches, and how: from its options to the parts of a search."""

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from nnlo.cli.config_file import pairs
from nnlo.cli.optimize_options import OptimizeOptions, tunable
from nnlo.cli.search_log import in_words
from nnlo.cli.search_task import Measure, training_options
from nnlo.cli.train_options import ALGO, MODEL, STOP, TRAIN, TrainOptions
from nnlo.cli.training import make_algo, make_data
from nnlo.data.folds import read_classes, whole_data
from nnlo.errors import ConfigError
from nnlo.model import ModelBuilder
from nnlo.model.losses import metric_names, variational_names
from nnlo.mpi.stopping import EarlyStopping, Target, larger_is_better, metric_name
from nnlo.optimize.conductor import Hear
from nnlo.optimize.dimensions import Categorical, Dimension
from nnlo.optimize.events import Limits
from nnlo.optimize.fold_race import FoldRace
from nnlo.optimize.folds import Folds
from nnlo.optimize.forms import from_text
from nnlo.optimize.layout import Layout
from nnlo.optimize.merit import Merit, default_merit
from nnlo.optimize.pruning import Pruner, make_pruner
from nnlo.optimize.search import Plan
from nnlo.optimize.searcher import make_searcher
from nnlo.optimize.space import Params, Repair, Space
from nnlo.optimize.trials import Trial

_OF_THE_WORK = ("n_weights", "time_s", "samples_per_s", "samples", "version", "staleness")
"""Merits that are no metrics."""

_MANY_BLOCKS = 8

_TRIES = 30
"""Draws of a space that are looked at before the search begins."""


def make_space(options: OptimizeOptions, builder: ModelBuilder) -> tuple[Space, tuple[str, ...]]:
    """The space of a search, and which of its parameters are options of the training.

    Ranges of --tune come before those of the model, --param before both.
    """
    fixed = pairs("--param", options.param)
    tuned = [_as_text(from_text(text)) for text in options.tune]
    own = [one.name for one in tuned]
    _check_names(options, own, fixed, builder.parameter_names)
    ranges = builder.parameter_range
    model = Space.from_range(ranges, builder.parameter_names).dimensions if ranges else ()
    kept = [one for one in model if one.name not in (*own, *fixed)]
    space = Space((*kept, *tuned), _with(builder.repair, fixed))
    options_tuned = tuple(name for name in own if name in tunable())
    _try(options, space, options_tuned)
    return space, options_tuned


def _as_text(one: Dimension) -> Dimension:
    """The words that an option of the training takes, which might be read as something else:
    ``--tune worker_optimizer=none,adam``."""
    kinds = {entry.name: entry.metadata["kind"] for entry in fields(TrainOptions)}
    if kinds.get(one.name) is not str or not isinstance(one, Categorical):
        return one
    texts = [
        str(value).lower() if value is None or isinstance(value, bool) else value
        for value in one.categories
    ]
    return replace(one, categories=tuple(texts))


def _check_names(
    options: OptimizeOptions, tuned: Sequence[str], fixed: Params, arguments: Sequence[str]
) -> None:
    """Raise ConfigError for what --tune cannot search, or what has its value already."""
    known = tunable()
    for name in tuned:
        if name not in known and name not in arguments:
            raise ConfigError(
                f"--tune must name an option of the training ({', '.join(known)}) or an argument "
                f"of get_model ({', '.join(arguments) or 'none'}), got {name!r}"
            )
        if name in known and name in arguments:
            raise ConfigError(
                f"--tune must say what it searches, got {name}, an option of the training and an "
                "argument of get_model; rename the argument, or give its parameter_range"
            )
        if name in fixed:
            raise ConfigError(f"{name} must be given by --param or --tune, got both; drop one")
        if name in known and getattr(options, name) != getattr(OptimizeOptions, name):
            flag = name.replace("_", "-")
            raise ConfigError(f"{name} must be given by --{flag} or --tune, got both; drop one")


def _with(repair: Repair | None, fixed: Params) -> Repair | None:
    """``repair`` of the model's file, which knows the parameters that are not searched too."""
    if repair is None:
        return None

    def call(params: Params) -> Params | None:
        try:
            found = repair({**fixed, **params})
            found = found if found is None else dict(found)
        except Exception as error:  # code of the user's
            raise ConfigError(
                f"repair(params) must return parameters or None, got {error!r} for "
                f"{in_words(params)}; correct the model file"
            ) from error
        if found is None:
            return None
        return {name: value for name, value in found.items() if name not in fixed}

    return call


def _try(options: OptimizeOptions, space: Space, tuned: Sequence[str]) -> None:
    """Raise ConfigError for a range of which no option can be made."""
    kinds = {entry.name: entry.metadata for entry in fields(TrainOptions)}
    defaults = {entry.name: entry.default for entry in fields(TrainOptions)}
    for one in (one for one in space.dimensions if one.name in tuned):
        kind, choices = kinds[one.name]["kind"], kinds[one.name].get("choices")
        values = getattr(one, "categories", None) or [one.low, one.high]  # type: ignore[union-attr]
        for value in values:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = {
                int: isinstance(value, int) and is_number,
                float: is_number,
                bool: isinstance(value, bool),
            }.get(kind, isinstance(value, str) and (not choices or value in choices))
            if not fits and not (value is defaults[one.name] is None):
                wanted = ", ".join(choices) if choices else kind.__name__
                raise ConfigError(
                    f"--tune {one.name} must be of {wanted}, got {value!r}; correct the range"
                )
    rng = np.random.default_rng(0)
    for _ in range(_TRIES):
        params = space.sample(rng)
        try:
            make_algo(training_options(options, params, tuned))
        except ConfigError as error:
            if not tuned:
                raise
            raise ConfigError(
                f"all that --tune lets pass must go together, got {in_words(params)}: {error}; "
                "narrow the ranges, or reject it by repair(params) in the model's file"
            ) from error


def make_measure(
    options: OptimizeOptions, builder: ModelBuilder, *, has_val: bool
) -> tuple[Measure, tuple[str, ...]]:
    """How a training is judged, and what its merits are called."""
    own = builder.figure_of_merit
    if options.merit is None and own is not None:
        named = tuple(getattr(own, "names", ())) or ("figure_of_merit",)
        return Measure(None, own, named), named
    loss = options.loss or builder.loss
    measured = ("loss",) if loss is None else metric_names(loss, options.metrics or None)
    validates = has_val or options.n_fold > 1
    text = (
        default_merit(_with_val(measured, validates)) if options.merit is None else options.merit
    )
    names = tuple(part.strip() for part in text.split(","))
    merit = Merit.from_text(text, options.merit_epoch)
    if loss is not None:  # else the model alone knows its metrics
        _check_metrics(options, merit, measured, validates=validates)
    for one in names:
        if "-" not in one and ":" not in one and larger_is_better(one):
            raise ConfigError(
                f"a merit must be smaller where it is better, got {one}; write {one}:max, or "
                f"{one}:min if it is meant so"
            )
    return Measure(merit), names


def _with_val(names: Sequence[str], validates: bool) -> tuple[str, ...]:
    return (*names, *(f"val_{name}" for name in names if validates))


def _check_metrics(
    options: OptimizeOptions, merit: Merit, measured: Sequence[str], *, validates: bool
) -> None:
    """Raise ConfigError for a metric that no training will have."""
    known = _with_val(measured, validates)
    possible = _with_val(variational_names(measured), validates)

    def having(metric: str) -> Sequence[str]:
        # Those of a model with several outputs are numbered; whether there are variational
        # layers is known once a trial has built its model.
        metric = metric.strip()
        return (*known, metric) if re.sub(r"_\d+$", "", metric) in possible else known

    for term in merit.terms:
        if term.metric not in _OF_THE_WORK:
            metric_name(term.metric, having(term.metric))
    if options.best_metric != TrainOptions.best_metric:
        metric_name(options.best_metric, having(options.best_metric))
    if options.early_stopping:
        EarlyStopping.parse(options.early_stopping, having(options.early_stopping.split(",")[0]))
    if options.target_metric:
        Target.parse(options.target_metric, having(options.target_metric.split(",")[0]))


def make_folds(
    options: OptimizeOptions, builder: ModelBuilder, files: Sequence[str]
) -> Folds | None:
    """Which sample is held out in which fold; reads the data. None for a single fold."""
    if options.n_fold == 1:
        return None
    whole = whole_data(make_data(options, builder), files)
    counts = whole.count()
    try:
        if options.fold_by == "files":
            return Folds.over_files(counts, options.n_fold, seed=options.seed)
        classes = read_classes(whole)
        return Folds.over_samples(counts, options.n_fold, seed=options.seed, classes=classes)
    finally:
        whole.close()


def make_plan(
    options: OptimizeOptions,
    builder: ModelBuilder,
    space: Space,
    merit: tuple[str, ...],
    *,
    layout: Layout,
    restores: bool,
    begin: Callable[[], None],
    hear: Hear,
) -> Plan:
    """What rank 0 knows. Raises ConfigError for what cannot be searched so."""
    if options.plots and find_spec("matplotlib") is None:
        raise ConfigError("--plots must have matplotlib, got none; pip install 'nnlo[plots]'")
    more = {} if options.population is None else {"population": options.population}
    searcher = make_searcher(options.hyper_opt, space, options.seed, **more)
    pruner = _make_pruner(options, layout)
    limits = Limits(
        options.n_trials,
        target=options.target_objective,
        deadline=math.inf if options.search_time is None else options.search_time,
        trial_s=math.inf if options.trial_time is None else options.trial_time,
        max_failures=options.max_failures,
        n_ahead=_n_ahead(options, layout),
    )
    header: dict[str, Any] = {
        "model": builder.name,
        "code": getattr(builder, "digest", ""),
        "space": space.to_json(),
        "merit": ", ".join(merit),
        "merit_epoch": options.merit_epoch,
        "searcher": {"name": options.hyper_opt, **more},
        "seed": options.seed,
        "pruning": options.pruning,
        "epochs": options.epochs,
        "folds": {"n": options.n_fold, "at_once": layout.n_at_once, "by": options.fold_by},
        "training": _training(options),
        "command": sys.argv,
    }
    epochs = _refit_epochs(options) if options.refit else None
    return Plan(
        space,
        searcher,
        limits,
        pruner,
        merit,
        header,
        restores,
        begin,
        hear,
        refit_epochs=epochs,
    )


def _n_ahead(options: OptimizeOptions, layout: Layout) -> int:
    """One costs nothing in merit where so many trials run, and spares blocks to wait for an ask
    (benchmarks/search_blocks.py)."""
    if options.ask_ahead is not None:
        return options.ask_ahead
    return 1 if layout.n_blocks >= _MANY_BLOCKS else 0


def _training(options: OptimizeOptions) -> dict[str, Any]:
    """What else the merits of a search depend on, as far as it is not the default."""
    skipped = ("model", "epochs", "seed", "preload_data", "cache_data", "copy_command")
    return {
        entry.name: value
        for entry in fields(TrainOptions)
        if entry.metadata["group"] in (MODEL, TRAIN, ALGO, STOP) and entry.name not in skipped
        if (value := getattr(options, entry.name)) != entry.default
    }


def _make_pruner(options: OptimizeOptions, layout: Layout) -> Pruner:
    """Where folds run one after another it counts them, not epochs."""
    if layout.n_folds == 1 or layout.n_at_once > 1:
        return make_pruner(options.pruning, options.epochs)
    if options.pruning == "none":
        return FoldRace(layout.n_folds)
    return make_pruner(options.pruning, layout.n_folds)


def _refit_epochs(options: OptimizeOptions) -> Any:
    """For how long the best trial was best; all epochs where that is not known."""

    def of(trial: Trial) -> int:
        by_epochs = options.n_fold == 1 and options.merit_epoch == "best" and trial.curve
        if not by_epochs:
            return options.epochs
        return min(trial.curve, key=lambda epoch: (trial.curve[epoch], epoch))

    return of
