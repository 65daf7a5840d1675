"""Rank 0 of a search over MPI: hears all blocks, and waits without burning a core."""

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nnlo.errors import NNLOError
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
"""What blocks that were silent for too long have to show that they have not hung for ever."""


class Desk:
    """comm: of all ranks. is_interrupted: the reason to end before time, empty without one.

    After ``run``, ``finish``. ``hung``: blocks that will not end by themselves.
    """

    def __init__(
        self,
        comm: "MPI.Intracomm",
        layout: Layout,
        conductor: Conductor,
        is_interrupted: Callable[[], str],
    ) -> None:
        self.hung: set[int] = set()
        self._layout = layout
        self._conductor = conductor
        self._is_interrupted = is_interrupted
        blocks = range(1, layout.n_blocks + 1)
        self._post = Post(comm, [one for block in blocks for one in layout.speakers(block)])
        self._leaders = {block: layout.members(block)[0] for block in blocks}
        self._speakers = {block: layout.speakers(block) for block in blocks}
        self._there = set(blocks)  # not lost
        self._busy: set[int] = set()
        self._last: Outcome | None = None

    def run(self) -> None:
        """Until the search is over; an NNLOError is raised after all blocks were sent away."""
        was_interrupted = False
        patience = Patience()
        ticked = time.monotonic()
        try:
            while not self._conductor.is_over:
                messages = self._post.receive()
                for peer, message in messages:
                    self._take(self._layout.block_of(peer), peer, message)
                for peer in sorted(self._post.lost):
                    self._lose(peer)
                if not was_interrupted and (reason := self._is_interrupted()):
                    was_interrupted = True
                    self._conductor.tell(Interrupted(reason), self)
                if time.monotonic() - ticked > TICK_S:
                    ticked = time.monotonic()
                    self._conductor.tick(self)
                if messages:
                    patience.reset()
                patience.sleep()
        except NNLOError:
            self._send_away()
            raise

    def _take(self, block: int, peer: int, message: Message) -> None:
        match message:
            case Report():
                self._conductor.report(block, message, self)
            case Halt(trial, attempt):
                self.word(block, Word(trial, attempt, "stop"))
            case Outcome():
                self._note(block, peer, message)
                self._conductor.conclude(block, message, self)

    def _note(self, block: int, peer: int, outcome: Outcome) -> None:
        """The leader of a block has said that it is through with an order."""
        self._leaders[block] = peer
        self._busy.discard(block)
        if any(part.hangs for part in outcome.parts):
            self.hung.add(block)
        if outcome.leaves:
            self._there.discard(block)
            log.warning("block %d leaves the search", block)

    def _lose(self, peer: int) -> None:
        """A rank is dead that would have spoken."""
        self._post.lost.discard(peer)
        block = self._layout.block_of(peer)
        if block not in self._there or self._leaders[block] != peer:
            return
        # Whoever leads now will say so.
        for member in self._layout.members(block):
            self._post.listen(member)
        left = [one for one in self._layout.members(block) if one in self._post.peers]
        log.warning("rank %d is dead, the leader of block %d; %d left", peer, block, len(left))
        self._busy.discard(block)
        if not left:
            self._there.discard(block)
        else:
            self._leaders[block] = left[0]
        self._conductor.lose(block, f"rank {peer} died", self, returns=bool(left))

    # The way to the blocks --------------------------------------------------------------------

    def order(self, block: int, order: Order) -> None:
        self._busy.add(block)
        self._post.send(self._leaders[block], order)

    def word(self, block: int, word: Word) -> None:
        for peer in {self._leaders[block], *self._speakers[block]}:
            self._post.send(peer, word)

    def dismiss(self, block: int) -> None:
        """It gets no more trials; ``finish`` lets it go."""

    def _send_away(self) -> None:
        """The search has failed here: no block shall wait for more."""
        for block in sorted(self._there):
            if task := self._conductor.task_of(block):
                self.word(block, Word(*task, "suspend"))
        self.finish()

    # The end ----------------------------------------------------------------------------------

    def finish(self, refit: Order | None = None) -> PartEnd | None:
        """Let all blocks go; the end of ``refit``, which one of them trains before."""
        end = self._refit(refit) if refit is not None else None
        self._settle(lambda: bool(self._busy - self.hung), LAST_WORD_S)
        self.hung |= self._busy
        for block in sorted(self._there):
            self._post.send(self._leaders[block], Goodbye())
        self._post.close()
        return end

    def _refit(self, order: Order) -> PartEnd | None:
        block = next((one for one in sorted(self._there - self._busy)), None)
        if block is None:
            return None
        self._last = None
        self.order(block, order)
        self._settle(lambda: block in self._busy and not self._is_interrupted(), math.inf)
        if block in self._busy:
            self.word(block, Word(order.trial, order.attempt, "suspend"))
        return self._last.parts[0] if self._last is not None and self._last.parts else None

    def _settle(self, goes_on: Callable[[], bool], seconds: float) -> None:
        """Hear what blocks say that have nothing more to be told."""
        deadline = time.monotonic() + seconds
        patience = Patience()
        while goes_on() and time.monotonic() < deadline:
            for peer, message in self._post.receive():
                block = self._layout.block_of(peer)
                if isinstance(message, Outcome):
                    self._note(block, peer, message)
                    self._last = message
            for peer in self._post.lost:
                self._busy.discard(self._layout.block_of(peer))
            patience.sleep()
