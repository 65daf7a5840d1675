"""Whatever a list of files, an option or a file of options holds: an NNLOError or success."""

import json
import logging
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nnlo.algo import MODES, OPTIMIZERS, Algo
from nnlo.checkpoint import CheckpointStore
from nnlo.cli.config_file import pairs
from nnlo.cli.options import parse
from nnlo.cli.rundir import RunDirectory
from nnlo.cli.train_options import TrainOptions
from nnlo.data import read_list
from nnlo.errors import CheckpointError, ConfigError, DataError
from nnlo.mpi.stopping import EarlyStopping, Target
from tests.fuzzing import VALUES, fuzz

KNOWN = ["loss", "accuracy", "val_loss", "val_accuracy", "disc/loss", "val_disc/loss"]


@pytest.fixture(autouse=True)
def quiet():
    """Thousands of damaged files need no warnings."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# List files --------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["a.h5", "./a.h5", "../a.h5", "..", "x://y", "://", "-o://", "#", "~", "/"]
)
LINES = st.lists(NAMES | st.text(max_size=20) | st.text("./\\a:-\0", max_size=9), max_size=4)


@fuzz(200)
@given(st.binary(max_size=200) | LINES.map(lambda lines: "\n".join(lines).encode()))
def test_list_files(folder, content):
    (folder / "a.h5").touch()
    (folder / "fuzz.list").write_bytes(content)
    with suppress(DataError):
        for file in read_list(folder / "fuzz.list"):
            assert "://" in file or Path(file).is_absolute()


@fuzz(100)
@given(st.text(max_size=30))
def test_names_of_list_files(folder, name):
    with suppress(DataError):
        read_list(name)
    with suppress(DataError):
        read_list(str(folder / "none") + name)


# Options -----------------------------------------------------------------------------------------

FIELDS = st.sampled_from([*TrainOptions.__dataclass_fields__, "config", "no-tensorboard", "x", ""])
TAGS = st.sampled_from(
    ["int", "float", "bool", "null", "timestamp", "binary", "omap", "pairs", "set", "str", "seq"]
)
ODD_YAML = st.tuples(TAGS, st.text(max_size=8)).map("epochs: !!{0[0]} {0[1]}".format)


def options_of(path, *line):
    """Options or an error; 2 is the code for a command line that cannot be understood."""
    try:
        return parse("fuzz", TrainOptions, "", ["--config", str(path), "--model", "m", *line])
    except SystemExit as error:
        raise {2: ConfigError("told already")}[error.code] from None


@fuzz(150)
@given(st.binary(max_size=100) | st.text(max_size=60).map(str.encode) | ODD_YAML.map(str.encode))
def test_config_files_of_any_bytes(folder, capsys, content):
    (folder / "fuzz.yaml").write_bytes(content)
    with suppress(ConfigError):
        assert options_of(folder / "fuzz.yaml").model == "m"


@fuzz(100)
@given(st.dictionaries(FIELDS, VALUES, max_size=4), st.sampled_from([json.dumps, yaml.safe_dump]))
def test_config_files_of_nearly_right_options(folder, capsys, content, dump):
    (folder / "fuzz.yaml").write_text(dump(content), errors="replace")
    with suppress(ConfigError):
        options = options_of(folder / "fuzz.yaml")
        with suppress(ConfigError):
            pairs("--param", options.param)
            pairs("--optimizer-params", options.optimizer_params)


@pytest.mark.parametrize(
    "text",
    [
        "&a [*a]",
        "epochs: &a [*a]",
        "param: &a {a: *a}",
        "[" * 100_000,
        "[" * 2000 + "!",
        '"\\ud800"',
        'model: "\\ud800"',
        '{"param": {"\\udc00": 1}}',
        "epochs: 2001-99-99",
        "epochs: !!timestamp x",
        "epochs: !!bool x",
        "epochs: !!int ''",
        "epochs: 0x" + "f" * 9000,
        "epochs: " + "9" * 9000,
        "a: &a [1]\nb: &b [*a, *a]\nepochs: [[[[*b]]]]",
        "? [1]\n: 2",
        "? {1: 2}\n: 2",
        "--- 1\n--- 2",
        "\0",
    ],
)
def test_config_files_that_have_been_trouble(folder, capsys, text):
    (folder / "fuzz.yaml").write_text(text)
    with pytest.raises(ConfigError):
        options_of(folder / "fuzz.yaml")
    with suppress(ConfigError):
        pairs("--param", [f"a={text}"])


@fuzz(150)
@given(st.lists(st.text(max_size=15) | st.text("a=[]{}&*!:,1e-", max_size=12), max_size=3))
def test_pairs(words):
    with suppress(ConfigError):
        pairs("--param", words)
    with suppress(ConfigError):
        pairs("--param", [f"a={word}" for word in words])


WORDS = ["1", "0", "-1", "0.5", "nan", "inf", "x", "[1]", "{a: 1}", "null", "true", "", "1e400"]
NUMBERS_OF = st.sampled_from(
    [
        *("learning_rate", "momentum", "beta_1", "epsilon", "nesterov", "sync_every", "staleness"),
        *("worker_optimizer", "worker_learning_rate", "clip_norm", "clip_value", "dc_lambda"),
        *("elastic_force", "elastic_momentum", "kappa", "gem_kappa", "scaling", "warmup", "x"),
    ]
)


@fuzz(400)
@given(
    st.sampled_from([*MODES]),
    st.none() | st.sampled_from([*OPTIMIZERS]),
    st.lists(st.tuples(NUMBERS_OF, st.sampled_from(WORDS)).map("=".join), max_size=3),
)
def test_numbers_of_algorithms(mode, optimizer, words):
    with suppress(ConfigError):
        algo = Algo(optimizer, mode=mode, **pairs("--mode-params", words))
        assert algo.worker(3, 2) is not None


@fuzz(100)
@given(st.text(max_size=12) | st.text("./a\0\n", max_size=5))
def test_names_of_runs_and_checkpoints_stay_in_the_output(folder, name):
    output = folder / "runs"
    with suppress(ConfigError):
        run = RunDirectory(str(output), "model", name)
        assert run.path.parent == output
        run.create(patience=0.0)
        run.close()
    with suppress(ConfigError, CheckpointError):
        base = RunDirectory(str(output), "model", "x").checkpoint(name)
        if base is not None and "/" not in name:
            assert base.parent.parent.parent == output
        CheckpointStore(base).newest()


# Early stopping, targets, callbacks --------------------------------------------------------------

NUMBERS = st.sampled_from(
    ["4", "0", "-1", "1e9", "nan", "inf", "1_0", "", " 2 ", "0.5", "9" * 5000]
)
PARTS = [
    st.sampled_from([*KNOWN, "val_acc", "disc:val_loss", "", "val_", "/", ":"])
    | st.text(max_size=6),
    st.sampled_from(["<", ">", "~<", "~>", "<=", ">=", "~", ""]) | st.text(max_size=2),
    NUMBERS | st.text(max_size=4),
    NUMBERS,
]
RULES = st.integers(0, 4).flatmap(lambda n: st.tuples(*PARTS[:n])).map(",".join) | st.text()
COSTS = st.lists(st.floats(width=32), max_size=12)


@fuzz(300)
@given(RULES, COSTS)
def test_early_stopping_and_targets(text, values):
    for kind in (EarlyStopping, Target):
        with suppress(ConfigError):
            rule = kind.parse(text, KNOWN)
            assert rule.reached(values) in (True, False)
            assert rule.metric in str(rule)
