"""The history of a run as a file."""

import json

import pytest

from nnlo.errors import CheckpointError
from nnlo.history import History

EPOCHS = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "val_loss": 0.125}]


def test_a_history_comes_back_from_its_text():
    best = {"metric": "val_loss", "value": 0.125, "epoch": 2}
    ranks = {"1": [{"epoch": 1, "samples": 12}]}
    history = History(EPOCHS, ranks, best, "epochs", 1.5)
    assert History.from_json(history.to_json()) == history


def test_the_file_is_json_with_the_documented_keys(tmp_path):
    History(EPOCHS).save(tmp_path / "run" / "history.json")
    content = json.loads((tmp_path / "run" / "history.json").read_text())
    keys = {"schema", "epochs", "ranks", "particles", "best", "stopped", "train_time_s"}
    assert set(content) == keys
    assert content["schema"] == 1
    assert content["epochs"] == EPOCHS
    assert content["best"] is None


def test_numbers_come_back_to_the_last_bit():
    value = 0.1 + 0.2
    history = History([{"epoch": 1, "loss": value}], train_time_s=value)
    again = History.from_json(history.to_json())
    assert again.epochs[0]["loss"] == again.train_time_s == value


def test_values_are_those_of_the_epochs_that_have_the_metric():
    assert History(EPOCHS).values("loss") == [0.5, 0.25]
    assert History(EPOCHS).values("val_loss") == [0.125]
    assert History(EPOCHS).values("accuracy") == []


def test_two_histories_share_nothing():
    History().epochs.append({"epoch": 1})
    assert History().epochs == []


def test_books_join_with_one_row_an_epoch():
    one, other = History(), History()
    one.add_to_rank(2, 1, 10, {"loss": 20.0}, steps=1, busy_s=0.5, wait_s=0.0)
    other.add_to_rank(2, 1, 30, {"loss": 0.0}, steps=3, busy_s=1.0, wait_s=0.5)
    other.add_to_rank(2, 2, 40, {"loss": 4.0}, steps=4, busy_s=1.0, wait_s=0.5)
    one.add_ranks(other.ranks)
    assert [(row["epoch"], row["samples"], row["steps"]) for row in one.ranks["2"]] == [
        (1, 40, 4),
        (2, 40, 4),
    ]
    assert [row["loss"] for row in one.ranks["2"]] == [0.5, 0.1]
    assert one.ranks["2"][0]["busy_s"] == 1.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        '{"schema": 2}',
        '{"other": 1}',
        '{"epochs": {}}',
        '{"epochs": [{"loss": 1}]}',
        '{"ranks": {"x": []}}',
        '{"ranks": {"1": [{"epoch": 1}]}}',
        '{"best": {"metric": 3, "value": 1, "epoch": 1}}',
        '{"stopped": null}',
    ],
)
def test_a_text_that_is_no_history_is_an_error(text):
    with pytest.raises(CheckpointError, match="history must be the JSON text"):
        History.from_json(text)
