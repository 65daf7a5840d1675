"""Callbacks named on the command line, on real ranks."""

import csv
import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("keras")

pytestmark = pytest.mark.distributed


def history(folder):
    return json.loads((folder / "runs" / "tiny-train" / "history.json").read_text())


def test_a_plateau_named_on_the_line_lowers_the_rate_of_a_torch_run(train, tmp_path):
    plateau = "reduce_lr_on_plateau:factor=0.5,patience=1,min_delta=100"
    files = ["csv_logger:filename=log.csv", "model_checkpoint:filepath={epoch}.pt"]
    ended = train(2, "--epochs", 5, "--learning-rate", 0.01, "--callbacks", plateau, *files)
    assert ended.code == 0, ended.output
    rates = [record["learning_rate"] for record in history(tmp_path)["epochs"]]
    assert rates[0] == rates[1] == 0.01
    assert rates[-1] <= 0.0025
    assert rates == sorted(rates, reverse=True)
    with (tmp_path / "log.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == [str(n) for n in range(5)]
    assert (tmp_path / "5.pt").is_file()


def test_local_rates_follow_a_schedule(train, tmp_path):
    local = ("--sync-every", 2, "--worker-optimizer", "sgd", "--worker-learning-rate", 0.05)
    still = train(2, "--epochs", 3, *local, "--callbacks", "step:every=1,factor=1e-9")
    assert still.code == 0, still.output
    losses = [record["val_loss"] for record in history(tmp_path)["epochs"]]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2] == pytest.approx(losses[1], rel=1e-6)


def test_every_rank_ends_with_one_message_about_a_callback(train):
    ended = train(2, "--callbacks", "early_stopping:monitor=val_los")
    assert ended.code != 0
    assert len(ended.errors) == 1
    assert "val_loss" in ended.errors[0]
