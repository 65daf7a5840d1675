import gc
import threading
import time
import traceback

import pytest

from nnlo.data.prefetch import prefetch


def workers():
    return [t for t in threading.enumerate() if t.name == "nnlo-prefetch"]


def counting(made, closed, n=1000):
    try:
        for k in range(n):
            made.append(k)
            yield k
    finally:
        closed.append(threading.current_thread().name)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_come_in_order_and_the_thread_ends(depth):
    closed = []
    assert list(prefetch(counting([], closed, 20), depth)) == list(range(20))
    assert len(closed) == 1
    assert not workers()


def test_no_more_than_depth_items_are_made_ahead():
    made, items = [], None
    items = prefetch(counting(made, []), 2)
    next(items)
    time.sleep(0.05)
    assert len(made) <= 3
    items.close()


@pytest.mark.parametrize("end", ["close", "collect"])
def test_thread_and_source_end_when_the_items_are_dropped(end):
    closed = []
    items = prefetch(counting([], closed), 2)
    next(items)
    if end == "close":
        items.close()
    del items
    gc.collect()
    assert closed == ["nnlo-prefetch"]
    assert not workers()


@pytest.mark.parametrize("depth", [0, 2])
def test_exception_comes_up_after_the_items_before_it_with_its_traceback(depth):
    def failing():
        yield 1
        raise KeyError("planted")

    items = prefetch(failing(), depth)
    assert next(items) == 1
    with pytest.raises(KeyError, match="planted") as caught:
        next(items)
    assert "failing" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert not workers()


def test_iterator_that_is_never_used_starts_no_thread():
    items = prefetch(counting([], []), 2)
    assert not workers()
    items.close()
