"""Rank 0 of a search over MPI: hears all blocks, and waits without burning a core."""

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nnlo.errors import NNLOError
from nnlo.mpi.fence import Registry
from nnlo.optimize.conductor import Conductor
from nnlo.optimize.events import Interrupted
from nnlo.optimize.layout import Layout
from nnlo.optimize.post import Patience, Post
from nnlo.optimize.wire import Goodbye, Halt, Message, Order, Outcome, PartEnd, Report, Word

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger(__name__)

TICK_S = 0.1  # between two looks at time limits

LAST_WORD_S = 10.0
"""What blocks that were told to leave a trial have at least to show that they do not hang."""

GRACE_S = 3.0
"""The same after a signal: nnlorun ends all ranks after 4 s."""

ENDED_S = 1.0
"""Until MPI tells of a rank that was ended."""


class Desk:
    """comm: of all ranks. is_interrupted: the reason to end before time, empty without one.
    registry: of the processes of ``comm``, where a job goes on without some of them; else None.
    trial_s: seconds that a trial may take; for as long the search waits for a block that it has
    told to leave one.

    After ``run``, ``finish``; then ``answer`` until no rank is left in its block. ``hung``:
    blocks that will not end by themselves.
    """

    def __init__(
        self,
        comm: "MPI.Intracomm",
        layout: Layout,
        conductor: Conductor,
        is_interrupted: Callable[[], str],
        registry: Registry | None = None,
        trial_s: float = math.inf,
    ) -> None:
        self.hung: set[int] = set()
        self._layout = layout
        self._conductor = conductor
        self._is_interrupted = is_interrupted
        self._registry = registry
        self._patience = max(LAST_WORD_S, trial_s)
        blocks = range(1, layout.n_blocks + 1)
        self._members = {block: [*layout.members(block)] for block in blocks}  # that live
        self._leaders = {block: self._members[block][0] for block in blocks}
        self._there = set(blocks)  # neither dead nor gone
        self._busy: dict[int, Order] = {}
        self._told: dict[int, float] = {}  # blocks that were told to leave a trial, when
        self._grace = math.inf  # when a search that was interrupted waits no more
        self._refitted: Outcome | None = None
        self._post = Post(comm, range(1, layout.n_ranks))

    def run(self) -> None:
        """Until the search is over; an NNLOError is raised after all blocks were sent away."""
        patience = Patience()
        ticked = time.monotonic()
        try:
            while not self._conductor.is_over:
                messages = self._hear()
                for block, message in messages:
                    self._take(block, message)
                if self._grace == math.inf and (reason := self._is_interrupted()):
                    self._grace = time.monotonic() + GRACE_S
                    self._conductor.tell(Interrupted(reason), self)
                if time.monotonic() - ticked > TICK_S:
                    ticked = time.monotonic()
                    self._conductor.tick(self)
                    self._look_at_time(ticked)
                if messages:
                    patience.reset()
                patience.sleep()
        except NNLOError:
            self._send_away()
            raise

    def _hear(self) -> list[tuple[int, Message]]:
        """What blocks have said, after noting all that tells of their state."""
        found = []
        for peer, message in self._post.receive():
            block = self._layout.block_of(peer)
            if isinstance(message, Outcome):
                self._note(block, peer, message)
            found.append((block, message))
        for peer in sorted(self._post.lost):
            self._post.lost.discard(peer)
            self._lose(self._layout.block_of(peer), peer)
        return found

    def _take(self, block: int, message: Message) -> None:
        match message:
            case Report():
                self._conductor.report(block, message, self)
            case Halt(trial, attempt):
                self.word(block, Word(trial, attempt, "stop"))
            case Outcome():
                self._conductor.conclude(block, message, self)

    def _note(self, block: int, peer: int, outcome: Outcome) -> None:
        """The leader of a block has said that it is through with an order."""
        self._leaders[block] = peer
        order = self._busy.pop(block, None)
        self._told.pop(block, None)
        self.hung.discard(block)  # it has come back
        if order is not None and order.refit_epochs and outcome.trial == order.trial:
            self._refitted = outcome
        if any(part.hangs for part in outcome.parts):
            log.error("block %d (%s) hangs", block, self._ranks(block))
            self._end_ranks(block)
        if outcome.leaves:
            self._there.discard(block)
            log.warning("block %d leaves the search", block)

    def _ranks(self, block: int) -> str:
        return f"rank{'s' * (len(self._members[block]) > 1)} " + ", ".join(
            map(str, self._members[block])
        )

    # Losses -----------------------------------------------------------------------------------

    def _lose(self, block: int, peer: int) -> None:
        """A rank is dead."""
        members = self._members[block]
        members.remove(peer)
        if block not in self._there:
            return
        role = "the leader" if self._leaders[block] == peer else "a member"
        left = f"{len(members)} of its ranks are left" if members else "none of its ranks is left"
        log.warning("rank %d, %s of block %d, is dead; %s", peer, role, block, left)
        if members and self._leaders[block] != peer:
            order = self._busy.get(block)
            if order is not None and self._layout.n_at_once > 1:  # one of its folds is void
                self.word(block, Word(order.trial, order.attempt, "stop"))
            return
        self._busy.pop(block, None)
        self._told.pop(block, None)
        if members:
            self._leaders[block] = members[0]  # until somebody says that it leads
        else:
            self._there.discard(block)
            self.hung.discard(block)
        if not self._conductor.is_over:
            self._conductor.lose(block, f"rank {peer} died", self, returns=bool(members))

    def _look_at_time(self, now: float) -> None:
        """Give up blocks that should have left a trial long ago."""
        for block, since in list(self._told.items()):
            if now > min(since + self._patience, self._grace):
                self._give_up(block)

    def _give_up(self, block: int) -> None:
        since = self._told.pop(block, time.monotonic())
        log.error(
            "block %d (%s) hangs: it was told to leave trial %d and has not done so in %.0f s",
            block,
            self._ranks(block),
            self._busy[block].trial,
            time.monotonic() - since,
        )
        self._end_ranks(block)
        if not self._conductor.is_over:
            self._conductor.lose(block, "its block hangs", self, returns=False)

    def _end_ranks(self, block: int) -> None:
        """It hangs; where the others can go on without its ranks, those are ended."""
        self.hung.add(block)
        if self._registry is not None:
            self._registry.kill(self._members[block])

    # The way to the blocks --------------------------------------------------------------------

    def order(self, block: int, order: Order) -> None:
        self._busy[block] = order
        self._post.send(self._leaders[block], order)

    def word(self, block: int, word: Word) -> None:
        """To all who may lead a part of its trial."""
        if block in self._busy:
            self._told.setdefault(block, time.monotonic())
        is_whole = len(self._members[block]) == self._layout.block_size
        peers = self._layout.speakers(block) if is_whole else self._members[block]
        for peer in peers:
            self._post.send(peer, word)

    def dismiss(self, block: int) -> None:
        """It gets no more trials; ``finish`` lets it go."""

    def _send_away(self) -> None:
        """The search has failed here: no block shall wait for more."""
        for block, order in self._busy.items():
            self.word(block, Word(order.trial, order.attempt, "suspend"))
        self.finish()

    # The end ----------------------------------------------------------------------------------

    def finish(self, refit: Order | None = None) -> PartEnd | None:
        """Let all blocks go; the end of ``refit``, which one of them trains before."""
        self._wait_for_all()
        end = self._refit(refit) if refit is not None else None
        for block in sorted(self._there):
            self._post.send(self._leaders[block], Goodbye())
        return end

    def _wait_for_all(self) -> None:
        """Until all blocks are through with their last trial, or are given up."""
        limit = 0.0 if self._grace < math.inf else LAST_WORD_S
        self._settle(lambda: bool(self._busy.keys() - self.hung), limit)
        for block in self._busy.keys() - self.hung:
            self._give_up(block)
        if self._registry is not None:  # those that were ended are seen to be dead
            self._settle(lambda: bool(self.hung), ENDED_S)

    def _refit(self, order: Order) -> PartEnd | None:
        """The end of a training on all data; another block tries where one was lost with it."""
        free = sorted(self._there - self._busy.keys())
        while free and self._refitted is None and not self._is_interrupted():
            block = free.pop(0)
            self.order(block, order)
            self._settle(lambda: self._trains(order) and not self._is_interrupted())
            if self._trains(order):
                self._grace = time.monotonic() + GRACE_S
                self.word(block, Word(order.trial, order.attempt, "suspend"))
                self._settle(lambda: self._trains(order), GRACE_S)
                self._wait_for_all()
        found = self._refitted
        return found.parts[0] if found is not None and found.parts else None

    def _trains(self, order: Order) -> bool:
        return order in self._busy.values()

    def _settle(self, goes_on: Callable[[], bool], seconds: float = math.inf) -> None:
        """Hear what blocks say that have nothing more to be told."""
        deadline = time.monotonic() + seconds
        patience = Patience()
        while goes_on() and time.monotonic() < deadline:
            self._hear()
            patience.sleep()

    def answer(self) -> None:
        """Let those go who lead a block since its leader has died with the last word."""
        for peer, message in self._post.receive():
            if isinstance(message, Outcome):
                self._post.send(peer, Goodbye())

    def close(self) -> None:
        """After the last answer."""
        self._post.close()
