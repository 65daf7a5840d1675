"""What a conductor makes of a block that has ended its order and takes no other."""

import pytest

from nnlo.optimize.wire import Order, Outcome, PartEnd
from tests.optimize.acted import Actor, prepared


class Orders:
    """The way to blocks that keep what they are given."""

    def __init__(self):
        self.given: dict[int, Order] = {}

    def order(self, block, order):
        self.given[block] = order

    def word(self, block, word): ...

    def dismiss(self, block): ...


@pytest.fixture
def office(tmp_path):
    """A conductor whose blocks 1 and 2 have trials 0 and 1, and their orders."""
    study, conductor = prepared(tmp_path, Actor())._open()
    orders = Orders()
    with study:
        for block in (1, 2):
            conductor.conclude(block, Outcome(), orders)
        yield conductor, orders


def leave(office, end):
    conductor, orders = office
    conductor.conclude(1, Outcome(0, 1, (end,), leaves=True), orders)
    return [(trial.number, trial.state) for trial in conductor.trials.rows], orders.given[1]


def test_a_whole_trial_of_a_block_that_leaves_is_kept(office):
    trials, last = leave(office, PartEnd("done", merits=(0.5,)))
    assert trials == [(0, "finished"), (1, "running")]
    assert last.trial == 0


def test_a_trial_in_which_ranks_hang_is_given_to_no_other_block(office):
    trials, _ = leave(office, PartEnd("failed", reason="silent", hangs=True))
    assert trials == [(0, "failed"), (1, "running")]
    assert office[0].trials[0].kind == "timeout"


def test_a_trial_for_which_too_few_ranks_are_left_waits_for_another_block(office):
    trials, _ = leave(office, PartEnd("failed", reason="two masters need three ranks"))
    assert trials == [(0, "waiting"), (1, "running")]
