"""Proposals that are made before a block is free, so that it gets its trial at once.

What a proposal rests on is fixed when it is ordered: what is told then, what runs then, and the
proposals ordered before it. A thread makes them in that order; how fast it is changes nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

from nnlo.optimize.fidelity import at_the_end
from nnlo.optimize.searcher import Searcher, Told
from nnlo.optimize.space import Params
from nnlo.optimize.trials import Record, Trials


class Ahead:
    """in_thread: make what is ordered there; False: when it is taken."""

    def __init__(self, searcher: Searcher, in_thread: bool) -> None:
        self._searcher = searcher
        self._thread = ThreadPoolExecutor(1, "proposals") if in_thread else None
        self._orders: dict[int, Callable[[], Params | None]] = {}
        self._about: dict[int, Record] = {}

    def __contains__(self, trial: int) -> bool:
        """Whether it is ordered and not taken."""
        return trial in self._orders

    def order(self, trial: int, told: Sequence[Told], running: Mapping[int, Params]) -> None:
        """Have ``trial`` proposed from these and from what is ordered before it, which counts as
        running. Trials are ordered, and taken, in the order of their numbers."""
        before = dict(self._orders)
        self._about[trial] = {"told": len(told), "running": [*running, *before]}
        ask = partial(self._ask, trial, list(told), dict(running), before)
        self._orders[trial] = self._thread.submit(ask).result if self._thread else cache(ask)

    def take(self, trial: int) -> tuple[Params | None, Record]:
        """What is proposed for it, and the fields ``told`` and ``running`` of a record of that.

        Waits for the thread, and raises what the searcher raised.
        """
        return self._orders.pop(trial)(), self._about.pop(trial)

    def close(self) -> None:
        """Forget all orders; the thread is gone then."""
        self._orders = {}
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    def _ask(
        self,
        trial: int,
        told: Sequence[Told],
        running: dict[int, Params],
        before: Mapping[int, Callable[[], Params | None]],
    ) -> Params | None:
        for other, order in before.items():
            params = order()
            if params is None:
                return None  # there was nothing left before
            running[other] = params
        return self._searcher.ask(trial, told, running)


class Orders:
    """What the orders in the records of a log rest on."""

    def __init__(self) -> None:
        self.trials = Trials()
        self._told: dict[int, Sequence[Told]] = {}  # by trial ordered

    @classmethod
    def left_open(cls, records: Sequence[Record]) -> "Orders":
        """Those of a whole log that were never asked; others are passed over, to save time."""
        orders, done = cls(), {one["trial"] for one in records if one["event"] == "asked"}
        if all(one["trial"] in done for one in records if one["event"] == "ordered"):
            return orders
        for record in records:
            if record["event"] != "ordered" or record["trial"] not in done:
                orders.apply(record)
        return orders

    def __iter__(self) -> Iterator[int]:
        """The trials ordered and not asked, upwards."""
        return iter(sorted(self._told))

    def apply(self, record: Record) -> None:
        """Go on to the next record of the log."""
        self.trials.apply(record)
        if record["event"] == "ordered":
            self._told[record["trial"]] = list(at_the_end(self.trials))
        elif record["event"] == "asked":
            self._told.pop(record["trial"], None)

    def of(self, trial: int) -> tuple[Sequence[Told], Mapping[int, Params]]:
        """Told and running of its order, as far as those have been asked by now; or of this
        moment if it was not ordered."""
        if trial not in self._told:
            return at_the_end(self.trials), self.trials.unanswered
        told = self._told[trial]
        known = {one.trial for one in told}
        rows = self.trials.rows[:trial]
        return told, {one.number: one.params for one in rows if one.number not in known}
