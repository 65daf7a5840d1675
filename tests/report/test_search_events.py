"""Trials as TensorBoard reads them."""

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from nnlo.optimize.trials import Trial
from nnlo.report.search_events import write_hparams

PARAMS = {"rate": 1e-3, "n": 4, "kind": "adam", "bias": True, "other": None}


def trial(number, **fields):
    given = {"state": "finished", "params": PARAMS, "merit": 0.25, "epochs": 3} | fields
    return Trial(number, **given)


def values(folder):
    """All summaries in the event file of a folder; its records are length, crc, data, crc."""
    (file,) = folder.iterdir()
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        found += Event.FromString(data[at + 12 : at + 12 + size]).summary.value
        at += size + 16
    return found


def test_each_finished_trial_has_its_parameters_and_results(tmp_path):
    trials = [trial(0, metrics={"val_acc": 0.5}), trial(1, state="failed", merit=None)]
    assert write_hparams(trials, tmp_path) == [tmp_path / "trial-0000"]
    by_tag = {one.tag: one for one in values(tmp_path / "trial-0000")}
    start = by_tag["_hparams_/session_start_info"].metadata.plugin_data.content
    told = HParamsPluginData.FromString(start).session_start_info.hparams
    assert told["rate"].number_value == pytest.approx(1e-3, rel=1e-6)
    assert (told["n"].number_value, told["kind"].string_value) == (4, "adam")
    assert (told["bias"].bool_value, told["other"].string_value) == (True, "None")
    assert (by_tag["merit"].simple_value, by_tag["metric/val_acc"].simple_value) == (0.25, 0.5)


def test_several_merits_and_the_curve_have_names(tmp_path):
    write_hparams([trial(7, merits=(0.25, 4.0), curve={1: 0.5, 2: 0.25})], tmp_path)
    found = [(one.tag, one.simple_value) for one in values(tmp_path / "trial-0007")[3:]]
    curve = [("merit_by_epoch", 0.5), ("merit_by_epoch", 0.25)]
    assert found == [("merit_1", 0.25), ("merit_2", 4.0), *curve]


def test_only_new_trials_are_written_again(tmp_path):
    write_hparams([trial(0)], tmp_path)
    assert write_hparams([trial(0), trial(1)], tmp_path) == [tmp_path / "trial-0001"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["trial-0000", "trial-0001"]


def test_what_a_kill_left_half_written_is_written_again(tmp_path, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", kill)
        with pytest.raises(KeyboardInterrupt):
            write_hparams([trial(0)], tmp_path)
    assert write_hparams([trial(0)], tmp_path) == [tmp_path / "trial-0000"]
    assert [one.name for one in tmp_path.iterdir()] == ["trial-0000"]
