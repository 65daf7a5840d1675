"""Searches over real ranks: what blocks do, and what happens when something breaks in them."""

import json
import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from nnlo.optimize.study import read
from nnlo.optimize.trials import Trials
from tests.distributed.injector import ranks_of, send

pytestmark = pytest.mark.distributed

LIMIT_S = 100.0
PROGRAM = Path(__file__).with_name("searching.py")


@pytest.fixture
def pretend(launch, tmp_path):
    """Start a search of trials that sleep, on blocks of ranks; its folder is ``tmp_path/s``."""

    def begin(n_ranks, *options, **orders):
        words = [sys.executable, "-m", "nnlo.cli.launch", "-n", n_ranks, "--threads", 1, *options]
        return launch([*words, PROGRAM, tmp_path / "s", json.dumps(orders)])

    return begin


def records(folder):
    """Of a log that may be in the making."""
    file = folder / "study.log"
    return read(file) if file.is_file() else []


def ends(folder):
    """How each trial has ended, as often as it has."""
    found = [record for record in records(folder) if record["event"] in ("finished", "failed")]
    return Counter((record["trial"], record.get("kind", "finished")) for record in found)


def finished(n_trials, **but):
    """All of them, but for failures: t3="nan"."""
    failed = {int(name[1:]): kind for name, kind in but.items()}
    return Counter((trial, failed.get(trial, "finished")) for trial in range(n_trials))


def shares(output):
    """Of a core, by rank."""
    found = re.findall(r"rank (\d+) cpu ([\d.]+)", output)
    return {int(rank): float(share) for rank, share in found}


def fault(do, who=(0,), **more):
    return {"do": do, "who": list(who), **more}


@pytest.mark.alone
def test_no_rank_burns_a_core_while_trials_take_their_time(pretend, tmp_path):
    ended = pretend(5, trials=8, epochs=5, pace=0.4).ended(LIMIT_S)
    assert ended.code == 0, ended.output
    assert ends(tmp_path / "s") == finished(8)
    found = shares(ended.output)
    assert len(found) == 5
    assert found.pop(0) < 0.05
    assert max(found.values()) < 0.1, found  # of 4 s, with all that a start loads late


def test_verdicts_reach_a_block_while_it_trains(pretend, tmp_path):
    orders = {"trials": 6, "block_size": 3, "pruning": "asha", "epochs": 9, "refit": True}
    ended = pretend(7, **orders).ended(LIMIT_S)
    assert ended.code == 0, ended.output
    assert "refit done" in ended.output
    trials = Trials(read(tmp_path / "s" / "study.log")[1:])
    assert {trial.state for trial in trials.rows} == {"finished", "paused"}
    assert len(trials.rows) == 6


def test_a_trial_that_fails_is_recorded_and_the_others_go_on(pretend, tmp_path):
    faults = {
        1: fault("raise", [1]),
        2: fault("raise"),
        4: fault("nan"),
        5: fault("raise", [0, 1]),
    }
    ended = pretend(5, trials=7, block_size=2, faults=faults).ended(LIMIT_S)
    assert ended.code == 0, ended.output
    assert ends(tmp_path / "s") == finished(7, t1="error", t2="error", t4="nan", t5="error")


def test_a_fold_that_fails_ends_its_trial_only(pretend, tmp_path):
    faults = {1: fault("raise", fold=1), 2: fault("raise", [1], fold=0)}
    ended = pretend(5, trials=4, block_size=4, folds=2, faults=faults).ended(LIMIT_S)
    assert ended.code == 0, ended.output
    assert ends(tmp_path / "s") == finished(4, t1="error", t2="error")


def test_blocks_that_hang_end_the_job_but_not_the_search(pretend, tmp_path):
    faults = {1: fault("hang", [1]), 2: fault("hang")}
    ended = pretend(7, trials=6, block_size=2, trial_s=2.0, faults=faults).ended(LIMIT_S)
    assert ended.code == 3, ended.output
    assert ends(tmp_path / "s") == finished(6, t1="timeout", t2="timeout")
    hung = re.search(r"hung: \[(\d), (\d)\]", ended.output)
    assert hung, ended.output
    for block in hung.groups():
        assert f"block {block} (ranks " in ended.output


def test_a_search_whose_only_block_hangs_ends(pretend, tmp_path):
    run = pretend(2, trials=6, trial_s=1.0, faults={1: fault("hang")})
    assert run.ended(LIMIT_S).code == 3
    assert ends(tmp_path / "s") == Counter({(0, "finished"): 1, (1, "timeout"): 1})
    assert records(tmp_path / "s")[-1]["reason"] == "no block is left"


def test_a_disk_that_is_full_ends_all_ranks_with_one_message(pretend, tmp_path):
    ended = pretend(4, trials=1000, pace=0.01, room=9000).ended(LIMIT_S)
    assert ended.code == 4, ended.output
    assert len(ended.errors) == 1
    assert "the log of the search must be written to" in ended.errors[0]


def test_ranks_that_die_cost_no_trial(pretend, tmp_path):
    faults = {1: fault("kill", [1]), 2: fault("kill", [0]), 4: fault("kill", [0, 1])}
    orders = {"trials": 8, "block_size": 2, "pace": 0.2, "faults": faults}
    ended = pretend(7, "--fault-tolerant", **orders).ended(LIMIT_S)
    assert ended.code == 0, ended.output
    assert ends(tmp_path / "s") == finished(8)


def test_a_fold_that_loses_its_leader_is_trained_again(pretend, tmp_path):
    faults = {1: fault("kill", [0], fold=1)}
    orders = {"trials": 4, "block_size": 4, "folds": 2, "pace": 0.1, "faults": faults}
    ended = pretend(5, "--fault-tolerant", **orders).ended(LIMIT_S)
    assert ended.code == 0, ended.output
    assert ends(tmp_path / "s") == finished(4)


def test_what_is_left_of_a_block_leaves_where_it_cannot_train(pretend, tmp_path):
    faults = {1: fault("kill", [0], fold=1)}
    orders = {"trials": 5, "block_size": 2, "folds": 2, "pace": 0.1, "faults": faults}
    ended = pretend(5, "--fault-tolerant", **orders).ended(LIMIT_S)
    assert ended.code == 0, ended.output
    assert ends(tmp_path / "s") == finished(5)
    assert "leaves the search" in ended.output


def test_a_block_that_hangs_is_ended_where_the_others_go_on(pretend, tmp_path):
    orders = {"trials": 4, "trial_s": 1.5, "block_size": 2, "faults": {1: fault("hang")}}
    ended = pretend(5, "--fault-tolerant", **orders).ended(LIMIT_S)
    assert ended.code == 0, ended.output
    assert ends(tmp_path / "s") == finished(4, t1="timeout")


def test_the_death_of_rank_0_ends_all_with_one_message(pretend, tmp_path):
    run = pretend(5, "--fault-tolerant", trials=1000, block_size=2, pace=0.1)
    run.until(lambda: len(ends(tmp_path / "s")) > 2)
    send([ranks_of(run)[0]], signal.SIGKILL)
    ended = run.ended(60)
    assert len(ended.errors) == 1, ended.output
    assert "rank 0 must live until the search has ended" in ended.errors[0]


# The real driver ------------------------------------------------------------------------------


@pytest.fixture
def search(launch, digits, tmp_path):
    """Start OptimizationDriver on a model that breaks at some widths; its folder is ``HERE``."""

    def begin(n_ranks, *options, launcher=(), pause=0.0, breaks=None):
        words = [sys.executable, "-m", "nnlo.cli.launch", "-n", n_ranks, "--threads", 1, *launcher]
        lists = ["--train-data", digits / "train_digits.list"]
        lists += ["--val-data", digits / "test_digits.list", "--output", tmp_path / "runs"]
        model = ["--model", Path(__file__).with_name("breakable.py"), "--param", f"pause={pause}"]
        how = ["--batch", 50, "--hyper-opt", "random"]
        if "--tune" not in options:
            how += ["--tune", "width=8:64"]
        driver = ["-m", "nnlo.cli.optimize", *model, *lists, *how, *options]
        return launch([*words, *driver], NNLO_BREAKS=json.dumps(breaks or {}))

    return begin


@pytest.fixture
def here(tmp_path):
    return tmp_path / "runs" / "breakable-search"


def events(here, name):
    return [record for record in records(here) if record["event"] == name]


def once(here, n_trials):
    """Whether each trial has one end, a good one."""
    return ends(here) == finished(n_trials)


def test_trials_that_break_are_recorded_with_their_reasons(search, here):
    breaks = {"8": "raise", "16": "raise first", "24": "nan", "40": "build", "48": "memory"}
    options = ("--block-size", 2, "--epochs", 1, "--num-iterations", 7, "--trial-memory", 1.5)
    widths = ("--tune", "width=8,16,24,32,40,48,56", "--max-failures", 7)
    ended = search(5, *options, *widths, breaks=breaks).ended(LIMIT_S)
    assert ended.code == 0, ended.output
    params = {record["trial"]: record["params"]["width"] for record in events(here, "asked")}
    kinds = {params[one["trial"]]: one["kind"] for one in events(here, "failed")}
    assert kinds == {8: "error", 16: "error", 24: "nan", 40: "error", 48: "infeasible"}
    assert len(events(here, "finished")) == 2
    assert ended.output.count("ValueError: it breaks") >= 2


@pytest.mark.alone
def test_a_search_that_hangs_ends_with_the_blocks_that_do(search, here):
    options = ("--block-size", 2, "--epochs", 1, "--num-iterations", 3, "--trial-time", 8)
    run = search(5, *options, "--tune", "width=8,16,24", breaks={"8": "hang"})
    ended = run.ended(LIMIT_S)
    assert ended.code == 1, ended.output
    assert [one["kind"] for one in events(here, "failed")] == ["timeout"]
    assert len(events(here, "finished")) == 2
    assert re.search(r"got some of block \d that hang", ended.output)


LONG = ("--epochs", 5, "--checkpoint", "cp", "--checkpoint-interval", 1)


def test_a_warned_search_suspends_its_trials_and_goes_on(search, here):
    run = search(5, *LONG, "--block-size", 2, "--num-iterations", 3, pause=0.02)
    run.until(lambda: len(events(here, "reported")) > 3)
    run.process.send_signal(signal.SIGTERM)
    ended = run.ended(20)
    assert ended.code == 75, ended.output
    suspended = {record["trial"] for record in events(here, "suspended")}
    assert suspended
    anew = ("--block-size", 3, "--num-iterations", 3, "--opt-restore")
    more = search(4, *LONG, *anew, pause=0.02)
    assert more.ended(LIMIT_S).code == 0
    assert once(here, 3)
    later = [record for record in events(here, "started") if record["attempt"] > 1]
    assert {record["trial"] for record in later} == suspended
    assert all(record["from_epoch"] > 0 for record in later)


def test_a_killed_search_goes_on_without_a_word(search, here):
    run = search(4, *LONG, "--num-iterations", 6, launcher=("--max-restarts", 1), pause=0.01)
    run.until(lambda: len(events(here, "finished")) > 1)
    send([ranks_of(run)[0]], signal.SIGKILL)
    ended = run.ended(LIMIT_S)
    assert ended.code == 0, ended.output
    assert "restart 1 of 1 in 1 s on 4 ranks, from study.log" in ended.output
    assert once(here, 6)


def test_a_tolerant_search_loses_ranks_but_no_trials(search, here):
    options = ("--block-size", 3, "--num-iterations", 5, *LONG)
    run = search(7, *options, launcher=("--fault-tolerant",), pause=0.02)
    run.until(lambda: len(events(here, "reported")) > 3)
    ranks = ranks_of(run)
    send([ranks[2], ranks[4]], signal.SIGKILL)  # a worker, and the leader of the other block
    ended = run.ended(LIMIT_S)
    assert ended.code == 0, ended.output
    assert once(here, 5)


@pytest.mark.parametrize(
    ("n_ranks", "options", "words"),
    [
        (1, ("--num-iterations", 0), "--num-iterations must be at least 1"),
        (2, ("--tune", "depth=1:3"), "--tune must name an option of the training"),
        (3, ("--block-size", 3), "block sizes that fit are 1, 2"),
        (2, ("--train-data", "none.list"), "none.list"),
        (2, ("--opt-restore",), "--opt-restore must find a search"),
    ],
)
def test_what_cannot_be_searched_ends_all_ranks_with_one_message(search, n_ranks, options, words):
    ended = search(n_ranks, *options).ended(60)
    assert ended.code == 1, ended.output
    assert len(ended.errors) == 1, ended.output
    assert words in ended.errors[0]
