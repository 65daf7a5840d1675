"""The best parameters as a file of options: what is read back is what was found."""

import pytest

from nnlo.cli.config_file import pairs
from nnlo.cli.options import parse
from nnlo.cli.train_options import TrainOptions
from nnlo.errors import ConfigError
from nnlo.report.best_config import to_config


def read(path, text):
    path.write_text(text)
    return parse("TrainingDriver", TrainOptions, "", ["--config", str(path)])


VALUES = {
    "count": 3,
    "big": 10**18,
    "rate": 1e-05,
    "huge": 1.5e300,
    "third": 1 / 3,
    "negative": -2.0,
    "flag": True,
    "off": False,
    "none": None,
    "word": "adam",
    "yes": "true",
    "void": "null",
    "list": "[1, 2]",
    "quotes": 'it\'s "so": a=b # c\n\ttab\\',
    "letters": "größe 𝜂 \x7f\x85\u2028",
    "empty": "",
    "date": "2020-01-01",
    "long": "word " * 100,
}


def test_arguments_of_get_model_keep_value_and_type(tmp_path):
    options = read(tmp_path / "best.yaml", to_config(VALUES, options={"model": "digits"}))
    found = pairs("--param", options.param)
    assert found == VALUES
    assert [type(one) for one in found.values()] == [type(one) for one in VALUES.values()]


def test_tuned_settings_are_options_by_their_names(tmp_path):
    params = {"n": 3, "learning_rate": 1e-05, "batch": 32, "mode": "easgd", "synchronous": True}
    tuned = ("learning_rate", "batch", "mode", "synchronous")
    text = to_config(params, tuned, {"model": "digits", "epochs": 7, "batch": 100})
    options = read(tmp_path / "best.yaml", text)
    assert (options.model, options.epochs, options.learning_rate) == ("digits", 7, 1e-05)
    assert (options.batch, options.mode, options.synchronous) == (32, "easgd", True)
    assert options.param == ("n=3",)


def test_found_arguments_replace_given_ones_and_others_stay(tmp_path):
    given = {"model": "digits", "param": ("n=1", "width=8")}
    options = read(tmp_path / "best.yaml", to_config({"n": 3}, options=given))
    assert pairs("--param", options.param) == {"width": 8, "n": 3}


def test_the_note_stands_in_comments(tmp_path):
    text = to_config({"n": 3}, options={"model": "digits"}, note="trial 4\nval_loss: 0.25")
    assert text.startswith("# trial 4\n# val_loss: 0.25\n")
    assert read(tmp_path / "best.yaml", text).param == ("n=3",)


@pytest.mark.parametrize("text", ["1", "1e-3", "nan", " 7 "])
def test_a_text_that_reads_as_a_number_is_refused(text):
    with pytest.raises(ConfigError, match="must not read as a number"):
        to_config({"kind": text})
