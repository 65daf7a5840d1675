"""The journal: what Optuna and optuna-dashboard make of it."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from nnlo.optimize.dimensions import Categorical, Integer, Real
from nnlo.optimize.optuna_mirror import Mirror
from nnlo.optimize.pruning import Asha, Median
from nnlo.optimize.space import Space
from nnlo.optimize.trials import Trials
from tests.optimize.simulated import Faults, Simulation

SPACE = Space(
    (Real("x", 0.0, 1.0), Integer("n", 1, 9, log=True), Categorical("kind", ("a", "b", None)))
)
HEADER = {"event": "header", "schema": 1, "merit": "val_loss", "seed": 0, "at": 1.75e9}


def records(pruner=None, n_trials=12) -> list[dict]:
    done = Simulation(3, n_trials, pruner=pruner or Asha(9), faults=Faults(error=0.3)).run()
    assert len({record["event"] for record in done.records}) >= 5
    return [HEADER, *({"at": 1.75e9 + i} | record for i, record in enumerate(done.records))]


def mirror(tmp_path, merits=("val_loss",)) -> Mirror:
    return Mirror(tmp_path / "optuna.log", "mnist", SPACE, merits)


def load(file):
    """Optuna's study of the file."""
    optuna = pytest.importorskip("optuna", reason="pip install optuna")
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    return optuna.load_study(study_name="mnist", storage=optuna.storages.JournalStorage(backend))


@pytest.mark.parametrize("pruner", [Asha(9), Median(9)])
def test_optuna_finds_every_trial_in_its_state(tmp_path, pruner):
    journal, told = mirror(tmp_path), records(pruner, 20)
    journal.rebuild(told)
    trials = load(journal.file).trials
    table = journal._journal._trials.rows
    names = {"finished": "COMPLETE", "failed": "FAIL", "paused": "PRUNED", "stopped": "PRUNED"}
    assert [one.state.name for one in trials] == [names[one.state] for one in table]
    assert [one.params for one in trials] == [one.params for one in table]
    assert [one.value for one in trials] == [one.merit for one in table]
    assert [one.intermediate_values for one in trials] == [
        one.curve | ({one.epochs: one.merit} if one.state == "finished" else {}) for one in table
    ]


def test_optuna_knows_ranges_reasons_times_and_blocks(tmp_path):
    journal = mirror(tmp_path)
    journal.rebuild(records())
    study = load(journal.file)
    failed = next(trial for trial in study.trials if trial.state.name == "FAIL")
    assert failed.user_attrs["reason"] == f"trial {failed.number} is broken"
    assert failed.user_attrs["block"] in range(3)
    ranges = {k: (d.low, d.high, d.log) for k, d in failed.distributions.items() if k != "kind"}
    assert ranges == {"x": (0.0, 1.0, False), "n": (1, 9, True)}
    assert failed.distributions["kind"].choices == ("a", "b", None)
    assert failed.duration.total_seconds() > 0
    assert study.metric_names == ["val_loss"]


def test_a_trial_under_way_runs_for_optuna_too(tmp_path):
    journal = mirror(tmp_path)
    started = next(i for i, one in enumerate(records()) if one["event"] == "started")
    journal.rebuild(records()[: started + 1])
    assert [trial.state.name for trial in load(journal.file).trials] == ["RUNNING"]


def test_a_suspended_trial_waits_for_those_who_read_the_journal(tmp_path):
    journal, done = mirror(tmp_path), Simulation(2, 9, interrupt_after=2).run()
    journal.rebuild([HEADER, *done.records])
    attrs = [trial.user_attrs for trial in load(journal.file).trials]
    assert [(one["state"], one["suspended"]) for one in attrs] == [("waiting", "a signal")] * 2


def test_followed_or_rebuilt_it_is_the_same_file(tmp_path):
    journal, told = mirror(tmp_path), records()
    journal.rebuild(told[:1])
    for record in told[1:]:
        journal.follow(record)
    followed = journal.file.read_bytes()
    journal.file.unlink()
    journal.rebuild(told)
    assert journal.file.read_bytes() == followed


@pytest.mark.parametrize("tail", [b"", b'{"op_code"', b"garbage\n", b"\0" * 9])
def test_a_torn_journal_is_made_good(tmp_path, tail):
    journal, told = mirror(tmp_path), records()
    journal.rebuild(told)
    whole = journal.file.read_bytes()
    for size in range(0, len(whole), 503):
        journal.file.write_bytes(whole[:size] + tail)
        journal.rebuild(told)
        assert journal.file.read_bytes() == whole
    assert len(load(journal.file).trials) == 12


def test_a_note_of_the_dashboard_outlives_the_rebuild(tmp_path):
    journal, told = mirror(tmp_path), records()
    journal.rebuild(told[:9])
    load(journal.file).set_user_attr("note", "looks fine")
    journal.rebuild(told)
    study = load(journal.file)
    assert study.user_attrs["note"] == "looks fine"
    assert len(study.trials) == 12


def test_paused_trials_run_again_when_the_search_is_restored(tmp_path):
    journal, told = mirror(tmp_path), records()
    journal.rebuild(told)
    more = Simulation(3, 30, pruner=Asha(9), past=[*told, {"event": "restored"}]).run().records
    journal.rebuild(more[: len(told) + 1])
    for record in more[len(told) + 1 :]:
        journal.follow(record)
    table = Trials(more).rows
    n_whole = sum(one.state == "finished" for one in table)
    states = [one.state.name for one in load(journal.file).trials]
    assert (len(states), states.count("COMPLETE")) == (30, n_whole)


def test_several_merits_are_several_values(tmp_path):
    asked = {"event": "asked", "trial": 0, "params": {"x": 0.5, "n": 2, "kind": None}}
    start = {"event": "started", "trial": 0, "block": 0, "attempt": 1, "to_epoch": 1}
    end = {"event": "finished", "trial": 0, "merit": 0.5, "merits": [0.5, 7.0], "metrics": {}}
    end |= {"epochs": 1, "seconds": 1.0, "files": {}}
    journal = mirror(tmp_path, ("val_loss", "time"))
    journal.rebuild([HEADER, asked, start, end])
    study = load(journal.file)
    assert study.best_trials[0].values == [0.5, 7.0]
    assert study.best_trials[0].params["kind"] is None


def test_a_disk_that_does_not_take_it_is_only_a_warning(tmp_path, caplog):
    journal, told = mirror(tmp_path / "file"), records()
    (tmp_path / "file").write_text("no folder")
    journal.rebuild(told[:5])
    journal.follow(told[5])
    assert caplog.text.count("cannot be written") == 1


def answer(url: str, process: subprocess.Popen, seconds: float = 60.0):
    """What the server says in JSON, once it is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return json.load(reply)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    return pytest.fail("optuna-dashboard did not answer")


@pytest.fixture
def dashboard(tmp_path):
    """The dashboard's own server of a journal of ours, on loopback."""
    program = shutil.which("optuna-dashboard", path=str(sys.prefix + "/bin"))
    if program is None:
        pytest.skip("pip install optuna-dashboard")
    journal = mirror(tmp_path)
    journal.rebuild(records())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--host", "127.0.0.1", "--port", str(port), str(journal.file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield lambda path: answer(f"http://127.0.0.1:{port}/api/{path}", process)
    process.kill()
    process.wait(20)


@pytest.mark.timeout(120)
def test_the_dashboard_lists_our_trials(dashboard):
    (summary,) = dashboard("studies")["study_summaries"]
    assert summary["study_name"] == "mnist"
    study = dashboard(f"studies/{summary['study_id']}?after=0")
    assert [trial["number"] for trial in study["trials"]] == list(range(12))
    states = {trial["state"] for trial in study["trials"]}
    assert {"Complete", "Fail", "Pruned"} <= states
    best = min(t["values"][0] for t in study["trials"] if t["state"] == "Complete")
    assert best == min(r["merit"] for r in records() if r["event"] == "finished")
