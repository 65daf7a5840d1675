"""Real trainings of a tiny model in one process, as parts of a trial."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from nnlo.algo import Algo  # noqa: E402
from nnlo.cli.resume import newest_whole  # noqa: E402
from nnlo.data import Data  # noqa: E402
from nnlo.errors import DataError, ModelError, RanksLost  # noqa: E402
from nnlo.model import ModelBuilder  # noqa: E402
from nnlo.mpi.manager import MPIManager  # noqa: E402
from nnlo.optimize.attempt import OUTCOME, Attempt, Part  # noqa: E402

EPOCHS, N_BATCHES = 4, 5


class Line(Data):
    """Twenty samples a file, in five batches."""

    def load_data(self, file: str) -> Any:
        x = np.random.default_rng(int(file)).normal(size=(20, 3)).astype(np.float32)
        return x, x @ np.float32([[1.0], [-2.0], [0.5]])


class Builder(ModelBuilder):
    def build_model(self) -> Any:
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))


class Task:
    """The user's side of a search. settings: of MPIManager. broken: raised by what it names."""

    def __init__(self, broken: Any = None, **settings: Any) -> None:
        self.settings = settings
        self.broken = broken or {}
        self.saved: list[bool] = []
        self.manager: MPIManager | None = None
        self.n_forgotten = 0

    def fail(self, where: str) -> None:
        if where in self.broken:
            raise self.broken[where]

    def make_manager(self, part: Part, listeners: Any) -> MPIManager:
        self.fail("make")
        data, builder = Line(4), Builder()
        data.watch = lambda: self.fail("batch")
        builder.build_model = lambda: self.fail("model") or Builder().build_model()
        base = part.folder / "checkpoints" / "pause"
        found = newest_whole(base, 0.0, EPOCHS)
        about = {
            "loss": "mse",
            "train_list": ["1"],
            "val_list": ["2"],
            "num_epochs": EPOCHS,
            "checkpoint": base,
            "checkpoint_interval": EPOCHS,
            "restore": found and found[0],
        }
        algo = Algo("adam", learning_rate=part.params["rate"])
        about |= {"listeners": listeners} | self.settings
        self.manager = MPIManager(None, data, algo, builder, **about)
        return self.manager

    def measure(self, history: Any, adapter: Any) -> tuple[float, ...]:
        self.fail("measure")
        return (min(history.values("val_loss")), float(adapter.manifest.n_trainable))

    def is_saved(self, epoch: int) -> bool:
        return epoch % 2 == 0

    def save(self, part: Part, manager: MPIManager, *, is_done: bool) -> dict[str, str]:
        self.fail("save")
        self.saved.append(is_done)
        return {"model": "there"} if is_done else {}

    def forget(self) -> None:
        self.n_forgotten += 1


class Voice:
    """Remembers reports. word: told once so many updates or epochs have asked."""

    def __init__(self, word: str = "", after: float = 0) -> None:
        self.word, self.after = word, after
        self.reports: list[Any] = []
        self.n_asked = 0

    def report(self, epoch, merits, metrics, *, saved=False, is_last=False):
        self.reports.append((epoch, merits, metrics, saved, is_last))

    def verdict(self) -> str:
        self.n_asked += 1
        return self.word if self.n_asked > self.after else ""

    @property
    def epochs(self) -> list[int]:
        return [epoch for epoch, *_, is_last in self.reports if not is_last]


def part(folder: Path, **changes: Any) -> Part:
    about = {"rate": 0.05}
    return Part(7, about, None, folder, **changes)


def done(folder: Path) -> tuple[Task, Voice, Any]:
    task, voice = Task(), Voice()
    return task, voice, Attempt(task)(part(folder), voice)


def test_each_epoch_is_reported_and_the_last_once_more(tmp_path):
    _, voice, _ = done(tmp_path)
    assert [(epoch, saved, is_last) for epoch, _, _, saved, is_last in voice.reports] == [
        *((1, False, False), (2, True, False), (3, False, False), (4, True, False)),
        (4, True, True),
    ]


def test_a_report_holds_the_merits_and_metrics_of_its_epoch(tmp_path):
    task, voice, _ = done(tmp_path)
    losses = task.manager.history.values("val_loss")
    for n, (_, merits, metrics, *_) in enumerate(voice.reports[:EPOCHS], 1):
        assert merits == (min(losses[:n]), 21.0)
        assert metrics["val_loss"] == losses[n - 1]
        assert "epoch" not in metrics


def test_the_end_tells_all_and_is_left_in_the_folder(tmp_path):
    task, voice, end = done(tmp_path)
    assert (end.state, end.epochs, end.files) == ("done", EPOCHS, {"model": "there"})
    assert end.merits == voice.reports[-1][1]
    assert json.loads((tmp_path / OUTCOME).read_text())["merits"] == list(end.merits)
    assert (task.saved, task.n_forgotten) == ([True], 1)


@pytest.mark.parametrize("fold", [None, 2])
def test_what_is_done_is_not_trained_again(tmp_path, fold):
    first = Attempt(Task())(part(tmp_path, fold=fold), Voice())
    task, voice = Task({"make": AssertionError("trained again")}), Voice()
    again = Attempt(task)(part(tmp_path, fold=fold), voice)
    assert again == first
    assert again.fold == (fold or 0)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"state": "done"}', '{"merits": [], "z": 1}'])
def test_a_damaged_outcome_is_no_outcome(tmp_path, text, caplog):
    (tmp_path / OUTCOME).write_text(text)
    with caplog.at_level(logging.WARNING, "nnlo"):
        assert done(tmp_path)[2].state == "done"
    assert "trained again" in caplog.text


@pytest.mark.parametrize("word", ["stop", "pause", "suspend"])
@pytest.mark.parametrize("after", [0, 3, 7, 11])
def test_a_verdict_ends_the_training_within_the_epoch(tmp_path, word, after):
    task, voice = Task(), Voice(word, after)
    end = Attempt(task)(part(tmp_path), voice)
    assert (end.state, end.reason) == ("left", word)
    assert task.saved == [False]
    assert task.manager.history.stopped == f"search: {word}"
    assert len(voice.epochs) <= 1 + after // N_BATCHES
    assert not (tmp_path / OUTCOME).exists()


def test_a_training_that_is_left_is_not_validated_once_more(tmp_path):
    task = Task()
    Attempt(task)(part(tmp_path), Voice("stop", 8))
    assert [one["epoch"] for one in task.manager.history.epochs] == [1]


@pytest.mark.parametrize("after", [0, 3, 5, 8, 14])
def test_the_next_attempt_goes_on_exactly(tmp_path, after):
    whole, whole_voice, end = done(tmp_path / "whole")
    folder, heard = tmp_path / "left", []
    for stop in (after, 5, float("inf")):
        task, voice = Task(), Voice("pause", stop)
        left = Attempt(task)(part(folder, from_epoch=len(heard)), voice)
        heard += [one[:2] for one in voice.reports if not one[-1]]
    assert left.state == "done"
    np.testing.assert_array_equal(task.manager.weights, whole.manager.weights)
    assert left.merits == end.merits
    assert heard == [one[:2] for one in whole_voice.reports[:-1]]


def test_epochs_that_were_not_heard_of_are_told_by_the_next_attempt(tmp_path):
    first, second = Voice("pause", 3 * N_BATCHES), Voice()
    Attempt(Task())(part(tmp_path), first)
    Attempt(Task())(part(tmp_path, from_epoch=1), second)
    n = first.epochs[-1]
    assert n > 1
    assert second.epochs == [2, 3, 4]
    assert [one[:2] for one in second.reports[: n - 1]] == [one[:2] for one in first.reports[1:]]


def test_what_has_all_its_epochs_is_done_whatever_the_verdict(tmp_path):
    task = Task()
    voice = Voice()
    told = voice.report

    def report(epoch, *args, **more):
        told(epoch, *args, **more)
        voice.word = "suspend" if epoch == EPOCHS else ""

    voice.report = report
    end = Attempt(task)(part(tmp_path), voice)
    assert (end.state, task.saved) == ("done", [True])


def test_epochs_without_validation_are_passed_over(tmp_path):
    voice = Voice()
    end = Attempt(Task(validate_every=2))(part(tmp_path), voice)
    assert voice.epochs == [2, 4]
    assert end.state == "done"


def test_a_training_that_ends_by_itself_is_done(tmp_path):
    task, voice = Task(target_metric="val_loss,<,1e9"), Voice()
    end = Attempt(task)(part(tmp_path), voice)
    assert (end.state, end.epochs) == ("done", 1)
    assert [one[-1] for one in voice.reports] == [False, True]


def test_a_training_on_all_data_has_no_merits(tmp_path):
    task, voice = Task(val_list=(), num_epochs=2), Voice()
    end = Attempt(task)(part(tmp_path, refit_epochs=2), voice)
    assert (end.state, end.epochs, end.merits) == ("done", 2, ())


@pytest.mark.parametrize(
    ("where", "error", "kind"),
    [
        ("make", ValueError("get_model is wrong"), "error"),
        ("model", ValueError("get_model is wrong"), "error"),
        ("model", MemoryError("64 GiB"), "infeasible"),
        ("make", ModelError("it must fit, got more"), "infeasible"),
        ("make", DataError("it must be there, got none"), "error"),
        ("batch", DataError("it must be there, got none"), "error"),
        ("batch", MemoryError("a rank must stay within"), "infeasible"),
        ("batch", RuntimeError("CUDA out of memory"), "infeasible"),
        ("batch", RuntimeError("no file in the ZOOM folder"), "error"),
        ("model", SystemExit("sys.exit() in get_model"), "error"),
        ("batch", RanksLost("too few are left"), "transient"),
        ("measure", ZeroDivisionError("no epochs"), "error"),
        ("save", OSError("disk full"), "error"),
    ],
)
def test_an_error_is_a_failure_with_its_reason(tmp_path, where, error, kind):
    task = Task({where: error})
    end = Attempt(task)(part(tmp_path), Voice())
    assert (end.state, end.kind) == ("failed", kind)
    assert str(error) in end.reason
    assert task.n_forgotten == 1
    assert not (tmp_path / OUTCOME).exists()


def test_a_loss_that_is_no_number_is_told_so(tmp_path):
    end = Attempt(Task())(Part(7, {"rate": 1e38}, None, tmp_path), Voice())
    assert (end.state, end.kind) == ("failed", "nan")


def test_the_next_part_is_trained_after_a_failure(tmp_path):
    task = Task({"batch": ValueError("once")})
    attempt = Attempt(task)
    assert attempt(part(tmp_path / "a"), Voice()).state == "failed"
    task.broken = {}
    assert attempt(part(tmp_path / "b"), Voice()).state == "done"
