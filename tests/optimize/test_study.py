"""The log of a search: killed at any byte, written by one, restored as the same search."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from nnlo.errors import CheckpointError, ConfigError, DataError
from nnlo.optimize.pruning import Asha, Median, Never
from nnlo.optimize.study import Study, parse, read, unlike
from nnlo.optimize.trials import Trials
from tests.optimize.simulated import Faults, Guess, Simulation

HEADER = {"space": [{"name": "x"}], "merit": "val_loss", "searcher": "guess", "seed": 3}


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> bytes:
    """The bytes of a log with events of all kinds."""
    faults = Faults(error=0.2, nan=0.1, death=0.1)
    done = Simulation(3, 9, pruner=Asha(3), faults=faults).run()
    with Study.create(tmp_path_factory.mktemp("real"), HEADER) as study:
        for record in done.records:
            study.append(record)
    return study.file.read_bytes()


def put(folder, data: bytes):
    (folder / "study.log").write_bytes(data)
    return folder


def test_what_was_appended_is_read_back(tmp_path):
    asked = {"event": "asked", "trial": 0, "params": {"x": 0.1 + 0.2, "k": None, "b": True}}
    with Study.create(tmp_path, HEADER) as study:
        (written,) = study.append(asked)
    assert written == asked | {"at": pytest.approx(time.time(), abs=60)}
    with Study.open(tmp_path, HEADER) as study:
        assert study.trials[0].params == asked["params"]
        assert [record["event"] for record in study.records()] == ["header", "asked", "restored"]


def test_the_log_holds_every_kind_of_event(real):
    events = {json.loads(line)["event"] for line in real.splitlines()}
    assert {"asked", "started", "reported", "finished", "failed", "lost", "ended"} <= events


def test_a_log_cut_at_any_byte_gives_all_complete_records(real):
    records = [json.loads(line) for line in real.splitlines()]
    for size in range(len(real) + 1):
        # A line that lacks only its end of line is complete.
        n_whole = real[: size + 1].count(b"\n")
        assert parse(real[:size], Path("study.log")) == records[:n_whole]


def test_a_log_cut_at_any_byte_can_be_written_on(real, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda number: None)
    ends = [i for i in range(len(real)) if real[i : i + 1] == b"\n"]
    near = {end + step for end in ends for step in (-1, 0, 1, 2)} | set(range(0, len(real), 499))
    for size in sorted(near):
        before = [
            json.loads(line)
            for line in real[: size + (size in ends)].splitlines(True)
            if line.endswith(b"\n")
        ]
        with Study.open(put(tmp_path, real[:size]), HEADER) as study:
            study.append({"event": "ended", "reason": "test"})
        after = read(study.file)
        assert after[: len(before)] == before
        assert after[-1]["event"] == "ended"


@pytest.mark.parametrize(
    "tail",
    [
        b"\x00" * 512,
        b"garbage\n",
        b'{"event":"nonsense"}\n',
        b"\xff\xfe\n\n\n{",
        b"[" * 9999,
        b"7\n",
    ],
    ids=["zeros", "text", "unknown", "bytes", "deep", "number"],
)
def test_garbage_at_the_end_is_cut_off_and_kept(real, tmp_path, tail, caplog):
    with Study.open(put(tmp_path, real + tail), HEADER) as study:
        assert len(study.records()) == real.count(b"\n") + 1
    assert (tmp_path / "study.log.torn").read_bytes() == tail
    assert "cut off" in caplog.text


def test_damage_before_the_end_is_not_passed_over(real, tmp_path):
    lines = real.splitlines(keepends=True)
    lines[4] = lines[4][:-9] + b"\n"
    with pytest.raises(DataError, match="bad line 5"):
        Study.open(put(tmp_path, b"".join(lines)), HEADER)


def test_records_that_contradict_each_other_are_told(tmp_path):
    with (
        Study.create(tmp_path, HEADER) as study,
        pytest.raises(DataError, match="follow from each other"),
    ):
        study.append({"event": "started", "trial": 5, "block": 0, "attempt": 1, "to_epoch": 1})


def hold(folder, ready, leave):
    with Study.open(folder, HEADER):
        ready.set()
        leave.wait(20)


def test_one_process_writes_while_others_read(tmp_path):
    Study.create(tmp_path, HEADER).close()
    fork = multiprocessing.get_context("fork")
    ready, leave = fork.Event(), fork.Event()
    other = fork.Process(target=hold, args=(tmp_path, ready, leave))
    other.start()
    assert ready.wait(20)
    with pytest.raises(ConfigError, match=str(other.pid)):
        Study.open(tmp_path, HEADER)
    assert len(read(tmp_path / "study.log")) == 2
    leave.set()
    other.join(20)
    Study.open(tmp_path, HEADER).close()


@pytest.mark.parametrize("name", ["space", "merit", "searcher", "seed"])
def test_another_search_is_refused_and_told_apart(tmp_path, name):
    Study.create(tmp_path, HEADER).close()
    with pytest.raises(ConfigError, match=f'got {name} "else" instead of'):
        Study.open(tmp_path, HEADER | {name: "else"})


def test_more_trials_are_the_same_search(tmp_path):
    Study.create(tmp_path, HEADER | {"n_trials": 10}).close()
    with Study.open(tmp_path, HEADER | {"n_trials": 20}) as study:
        assert study.records()[-1]["n_trials"] == 20


def test_a_folder_with_a_search_is_no_place_for_a_new_one(tmp_path):
    Study.create(tmp_path, HEADER).close()
    with pytest.raises(ConfigError, match="--opt-restore"):
        Study.create(tmp_path, HEADER)


def test_a_folder_without_a_search_cannot_be_restored(tmp_path):
    with pytest.raises(ConfigError, match="has none"):
        Study.open(tmp_path, HEADER)


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    with Study.create(tmp_path, HEADER) as study:
        before = study.file.read_bytes()

        def write_a_piece(number: int, data: bytes, write=os.write) -> int:
            if len(data) < 10:
                raise OSError(28, "No space left on device")
            return write(number, data[:-5])

        monkeypatch.setattr(os, "write", write_a_piece)
        with pytest.raises(CheckpointError, match="No space left"):
            study.append({"event": "ended", "reason": ""})
        assert study.file.read_bytes() == before


def test_the_table_from_the_log_is_that_of_the_search(real, tmp_path):
    with Study.open(put(tmp_path, real), HEADER) as study:
        assert study.trials.rows == Trials(json.loads(line) for line in real.splitlines()).rows


def test_a_suspended_trial_waits_when_the_log_is_reopened_and_was_not_lost(tmp_path):
    done = Simulation(3, 9, interrupt_after=6).run()
    with Study.create(tmp_path, HEADER) as study:
        study.append(*done.records)
    with Study.open(tmp_path, HEADER) as study:
        waiting = [one for one in study.trials.rows if one.state == "waiting"]
    assert len(waiting) == 3
    assert {(one.n_lost, one.n_interrupted) for one in waiting} == {(0, 0)}


def test_a_number_that_json_does_not_know_is_refused(tmp_path):
    with Study.create(tmp_path, HEADER) as study, pytest.raises(ValueError, match="not JSON"):
        study.append({"event": "ended", "reason": float("nan")})


@pytest.mark.parametrize("pruner", [Never(2), Asha(9), Median(9)])
def test_every_proposal_of_a_log_can_be_proposed_again(pruner):
    faults = Faults(error=0.1, nan=0.1, death=0.1)
    part = Simulation(4, 40, pruner=pruner, faults=faults, stop_after=60).run()
    past = [*part.records, {"event": "restored"}]
    whole = Simulation(6, 40, pruner=pruner, faults=faults, past=past).run()
    assert unlike(whole.records, Guess()) == []
    assert len(unlike(whole.records, Guess(seed=1))) == 40


def write_for_ever(folder):
    with Study.open(folder, HEADER) as study:
        while True:
            study.append({"event": "asked", "trial": len(study.trials), "params": {"x": 0.5}})


def test_a_writer_that_is_killed_again_and_again_loses_nothing(tmp_path):
    Study.create(tmp_path, HEADER).close()
    fork = multiprocessing.get_context("fork")
    n_before = 0
    for i in range(8):
        writer = fork.Process(target=write_for_ever, args=(tmp_path,))
        writer.start()
        writer.join(0.05 + 0.013 * i)
        writer.kill()
        writer.join(20)
        asked = [one for one in read(tmp_path / "study.log") if one["event"] == "asked"]
        assert [one["trial"] for one in asked] == list(range(len(asked)))
        assert len(asked) >= n_before
        n_before = len(asked)
    assert n_before > 0
