"""Which sizes of blocks fit, and who trains what."""

import pytest

from nnlo.errors import ConfigError
from nnlo.optimize.layout import Layout, cut


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 6, 12])
def test_every_rank_but_the_first_is_in_one_block(block_size):
    layout = Layout(13, block_size)
    members = [rank for block in range(1, layout.n_blocks + 1) for rank in layout.members(block)]
    assert members == list(range(1, 13))
    assert all(rank in layout.members(layout.block_of(rank)) for rank in members)


@pytest.mark.parametrize(
    ("n_ranks", "block_size", "said"),
    [
        (13, 5, "fit are 1, 2, 3, 4, 6, 12; or start 11 or 16 ranks"),
        (3, 5, "fit are 1, 2; or start 6 ranks"),
        (1, 3, "fit are 1; or start 4 ranks"),
    ],
)
def test_a_block_size_that_does_not_fit_is_told_with_those_that_do(n_ranks, block_size, said):
    with pytest.raises(ConfigError, match=said):
        Layout(n_ranks, block_size)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-2, 1)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ConfigError, match="must be at least 1"):
        Layout(7, *sizes)


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_one_rank_trains_whether_it_leads_or_not(n_ranks):
    layout = Layout(n_ranks)
    assert list(layout.members(1)) == [n_ranks - 1]
    assert layout.block_of(n_ranks - 1) == layout.n_blocks == 1


@pytest.mark.parametrize(
    ("block_size", "n_folds", "at_once", "speakers"),
    [(6, 2, 2, [1, 4]), (6, 6, 6, [1, 2, 3, 4, 5, 6]), (6, 4, 1, [1]), (1, 3, 1, [1])],
)
def test_folds_run_side_by_side_where_they_share_a_block_evenly(
    block_size, n_folds, at_once, speakers
):
    layout = Layout(7, block_size, n_folds)
    assert layout.n_at_once == at_once
    assert layout.speakers(1) == speakers


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (Layout(1), "one process, trials one after another"),
        (Layout(1, 1, 5), "one process, trials one after another, 5 folds one after another"),
        (Layout(7, 3), "rank 0 and 2 blocks of 3 ranks"),
        (Layout(13, 6, 2), "rank 0 and 2 blocks of 6 ranks, 2 folds side by side"),
        (Layout(2), "rank 0 and 1 block of 1 rank"),
    ],
)
def test_a_layout_in_words(layout, said):
    assert layout.describe() == said


def test_parts_in_a_row_differ_by_one_at_most():
    assert [list(part) for part in cut(range(7), 3)] == [[0, 1, 2], [3, 4], [5, 6]]
