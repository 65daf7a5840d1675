"""Which rank holds which particles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnlo.bayes.placement import Placement
from nnlo.errors import ConfigError


@given(st.integers(1, 12), st.integers(1, 4), st.data())
def test_every_particle_is_in_one_group_and_parts_are_even(n_groups, group_size, data):
    n = data.draw(st.integers(n_groups, 40))
    placement = Placement(n, n_groups * group_size, group_size)
    leaders = range(0, n_groups * group_size, group_size)
    parts = [placement.pids(rank) for rank in leaders]
    assert [pid for part in parts for pid in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(pid in placement.pids(placement.owner(pid)) for pid in range(n))


def test_ranks_of_a_group_hold_the_same_particles():
    placement = Placement(5, 6, 3)
    assert placement.pids(3) == placement.pids(4) == placement.pids(5) == range(2, 5)
    assert [placement.member(rank) for rank in range(6)] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1), "at least 1, got 0"),
        ((4, 2, 0), "at least 1, got 4 and 0"),
        ((4, 3, 2), "groups of 2, got 3; start 2"),
        ((4, 1, 2), "groups of 2, got 1; start 2"),
        ((2, 3, 1), "2 particles for 3 groups; start at most 2 ranks"),
    ],
)
def test_what_cannot_be_placed_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Placement(*arguments)


def test_it_says_what_is_where():
    assert Placement(8).describe() == "8 particles in one process"
    assert Placement(8, 4).describe() == "8 particles on 4 ranks, 2 each"
    assert Placement(7, 4, 2).describe() == "7 particles on 2 groups of 2 ranks, at most 4 each"
