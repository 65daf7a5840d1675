"""One bar on a terminal, one line an epoch everywhere."""

import io
import logging
import sys
from types import SimpleNamespace

import pytest

from nnlo.cli.progress import Progress
from tests.mpi.jobs import Job


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "nnlo.cli.progress")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "nnlo.cli.progress"]


def test_an_epoch_is_one_line_with_its_metrics_and_speed(lines):
    job = Job(n_epochs=2, plan={"listeners": (Progress(2),)}).run()
    for number, (line, record) in enumerate(zip(lines(), job.history.epochs, strict=True), 1):
        assert line.startswith(f"epoch {number}/2: loss {record['loss']:.4f}, ")
        assert f"val_loss {record['val_loss']:.4f}, " in line
        assert line.endswith(f"{record['samples_per_s']:.0f} samples/s")
        assert "learning_rate" not in line


def test_verbose_adds_a_line_an_update(lines):
    Job(n_epochs=1, plan={"listeners": (Progress(1, verbose=True),)}).run()
    assert [line.split(":")[0] for line in lines()[:2]] == [
        "update 1, 4 samples",
        "update 2, 8 samples",
    ]
    assert len(lines()) == 6 + 1


def test_without_a_terminal_there_is_no_bar(monkeypatch, lines):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    Job(n_epochs=2, plan={"listeners": (Progress(2),)}).run()
    assert sys.stderr.getvalue() == ""
    assert len(lines()) == 2


def test_a_terminal_gets_a_bar_an_epoch(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    Job(n_epochs=2, plan={"listeners": (Progress(2),)}).run()
    shown = sys.stderr.getvalue()
    assert "epoch 1/2:   0%" in shown
    assert "epoch 2/2:   0%" in shown
    assert "0/23" in shown


def test_the_bar_follows_the_samples_of_the_epoch(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress(1)
    progress.begin(SimpleNamespace(n_samples=23), None)
    progress.epoch_began(0)
    for n_samples in (4, 8, 23):
        progress.updated(1, n_samples, {"loss": 0.5})
        assert progress._bar.n == n_samples
    bar = progress._bar
    progress.end()
    progress.end()
    assert bar.disable
    assert progress._bar is None


def test_the_pipe_of_a_rank_counts_as_a_terminal_where_nnlorun_has_one(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    for name, value in {"NNLO_TERMINAL": "1", "COLUMNS": "90", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    Job(n_epochs=2, plan={"listeners": (Progress(2),)}).run()
    assert "epoch 1/2" in stream.getvalue()
