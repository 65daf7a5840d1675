"""A block of a search: ranks that train one trial after another, as rank 0 orders."""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnlo.errors import RanksLost
from nnlo.mpi import link, ulfm
from nnlo.optimize.attempt import Part
from nnlo.optimize.layout import Layout, cut
from nnlo.optimize.post import Patience, Post, share
from nnlo.optimize.teller import Voice
from nnlo.optimize.wire import Goodbye, Halt, Message, Order, Outcome, PartEnd, Word

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger(__name__)

_NO_RANK_0 = (
    "rank 0 must live until the search has ended, got its death; start it again with "
    "--opt-restore, or let nnlorun --max-restarts 3 do that by itself"
)

Perform = Callable[[Part, Voice], PartEnd | None]
"""Trains a part; called by all its ranks, the end counts on the first one."""

Speak = Callable[[Order, int], Voice]
"""The voice of a fold in an order."""


def part_folder(root: Path, trial: int, fold: int | None = None) -> Path:
    """Where a trial of the search in ``root``, or one fold of it, leaves its files."""
    folder = root / "trials" / f"trial-{trial:04d}"
    return folder if fold is None else folder / f"fold-{fold + 1}"


class Trainer:
    """Trains what an order says on a block's ranks. root: folder of the search."""

    def __init__(self, layout: Layout, perform: Perform, root: Path) -> None:
        self._layout = layout
        self._perform = perform
        self._root = root
        self._cut: MPI.Intracomm | None = None
        self._group: Any = None  # of the ranks of ``_cut`` that train the same fold

    def fits(self, n_ranks: int) -> bool:
        """Whether so many ranks are enough for the folds that run side by side."""
        return n_ranks >= self._layout.n_at_once

    def train(self, comm: "MPI.Intracomm | None", order: Order, speak: Speak) -> list[PartEnd]:
        """The ends of the parts that this rank was the first of; each rank of the block calls."""
        folder = part_folder(self._root, order.trial)
        if order.refit_epochs:
            folder = self._root / "refit"
        if (comm is None or comm.rank == 0) and (order.attempt == 1 or order.refit_epochs):
            # Of another search in that folder, or of a kill before the log knew of it.
            shutil.rmtree(folder, ignore_errors=True)
        if comm is not None:
            ulfm.all_or_none(comm, lambda: link.barrier(comm))
        if order.refit_epochs or self._layout.n_folds == 1:
            return self._run(comm, order, folder, None, speak)
        if self._layout.n_at_once > 1 and comm is not None:
            fold, group = self._fold_of(comm)
            return self._run_fold(group, order, fold, speak)
        return self._one_after_another(comm, order, speak)

    def _run(
        self,
        comm: "MPI.Intracomm | None",
        order: Order,
        folder: Path,
        fold: int | None,
        speak: Speak,
    ) -> list[PartEnd]:
        about = order.refit_epochs, order.from_epoch
        part = Part(order.trial, order.params, comm, folder, fold, *about)
        end = self._perform(part, speak(order, fold or 0))
        return [end] if end is not None else []

    def _run_fold(
        self, comm: "MPI.Intracomm | None", order: Order, fold: int, speak: Speak
    ) -> list[PartEnd]:
        folder = part_folder(self._root, order.trial, fold)
        return self._run(comm, order, folder, fold, speak)

    def _fold_of(self, comm: "MPI.Intracomm") -> "tuple[int, MPI.Intracomm]":
        """The fold that this rank trains, and its ranks."""
        parts = cut(range(comm.size), self._layout.n_at_once)
        fold = next(i for i, ranks in enumerate(parts) if comm.rank in ranks)
        if self._cut is not comm:
            self._group = ulfm.all_or_none(comm, lambda: comm.Split(fold, comm.rank))
            self._cut = comm
        return fold, self._group

    def _one_after_another(
        self, comm: "MPI.Intracomm | None", order: Order, speak: Speak
    ) -> list[PartEnd]:
        ends: list[PartEnd] = []
        is_first = comm is None or comm.rank == 0
        for fold in range(self._layout.n_folds):
            voice = speak(order, fold)
            found = self._run_fold(comm, order, fold, lambda *about: speak(*about).quiet())
            ends += found
            goes_on = is_first and found[-1].state == "done"
            if goes_on:
                end = found[-1]
                voice.report(fold + 1, end.merits, end.metrics, saved=True)
                if verdict := voice.verdict():
                    ends.append(PartEnd("left", fold, reason=verdict))
                    goes_on = False
            if comm is not None:
                goes_on = ulfm.all_or_none(comm, partial(_first_says, comm, goes_on))
            if not goes_on:
                break
        return ends


def _first_says(comm: "MPI.Intracomm", flag: bool) -> bool:
    """What the first rank says; collective."""
    link.barrier(comm)
    said: bool = comm.bcast(flag)
    return said


class Block:
    """This rank's place in a block, of which some ranks may be lost.

    comm: of the block's ranks. post: with rank 0 as its peer.
    """

    def __init__(self, comm: "MPI.Intracomm", post: Post, trainer: Trainer) -> None:
        self._comm = comm
        self._size = comm.size
        self._post = post
        self._trainer = trainer
        self._order: Order | Goodbye | None = None  # from rank 0, for all
        self._is_known = False  # to rank 0, as the one that leads
        self._words: dict[tuple[int, int], str] = {}

    def run(self) -> None:
        """Do what is ordered until Goodbye; each rank of the block calls.

        Raises RanksLost on all of them where rank 0 is dead.
        """
        while True:
            self._comm, order = ulfm.together_with_survivors(self._comm, self._receive)
            self._order = None
            if isinstance(order, Goodbye):
                if order.reason:
                    raise RanksLost(order.reason)
                return
            self._words = {}
            ends = self._train(order)
            if any(end.hangs for end in ends):
                self._post.send(0, Outcome(order.trial, order.attempt, tuple(ends), leaves=True))
                return
            gather = partial(_gather, ends=ends)
            self._comm, found = ulfm.together_with_survivors(self._comm, gather)
            if not self._conclude(order, found):
                return

    def _train(self, order: Order) -> list[PartEnd]:
        """What has come of the parts that this rank was the first of."""
        ends: list[PartEnd] = []
        is_lost = False
        try:
            with ulfm.losses(self._comm):
                ends = self._trainer.train(self._comm, order, self._speak)
        except ulfm.PeersLost:
            log.warning("ranks of this block were lost")
            is_lost = True
        if is_lost or any(end.state == "failed" for end in ends):  # other folds need not go on
            self._post.send(0, Halt(order.trial, order.attempt))
        return ends

    def _receive(self, comm: "MPI.Intracomm") -> Order | Goodbye:
        """The next order, on all ranks; collective."""
        if comm.rank > 0:
            order = share(comm, None)
        else:
            if not self._is_known:
                self._post.send(0, Outcome())
                self._is_known = True
            order = share(comm, self._await_order())
        assert isinstance(order, Order | Goodbye)
        return order

    def _await_order(self) -> Order | Goodbye:
        patience = Patience()
        while self._order is None:
            for message in self._heard():
                if isinstance(message, Order | Goodbye):
                    self._order = message
            if 0 in self._post.lost:
                self._order = Goodbye(_NO_RANK_0)
            patience.sleep()
        return self._order

    def _heard(self) -> list[Message]:
        return [message for _, message in self._post.receive()]

    def _conclude(self, order: Order, parts: tuple[PartEnd, ...]) -> bool:
        """Tell rank 0 what has come of an order; whether the block goes on, the same on all."""
        size = self._comm.size
        is_misfit = any(one.state == "failed" and one.kind == "error" for one in parts)
        leaves = size < self._size and (is_misfit or not self._trainer.fits(size))
        if self._comm.rank == 0:
            self._post.send(0, Outcome(order.trial, order.attempt, parts, leaves))
            self._is_known = True
        return not leaves

    def _speak(self, order: Order, fold: int) -> Voice:
        return Voice(order, fold, partial(self._post.send, 0), partial(self._word, order))

    def _word(self, order: Order) -> str:
        """What rank 0 has said of an order."""
        if 0 in self._post.lost:
            return "suspend"  # keep what there is, for the next start
        for message in self._heard():
            if isinstance(message, Word):
                self._words[message.trial, message.attempt] = message.verdict
            elif isinstance(message, Order | Goodbye):
                self._order = message
        return self._words.get((order.trial, order.attempt), "")


def _gather(comm: "MPI.Intracomm", ends: list[PartEnd]) -> tuple[PartEnd, ...]:
    """The ends of all parts, in the order of folds, on all ranks."""
    link.barrier(comm)  # some still write files
    found = [end for one in comm.allgather(ends) for end in one]
    return tuple(sorted(found, key=lambda end: end.fold))
