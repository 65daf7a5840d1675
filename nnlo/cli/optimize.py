"""OptimizationDriver: search hyper-parameters, each trial trained on a block of ranks."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from nnlo import log as logs
from nnlo.cli.backend import check_backend, quiet_import
from nnlo.cli.config_file import pairs
from nnlo.cli.driver import drive, tell
from nnlo.cli.marks import code_of_end, count_restarts, mark_done, mark_search
from nnlo.cli.optimize_options import OptimizeOptions
from nnlo.cli.rundir import RunDirectory
from nnlo.cli.search_log import SearchLog
from nnlo.cli.search_plan import make_folds, make_measure, make_plan, make_space
from nnlo.cli.search_results import SearchResults
from nnlo.cli.search_task import Logged, TrialTask, option_names
from nnlo.cli.training import find_lists
from nnlo.errors import NNLOError, RanksLost
from nnlo.model import load_builder
from nnlo.mpi import link
from nnlo.mpi.setup import together
from nnlo.optimize.attempt import Attempt
from nnlo.optimize.events import NO_BLOCK
from nnlo.optimize.layout import Layout
from nnlo.optimize.search import Plan, Search
from nnlo.optimize.study import STUDY
from nnlo.optimize.trials import Record, Trials

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger("nnlo.cli.optimize")  # also where it runs as __main__, by python -m

PROG = "OptimizationDriver"
DESCRIPTION = (
    "Search the hyper-parameters of a model: rank 0 leads, blocks of the other ranks train one "
    "trial each, with any mode of TrainingDriver. One process trains them one after another."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command on this rank; returns its exit code, see ``driver.drive``. A search that a
    scheduler's signal has ended asks for another start by 75."""
    return drive(PROG, OptimizeOptions, DESCRIPTION, _run, argv)


def _run(options: OptimizeOptions, comm: "MPI.Intracomm | None") -> int:
    rank = 0 if comm is None else comm.rank
    check_backend()
    layout = Layout(1 if comm is None else comm.size, options.block_size, options.n_fold)
    role = _role(layout, rank)
    level = "debug" if options.verbose else options.log_level
    shown = level if rank == 0 or options.verbose else "warning"
    logs.set_up(role, level, shown=shown)
    fixed = pairs("--param", options.param)
    builder = together(comm, lambda: load_builder(options.model, **fixed))
    with quiet_import():
        name = together(comm, lambda: builder.name)  # runs the model's file, imports its backend
    folder = together(comm, lambda: RunDirectory(options.output, name, options.trial_name))
    together(comm, lambda: folder.create() if rank == 0 else None)
    kept = folder.log if rank == 0 else None
    together(comm, lambda: logs.set_up(role, level, kept, shown=shown))
    lists = together(comm, lambda: find_lists(options, builder) if rank == 0 else ([], []))
    folds = together(comm, lambda: make_folds(options, builder, lists[0]) if rank == 0 else None)
    if comm is not None:
        lists, folds = comm.bcast((lists, folds))
    measure, merit = together(comm, lambda: make_measure(options, builder, has_val=bool(lists[1])))
    space, tuned = together(comm, lambda: make_space(options, builder))
    task = TrialTask(options, builder, folder.path, tuned, lists, folds, measure)
    results = _results(task)

    def plan() -> Plan:
        about = (options, builder, space, merit)
        return make_plan(
            *about,
            layout=layout,
            restores=options.opt_restore or _was_started_again(folder),
            begin=lambda: _begin(task, folder, layout),
            hear=_both(SearchLog(options.n_trials), results),
        )

    search = Search(
        comm,
        folder.path,
        Logged(Attempt(task), role),
        together(comm, lambda: plan() if rank == 0 else None),
        block_size=options.block_size,
        n_folds=options.n_fold,
    )
    return _search(search, results, options, rank)


def _was_started_again(folder: RunDirectory) -> bool:
    return count_restarts(os.environ) > 0 and (folder.path / STUDY).exists()


def _begin(task: TrialTask, folder: RunDirectory, layout: Layout) -> None:
    """On rank 0, when the log is open."""
    options = task.options
    folder.write_config(options, {"n_ranks": layout.n_ranks})
    about = (task.builder.name, options.n_trials, layout.describe(), folder.path)
    log.info("%s: %d trials of %s; %s", *about)
    mark_search(folder.path / STUDY)


def _search(search: Search, results: SearchResults, options: OptimizeOptions, rank: int) -> int:
    """Search, write what has come of it; the exit code."""
    error: NNLOError | None = None
    text = ""
    try:
        search.run()
        if rank == 0:
            records = search.records() if options.plots else None
            text = results.finish(search.trials, records, tensorboard=options.tensorboard)
            _show(search, text)
            if search.reason == NO_BLOCK:
                raise RanksLost(
                    "a search must have a block, got the loss of all; go on with --opt-restore, "
                    "or let nnlorun --max-restarts 3 do that by itself"
                )
    except NNLOError as raised:  # the others must not wait for ever
        error = raised
    if search.hung:
        _end_all(search, error)
    search.close(error)
    if rank > 0:
        return 0
    code = _code(search)
    mark_done(code)
    return code


def _code(search: Search) -> int:
    code = code_of_end(search.interrupted or search.reason, has_checkpoint=True)
    has_failed = search.refit is not None and search.refit.state == "failed"
    return code or int(has_failed or search.is_broken)


def _end_all(search: Search, error: NNLOError | None) -> NoReturn:
    """Some ranks hang in code of the user's: nothing else can end them."""
    blocks = " and ".join(map(str, sorted(search.hung)))
    log.error(
        "all ranks must end, got some of block %s that hang: they are ended now; see the logs of "
        "the trials that they had",
        blocks,
    )
    code = tell(PROG, error) if error is not None else _code(search) or 1
    if error is None:
        mark_done(code)
    link.abort(code)
    raise AssertionError("MPI_Abort returned")


def _show(search: Search, text: str) -> None:
    log.info("the search has ended: %s", search.reason)
    if search.refit is not None and search.refit.state == "done":
        log.info("trained once more on all data: %s", ", ".join(search.refit.files.values()))
    elif search.refit is not None:
        log.warning("the training on all data has failed: %s", search.refit.reason)
    print(text, flush=True)


def _role(layout: Layout, rank: int) -> str:
    if layout.n_ranks == 1:
        return "search"
    return "search" if rank == 0 else f"block {layout.block_of(rank)}, rank {rank}"


def _results(task: TrialTask) -> SearchResults:
    options = task.options
    values = asdict(options)
    if task.lists[1] and options.best_metric == OptimizeOptions.best_metric:
        values["best_metric"] = task.measure.best_metric
    given = {
        entry.name: values[entry.name]
        for entry in fields(options)
        if values[entry.name] != entry.default
    }
    return SearchResults(
        task.root,
        given,
        partial(option_names, options, tuned=task.tuned),
        f"The best parameters of the search in {task.root}.",
        options.keep_models,
    )


def _both(told: SearchLog, results: SearchResults) -> Any:
    def hear(record: Record, trials: Trials) -> None:
        told(record, trials)
        ends = record["event"] in ("finished", "failed")
        if ends or (record["event"] == "reported" and record["verdict"] == "stop"):
            results.update(trials)

    return hear


if __name__ == "__main__":
    sys.exit(main())
