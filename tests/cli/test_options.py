"""The command line and its file: what is understood, what wins, what is refused."""

import json
from dataclasses import asdict, fields

import pytest

from nnlo.cli.config_file import pairs
from nnlo.cli.options import make_parser, parse
from nnlo.cli.train_options import TrainOptions
from nnlo.errors import ConfigError


def told(*words):
    return parse("TrainingDriver", TrainOptions, "", ["--model", "digits", *words])


def from_file(path, content, *words):
    path.write_text(content)
    return parse("TrainingDriver", TrainOptions, "", ["--config", str(path), *words])


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        parse("TrainingDriver", TrainOptions, "", ["--model", "digits", *words])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_only_a_model_is_needed():
    assert told() == TrainOptions(model="digits")
    assert (told().epochs, told().batch, told().mode) == (10, 100, "downpour")
    with pytest.raises(ConfigError, match="a model must be named, got none; give --model"):
        parse("TrainingDriver", TrainOptions, "", [])


def test_values_have_the_type_of_their_option():
    options = told("--epochs", "3", "--learning-rate", "1e-3", "--synchronous", "--quorum", ".9")
    assert (options.epochs, options.learning_rate) == (3, 1e-3)
    assert (options.synchronous, options.quorum) == (True, 0.9)


def test_lists_take_several_words():
    options = told("--param", "a=1", "b=x", "--metrics", "accuracy", "mse", "--seed", "4")
    assert options.param == ("a=1", "b=x")
    assert options.metrics == ("accuracy", "mse")
    assert hash(options)


@pytest.mark.parametrize("name", ["--train_data", "--train-data", "--train-d", "--train_d"])
@pytest.mark.parametrize("form", ["apart", "joined"])
def test_names_may_have_underscores_or_be_cut_short(name, form):
    words = [name, "my_files.list"] if form == "apart" else [f"{name}=my_files.list"]
    assert told(*words).train_data == "my_files.list"


def test_the_abbreviations_that_users_know_work():
    rule = "val_loss,~<,4"
    assert told("--early", rule).early_stopping == rule
    options = told("--checkpoint", "CP", "--checkpoint-int", "1")
    assert (options.checkpoint, options.checkpoint_interval) == ("CP", 1)
    assert told("--target", "val_acc,>,0.97").target_metric == "val_acc,>,0.97"


def test_an_ambiguous_abbreviation_names_the_choices(capsys):
    assert "--clip-norm, --clip-value" in refusal(capsys, "--clip", "1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--optimizer", "sdg"], "argument --optimizer: invalid choice: 'sdg'"),
        (["--epoch-count", "3"], "unrecognized arguments: --epoch-count"),
        (["--loss"], "argument --loss: expected one argument"),
        (
            ["--synchronous=no"],
            "--no-synchronous: ignored explicit argument 'no'",
        ),
    ],
)
def test_a_line_that_cannot_be_understood_ends_with_code_2(words, message, capsys):
    assert message in refusal(capsys, *words)


def test_only_the_first_rank_complains(capsys, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert refusal(capsys, "--epochs", "many") == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quorum", "0.9"], "--quorum must go with --synchronous"),
        (["--checkpoint-interval", "2"], "--checkpoint-interval must go with --checkpoint"),
        (["--copy-command", "cp {} {}"], "--copy-command must go with --cache-data"),
        (["--staleness", "inverse", "--synchronous"], "--staleness must go with asynchronous"),
    ],
)
def test_an_option_without_effect_is_an_error(words, message):
    with pytest.raises(ConfigError, match=message):
        told(*words)


def test_a_file_stands_for_the_line_and_the_line_wins(tmp_path):
    content = "model: digits\nepochs: 3\nlearning-rate: 1e-3\nsynchronous: true\nseed: 0\n"
    options = from_file(tmp_path / "run.yaml", content, "--epochs", "5")
    assert options == TrainOptions(
        model="digits", epochs=5, learning_rate=1e-3, synchronous=True, seed=0
    )


def test_lists_of_the_line_replace_those_of_the_file(tmp_path):
    content = "model: digits\nmetrics: [accuracy, mse]\ncallbacks: ['warmup:batches=5']\n"
    options = from_file(tmp_path / "run.yaml", content, "--metrics", "mae")
    assert options.metrics == ("mae",)
    assert options.callbacks == ("warmup:batches=5",)


def test_of_named_values_the_line_replaces_those_of_the_same_name(tmp_path):
    content = "model: digits\nparam: {a: 1, b: x}\n"
    options = from_file(tmp_path / "run.yaml", content, "--param", "c=2", "b=y")
    assert options.param == ("a=1", "c=2", "b=y")
    assert from_file(tmp_path / "run.yaml", content).param == ("a=1", "b=x")


def test_nothing_in_a_file_means_the_default(tmp_path):
    content = "model: digits\nloss: null\nsynchronous: false\nparam: {}\nmetrics: []\n"
    assert from_file(tmp_path / "run.yaml", content) == TrainOptions(model="digits")


def test_json_is_understood(tmp_path):
    content = json.dumps({"model": "digits", "clip_norm": 1.5, "early-stopping": "val_loss,<,2"})
    options = from_file(tmp_path / "run.json", content)
    assert (options.clip_norm, options.early_stopping) == (1.5, "val_loss,<,2")


def test_the_config_of_a_run_gives_the_same_run(tmp_path):
    words = ["--param", "a=1", "--epochs", "4", "--synchronous", "--quorum", "0.5", "--seed", "3"]
    options = told(*words, "--optimizer-params", "momentum=0.9", "--optimizer", "sgd")
    config = json.dumps({"options": asdict(options), "command": ["x"], "n_ranks": 3})
    assert from_file(tmp_path / "config.json", config) == options


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3", "--config must hold options that exist, got epoch in .*; see --help"),
        ("config: other.yaml", "options that exist, got config"),
        ("- model", "--config must hold options and their values, got no mapping"),
        ("", "got no mapping"),
        ("model: [", "--config must be a readable YAML file"),
    ],
)
def test_a_bad_file_is_a_config_error(content, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        from_file(tmp_path / "run.yaml", content)


def test_a_file_that_is_not_there_or_not_text_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"readable YAML file, got .*No such file"):
        told("--config", str(tmp_path / "none.yaml"))
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n\xff\xfe")
    with pytest.raises(ConfigError, match="readable YAML file"):
        told("--config", str(tmp_path / "x.h5"))


def test_nothing_in_a_file_is_executed(tmp_path):
    content = f"model: !!python/object/apply:os.mkdir ['{tmp_path / 'exploded'}']"
    with pytest.raises(ConfigError, match="readable YAML file"):
        from_file(tmp_path / "run.yaml", content)
    assert not (tmp_path / "exploded").exists()


def test_a_bad_value_in_a_file_ends_with_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit):
        from_file(tmp_path / "run.yaml", "model: digits\nepochs: many")
    assert "argument --epochs: invalid int value: 'many'" in capsys.readouterr().err


def test_help_has_every_option_in_its_group_with_its_default(capsys):
    with pytest.raises(SystemExit):
        told("--help")
    text = " ".join(capsys.readouterr().out.split())
    groups = ["model and data", "training", "algorithm", "stopping", "output and checkpoints"]
    assert [text.find(f"{name}:") for name in groups] == sorted(
        text.find(f"{name}:") for name in groups
    )
    for entry in fields(TrainOptions):
        assert f"--{entry.name.replace('_', '-')}" in text
        if isinstance(entry.default, int | float | str) and entry.default:
            assert f"(default: {entry.default})" in text, entry.name


def test_every_option_of_the_parser_is_a_field():
    parser = make_parser("x", TrainOptions, "")
    names = {action.dest for action in parser._actions} - {"help", "version", "config"}
    assert names == {entry.name for entry in fields(TrainOptions)}


def test_pairs_are_read_as_yaml_scalars():
    words = ["a=1", "b=1e-3", "c=x=y", "d=true", "e=[1, 2]", "f=", "g=0.5", "h=relu"]
    assert pairs("--param", words) == {
        **{"a": 1, "b": 1e-3, "c": "x=y", "d": True, "e": [1, 2]},
        **{"f": None, "g": 0.5, "h": "relu"},
    }


@pytest.mark.parametrize("word", ["a", "=1", "1a=2", "a b=3", "a=[1", "a-b=1"])
def test_a_pair_that_is_none_is_a_config_error(word):
    with pytest.raises(ConfigError, match="--param must read NAME=VALUE, got "):
        pairs("--param", [word])
