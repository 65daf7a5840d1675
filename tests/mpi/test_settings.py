"""Numbers of a run that cannot be."""

import pytest

from nnlo.errors import ConfigError
from nnlo.mpi.settings import RunSettings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be a whole number of .*, got 0"),
        (
            {"validate_every": -1},
            "validate_every must be a whole number of .*, got -1",
        ),
        (
            {"checkpoint_interval": 0},
            "checkpoint_interval must be a whole number of .*, got 0",
        ),
        ({"seed": -1}, "seed must be a whole number, not negative, got -1"),
        ({"quorum": 0.0, "synchronous": True}, r"quorum must be in \(0, 1\], got 0.0"),
        ({"quorum": 1.5, "synchronous": True}, r"quorum must be in \(0, 1\], got 1.5"),
        ({"quorum": float("nan"), "synchronous": True}, r"quorum must be in \(0, 1\], got nan"),
        ({"quorum": 0.5}, "quorum must go with synchronous mode, got 0.5"),
        ({"epochs": 3}, "settings must be among checkpoint, .*, got epochs"),
        ({"zeta": 1, "alpha": 2}, "got alpha, zeta"),
    ],
)
def test_a_bad_setting_is_a_config_error_that_names_it(setting, message):
    with pytest.raises(ConfigError, match=message):
        RunSettings.make(**setting)


def test_good_settings_are_kept():
    settings = RunSettings.make(num_epochs=3, synchronous=True, quorum=0.95, seed=0)
    assert (settings.num_epochs, settings.quorum, settings.monitor) == (3, 0.95, "val_loss")
    assert RunSettings.make() == RunSettings()
