import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnlo.data.shards import Plan

SHARDS = [1, 2, 3, 5, 11]


def rows_of(plan, window_batches=3, block=7, first_row=0):
    """(file, row) of all samples of a shard, in windows."""
    windows = plan.windows(window_batches * plan.batch_size, lambda _: block, first_row)
    return [
        [(file, row) for file, start, stop in window.spans for row in range(start, stop)]
        for window in windows
    ]


def shards(counts, batch, n, **how):
    return [Plan(tuple(counts), batch, shard=k, n_shards=n, **how) for k in range(n)]


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=24),
    batch=st.integers(1, 20),
    n_shards=st.sampled_from(SHARDS),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_every_sample_is_in_one_shard_once(counts, batch, n_shards, epoch, shuffle):
    plans = shards(counts, batch, n_shards, epoch=epoch, shuffle=shuffle)
    found = [row for plan in plans for window in rows_of(plan) for row in window]
    assert sorted(found) == [(file, row) for file, n in enumerate(counts) for row in range(n)]


@given(total=st.integers(0, 400), batch=st.integers(1, 20), n_shards=st.sampled_from(SHARDS))
def test_shards_differ_by_one_sample_and_batches_cover_them(total, batch, n_shards):
    plans = shards([total], batch, n_shards)
    sizes = [plan.n_rows for plan in plans]
    assert max(sizes) - min(sizes) <= 1
    for plan in plans:
        cuts = plan.batches(0, plan.n_rows)
        assert len(cuts) == plan.n_batches
        assert [row for start, stop in cuts for row in range(start, stop)] == [*range(plan.n_rows)]
        assert all(stop - start == batch for start, stop in cuts[:-2])
        assert [plan.row_of(k) for k in range(len(cuts))] == [start for start, _ in cuts]


@given(total=st.integers(22, 400), batch=st.integers(2, 20), n_shards=st.sampled_from(SHARDS))
def test_all_shards_have_as_many_batches(total, batch, n_shards):
    assert len({plan.n_batches for plan in shards([total], batch, n_shards)}) == 1


@given(batch=st.integers(1, 9), n_shards=st.sampled_from(SHARDS), skip=st.integers(0, 30))
def test_windows_from_a_row_on_are_the_tail_of_all(batch, n_shards, skip):
    for plan in shards([50, 0, 31, 77], batch, n_shards, epoch=2):
        row = plan.row_of(skip)
        n_skipped = row // (3 * batch)
        assert rows_of(plan, first_row=row) == rows_of(plan)[n_skipped:]


def test_epochs_differ_and_equal_seeds_agree():
    one, again = Plan((90, 30), 8, seed=4, epoch=1), Plan((90, 30), 8, seed=4, epoch=1)
    other, seeded = Plan((90, 30), 8, seed=4, epoch=2), Plan((90, 30), 8, seed=5, epoch=1)
    assert rows_of(one) == rows_of(again)
    assert rows_of(one) != rows_of(other)
    assert rows_of(one) != rows_of(seeded)
    np.testing.assert_array_equal(one.window_order(0, 24), again.window_order(0, 24))
    assert not np.array_equal(one.window_order(0, 24), other.window_order(0, 24))
    assert not np.array_equal(one.window_order(0, 24), one.window_order(24, 48))


def test_without_shuffle_rows_keep_the_order_of_the_files():
    plan = Plan((5, 0, 9, 3), 4, shuffle=False)
    spans = [list(window.spans) for window in plan.windows(8, lambda _: 2)]
    assert spans == [[(0, 0, 5), (2, 0, 3)], [(2, 3, 9), (3, 0, 2)], [(3, 2, 3)]]


@pytest.mark.parametrize("block", [1, 10, 64, 1000])
def test_blocks_stay_together_where_a_window_allows_it(block):
    plan = Plan((640,), 10)
    (rows,) = rows_of(plan, window_batches=64, block=block)
    jumps = np.count_nonzero(np.diff([row for _, row in rows]) != 1)
    assert jumps <= -(-640 // block) - 1


def test_files_of_other_shards_are_not_asked_for():
    asked = []
    plan = Plan((10,) * 8, 5, shard=1, n_shards=4)
    for window in plan.windows(10, lambda file: asked.append(file) or 5):
        list(window.spans)
    assert len(set(asked)) == 2
