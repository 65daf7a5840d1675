"""What the KL divergence counts, over the epochs."""

from types import SimpleNamespace

import numpy as np
import pytest

from nnlo.errors import ConfigError
from nnlo.model.kl_schedule import KlSchedule, KlWeight, plan_kl
from nnlo.model.manifest import Manifest

EPOCHS = [0.0, 0.25, 0.5, 1.0, 2.0, 2.5, 3.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1]),
        ("constant:beta=0.5", [0.5] * 7),
        ("linear:epochs=2", [0, 0.125, 0.25, 0.5, 1, 1, 1]),
        ("linear: epochs=1 , beta=0.1", [0, 0.025, 0.05, 0.1, 0.1, 0.1, 0.1]),
        ("cyclical:epochs=2", [0, 0.25, 0.5, 1, 0, 0.5, 1]),
        ("cyclical:epochs=1,ramp=1,beta=2", [0, 0.5, 1, 0, 0, 1, 0]),
    ],
)
def test_beta_follows_its_schedule(text, expected):
    schedule = KlSchedule.parse(text)
    assert [schedule.at(epochs) for epochs in EPOCHS] == pytest.approx(expected)


def test_a_record_tells_the_value_before_a_cycle_begins_anew():
    assert KlSchedule.parse("cyclical:epochs=1").before(3) == pytest.approx(1.0)
    assert KlSchedule.parse("linear:epochs=4").before(1) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must read constant"),
        ("warmup", "must read constant"),
        ("linear", "say how many epochs"),
        ("linear:", "must read constant"),
        ("linear:5", "'5' is none of its numbers"),
        ("linear:epochs=five", "'five' is no number"),
        ("linear:epochs=5,epochs=6", "'epochs' is none"),
        ("constant:ramp=0.5", "'ramp' is none"),
        ("linear:epochs=0", "epochs of a KL schedule must be above 0"),
        ("linear:epochs=nan", "epochs of a KL schedule must be above 0"),
        ("cyclical:epochs=2,ramp=0", r"ramp of a KL schedule must be in \(0, 1\]"),
        ("constant:beta=-1", "beta of a KL schedule must not be negative"),
    ],
)
def test_a_wrong_text_is_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        KlSchedule.parse(text)


class Adapter:
    """Notes the weights that it is given."""

    def __init__(self):
        self.manifest = Manifest.pack([("a/w", (2,))], [("a/kl_weight", ()), ("b/kl_weight", ())])
        self.is_variational = True
        self.given = []

    def weigh_kl(self, weight):
        self.given.append(weight)


def test_the_weight_is_beta_over_all_samples_and_set_where_it_changes():
    adapter = Adapter()
    weight = KlWeight(adapter, KlSchedule("linear", epochs=1.0), 100)
    for epoch in range(2):
        for index in range(4):
            weight.begin(epoch, index, 4)
    assert adapter.given == pytest.approx([0.0, 0.0025, 0.005, 0.0075, 0.01])


def test_a_state_that_was_written_is_put_right_again():
    adapter = Adapter()
    weight = KlWeight(adapter, KlSchedule(), 100)
    weight.begin(0, 0, 4)
    for state in ([0.01, 0.01], [0.01 * (1 + 1e-7), 0.01], [0.01, 0.02], [np.nan, 0.01]):
        weight.state_came(np.float32([5, 5, *state]))
        weight.begin(0, 1, 4)
    assert adapter.given == [0.01, 0.01, 0.01]


def test_without_a_known_number_of_batches_the_epoch_before_tells_it():
    adapter = Adapter()
    weight = KlWeight(adapter, KlSchedule("linear", epochs=4.0), 1)
    for epoch in range(3):
        for index in range(4 if epoch else 2):
            weight.begin(epoch, index, None)
    assert [4 * value for value in adapter.given] == pytest.approx([0, 1, 1.5, 2, 2.25, 2.5, 2.75])


def test_a_schedule_for_a_model_without_such_layers_is_refused():
    plain = SimpleNamespace(is_variational=False)
    assert plan_kl(None, plain, 10) is None
    with pytest.raises(ConfigError, match="must go with a model that has variational layers"):
        plan_kl("constant", plain, 10)
    assert plan_kl(None, Adapter(), 10) == (KlSchedule(), 10)
