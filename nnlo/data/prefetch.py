"""An iterator that works ahead in a thread."""

import threading
from collections.abc import Generator
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class _Ended(NamedTuple):
    """Last thing that the thread sends: how its work ended."""

    error: BaseException | None


def prefetch(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """Yield ``items``, up to ``depth`` of them made ahead by a thread; 0: no thread.

    The one being made counts as ahead, so memory holds ``depth`` items and the one in use.
    An exception of ``items`` comes up here with its own traceback. The thread ends, and
    ``items`` is closed in it, when this generator is exhausted, closed or collected.
    """
    if depth == 0:
        yield from items
        return
    made: SimpleQueue[T | _Ended] = SimpleQueue()
    slots, stop = threading.Semaphore(depth), threading.Event()
    thread = threading.Thread(
        target=_work, args=(items, made, slots, stop), name="nnlo-prefetch", daemon=True
    )
    thread.start()
    try:
        while not isinstance(item := made.get(), _Ended):
            slots.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        slots.release()
        thread.join()


def _work(
    items: Generator[T, None, None],
    made: "SimpleQueue[T | _Ended]",
    slots: threading.Semaphore,
    stop: threading.Event,
) -> None:
    error: BaseException | None = None
    try:
        while slots.acquire() and not stop.is_set():
            # No name is bound to the item: the thread must not keep what the user has dropped.
            made.put(next(items))
    except StopIteration:
        pass
    except BaseException as caught:  # raised again where the items are used
        error = caught
    finally:
        items.close()
        made.put(_Ended(error))
