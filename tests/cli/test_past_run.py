"""What is read of a run's folder."""

import json
from dataclasses import asdict

import pytest

from nnlo.bayes import store
from nnlo.cli.past_run import PastRun
from nnlo.cli.train_options import TrainOptions
from nnlo.errors import CheckpointError, ConfigError


def opened(folder, **options):
    (folder / "config.json").write_text(json.dumps({"options": options}))
    return PastRun.open(folder)


def test_options_are_those_that_were_written(tmp_path):
    options = TrainOptions(
        model="net", mode="svgd", particles=3, learning_rate=1, mode_params=("prior=2",)
    )
    assert opened(tmp_path, **asdict(options)).options == options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 3),
        ("batch", "x"),
        ("batch", None),
        ("param", [1]),
        ("epochs", True),
        ("mode", []),
    ],
)
def test_values_of_other_types_are_an_error_that_names_the_file(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"config.json .*{name} is"):
        opened(tmp_path, **({"model": "net"} | {name: value}))


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="RUN must be the folder of a run"):
        PastRun.open(tmp_path)


def test_particles_of_an_earlier_run_in_the_folder_are_refused(tmp_path):
    about = {"kind": "ensemble", "n_particles": 1, "seed": 0}
    store.save(None, tmp_path / "posterior", {0: {}}, about)
    run = opened(tmp_path, model="net", mode="svgd", particles=1)
    with pytest.raises(CheckpointError, match="svgd of 1 and seed 0, got ensemble of 1"):
        run.posterior(None)
