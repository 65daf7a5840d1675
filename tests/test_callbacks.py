"""Callbacks by name: what a word means, and what is said about one that means nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

keras = pytest.importorskip("keras")

from nnlo.callbacks import Cosine, Schedule, Step, Warmup, _keras_classes, make_callbacks  # noqa: E402
from nnlo.errors import ConfigError  # noqa: E402
from nnlo.mpi.callbacks import KerasCallbacks  # noqa: E402
from tests.mpi.fakes import LinearModel  # noqa: E402
from tests.mpi.jobs import Job  # noqa: E402

NEEDED = {"csv_logger": "filename=log.csv", "model_checkpoint": "filepath=best.keras"}


@pytest.mark.parametrize(
    ("spec", "kind", "values"),
    [
        ("early_stopping:patience=5", keras.callbacks.EarlyStopping, {"patience": 5}),
        ("early-stopping", keras.callbacks.EarlyStopping, {"monitor": "val_loss"}),
        ("early_stopping:restore_best_weights=true", keras.callbacks.EarlyStopping, {}),
        ("reduce_lr_on_plateau:factor=0.5,min_lr=1e-5", keras.callbacks.ReduceLROnPlateau, {}),
        ("csv_logger:filename=a.csv,separator=;", keras.callbacks.CSVLogger, {"sep": ";"}),
        ("terminate_on_nan", keras.callbacks.TerminateOnNaN, {}),
        ("warmup:batches=500", Warmup, {"batches": 500, "start": 0.0}),
        ("cosine:epochs=20,final=0.01", Cosine, {"epochs": 20, "final": 0.01}),
        ("step:every=10,factor=0.1", Step, {"every": 10, "factor": 0.1}),
    ],
)
def test_a_word_makes_a_callback(spec, kind, values):
    (made,) = make_callbacks([spec])
    assert type(made) is kind
    assert {name: getattr(made, name) for name in values} == values


def test_values_are_read_as_python_or_as_text():
    (keep,) = make_callbacks(
        ["model_checkpoint:filepath=cp/{epoch:02d}-{val_loss:.2f}.keras,save_best_only=True"]
    )
    assert keep.filepath == "cp/{epoch:02d}-{val_loss:.2f}.keras"
    assert keep.save_best_only is True
    (stop,) = make_callbacks(["early_stopping:baseline=none,start_from_epoch=2,min_delta=1e-3"])
    assert (stop.baseline, stop.start_from_epoch, stop.min_delta) == (None, 2, 1e-3)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("early_stoping", "early_stopping.*step.*warmup, got 'early_stoping'"),
        ("early_stopping:patients=5", "early_stopping:monitor=val_loss,.*got an unknown patients"),
        ("reduce_lr_on_plateau:epsilon=1", "got an unknown epsilon"),
        ("csv_logger", "csv_logger:filename,separator=,.*got no filename"),
        ("reduce_lr_on_plateau:factor=2", "factor >= 1.0"),
        ("early_stopping:5", "NAME:KEY=VALUE,..., got '5'"),
        ("tensor_board", "use --tensorboard"),
        ("backup_and_restore", "--restore"),
        ("model_checkpoint:filepath=x.txt", r"must end in `\.keras`"),
        ("callback_list", "name its callbacks"),
        ("warmup", "got no batches"),
        ("warmup:batches=0.5", "batches of 1 or more, got 0.5"),
        ("warmup:batches=5,start=2", r"start in \[0, 1\], got 2"),
        ("cosine:epochs=0", "above 0, got 0"),
        ("cosine:final=2", "final"),
        ("step:every=0", "every at 1 epoch or more, got 0"),
        ("step:every=1,factor=0", "factor above 0, got 0"),
    ],
)
def test_a_word_without_sense_is_an_error_that_says_what_would_have(spec, said):
    with pytest.raises(ConfigError, match=said):
        make_callbacks([spec])


@pytest.mark.parametrize(
    "specs",
    [
        ("cosine", "step:every=2"),
        ("cosine", "warmup:batches=5", "reduce_lr_on_plateau"),
        ("warmup:batches=5", "warmup:batches=6"),
    ],
)
def test_two_that_would_undo_each_others_rate_are_an_error(specs):
    with pytest.raises(ConfigError, match="undo each other's learning rate"):
        make_callbacks(specs)


@pytest.mark.parametrize("name", sorted(_keras_classes().keys() - {"remote_monitor"}))
def test_each_class_of_keras_that_is_offered_works(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callbacks = make_callbacks([f"{name}:{NEEDED.get(name, '')}"])
    listener = KerasCallbacks(callbacks, LinearModel(), 3)
    job = Job(plan={"listeners": (listener,)}).run()
    assert job.history.epochs
    assert len(list(tmp_path.iterdir())) == (name in NEEDED)


def test_a_model_checkpoint_takes_the_ending_of_a_torch_file(tmp_path):
    (keep,) = make_callbacks([f"model_checkpoint:filepath={tmp_path}/best.pt,save_best_only=true"])
    job = Job(plan={"listeners": (KerasCallbacks([keep], LinearModel(), 3),)}).run()
    assert (tmp_path / "best.pt").read_bytes() == job.root.best.tobytes()


@pytest.mark.parametrize("wrong", [(3, "batches"), (abs, "samples")])
def test_a_schedule_needs_a_function_and_a_unit(wrong):
    with pytest.raises(ConfigError, match="got"):
        Schedule(*wrong)


def test_ours_need_no_keras():
    code = (
        "import sys; from nnlo.callbacks import make_callbacks as make;"
        "make(['warmup:batches=3', 'cosine']); make(['step:every=2']); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"keras", "tensorflow", "torch", "mpi4py"}.isdisjoint(done.stdout.split())


def test_what_the_guide_shows_can_be_made():
    guide = (Path(__file__).parents[1] / "docs" / "callbacks.md").read_text()
    lines = re.findall(r"--callbacks ((?:[a-z_]+(?::\S+)? ?)+)", guide)
    assert len(lines) >= 3
    assert all(make_callbacks(line.split()) for line in lines)
