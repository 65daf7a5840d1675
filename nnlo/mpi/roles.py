"""What each role does with its parts: the loops of one run, over MPI or in one process."""

import logging
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from nnlo.history import History
from nnlo.mpi import link, ulfm
from nnlo.mpi.ends import ChildEnd, ParentEnd
from nnlo.mpi.failure import describe
from nnlo.mpi.frame import Frame, Kind
from nnlo.mpi.loopback import Loopback, Middle, run_in_process
from nnlo.mpi.master import Master
from nnlo.mpi.observer import Nobody
from nnlo.mpi.parts import Parts
from nnlo.mpi.replica import Replica
from nnlo.mpi.ringend import RingEnd
from nnlo.mpi.root import Root
from nnlo.mpi.serve import ignored_signals, relay, serve
from nnlo.mpi.setup import together
from nnlo.mpi.slices import SliceReader, SlicesEnd, WholeMaster, serve_slice
from nnlo.mpi.standstill import name_ranks
from nnlo.mpi.worker import Worker

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger(__name__)


def play(
    parts: Parts,
    root: Root | None,
    earlier: Root | None,
    abandon: Callable[[], None],
    keep: Callable[[History], None],
) -> Master | None:
    """Do this rank's part; returns the master of rank 0, and of a rank without one above.

    root: on rank 0; earlier: the one before it, see Root.begin. abandon: called where others did
    not end in time. keep: given a sub-master's book.
    """
    role = parts.topology.role(parts.rank)
    if role == "alone":
        assert root is not None
        return train_alone(parts, root, earlier)
    if role == "root":
        assert root is not None
        return lead(parts, root, earlier, abandon)
    if role == "replica":
        return train_together(parts, root, earlier)
    if role == "sub-master":
        stand_between(parts, keep)
    elif role == "shard":
        own_slice(parts)
    elif role == "spare" and not parts.topology.is_star:
        rest(parts)
    else:
        work(parts)
    return None


def train_alone(parts: Parts, root: Root, earlier: Root | None) -> Master:
    """Master and worker in one process; earlier: the root before this one, see Root.begin."""
    end = Loopback()
    master = parts.master(root, end, [0], Master)
    worker = parts.worker()
    _begin(parts, root, master, earlier)
    worker.follow(master.rate)
    with closing(worker.run(parts.prepared.weights)) as run:
        run_in_process(master, end, {0: run}, poll=partial(root.poll, master))
    return master


def lead(parts: Parts, root: Root, earlier: Root | None, abandon: Callable[[], None]) -> Master:
    """Rank 0 of many; calls ``abandon`` where others did not end in time."""
    comm = _comm(parts)
    children = parts.topology.children(0)

    def make() -> tuple[Master, ParentEnd]:
        end = ParentEnd(comm, _frames(parts), parts.vigil())
        if parts.topology.n_shards > 1:
            exact = parts.job.settings.synchronous
            whole = parts.master(root, end, children, WholeMaster)
            reader = SliceReader(comm, parts.slices, exact=exact)
            manifest, first = parts.prepared.adapter.manifest, parts.prepared.weights
            whole.know(reader, parts.slices, manifest, first)
            master: Master = whole
        else:
            master = parts.master(root, end, children, Master)
            master.crew = parts.crew()
            master.fails_alone = parts.job.settings.on_worker_error == "continue"
        _begin(parts, root, master, earlier)
        return master, end

    master, end = together(comm, make)
    comm.bcast(master.rate)
    end.open()
    for spare in parts.topology.spares:
        end.vigil.forget(spare)  # its BYE at once says nothing of how long workers take
    lose = master.lose if master.crew is not None else None
    guard = parts.guard(master, end, lose)
    if serve(master, end, root, guard):
        master.settle()
        end.close()
        _dismiss_spares(parts)
    else:
        abandon()
    return master


def own_slice(parts: Parts) -> None:
    """A sharded master that is not the root."""
    comm = _comm(parts)

    def make() -> tuple[Master, ParentEnd]:
        frames = _frames(parts) | {0: Frame(0)}
        end = ParentEnd(comm, frames, parts.vigil())
        return parts.own_slice(end, parts.topology.children(0)), end

    master, end = together(comm, make)
    comm.bcast(None)
    end.open()
    with ignored_signals():
        serve_slice(comm, master, end, parts.root_algo.learning_rate)
    end.close()


def stand_between(parts: Parts, keep: Callable[[History], None]) -> None:
    """A sub-master; its book of what its workers do is handed to ``keep`` at once."""
    comm = _comm(parts)
    size = parts.prepared.adapter.manifest.size

    def make() -> tuple[Middle, ParentEnd, ChildEnd]:
        end = ParentEnd(comm, _frames(parts), parts.vigil())
        parent = ChildEnd(comm, 0, Frame(size), parts.prepared.watch)
        if parts.job.root_algo is not None:
            return parts.branch(end), end, parent
        return parts.sub_master(end), end, parent

    middle, end, parent = together(comm, make)
    keep(middle.history)
    comm.bcast(None)
    end.open()
    with ignored_signals():
        relay(middle, end, parent, parts.frame(parts.rank), parts.guard(middle, end))
    end.close()


def rest(parts: Parts) -> None:
    """A spare that waits for the end of the run, or for the loss of a rank."""
    comm = _comm(parts)
    together(comm, lambda: None)
    comm.bcast(None)
    with ignored_signals():
        link.await_word(comm, 0)


def _dismiss_spares(parts: Parts) -> None:
    """The run has ended, for those who ``rest`` as well."""
    if not parts.topology.is_star:
        for spare in parts.topology.spares:
            link.send_word(_comm(parts), spare)


def _frames(parts: Parts) -> dict[int, Frame]:
    """Where a master receives the messages of its children."""
    if parts.topology.n_shards == 1:
        return {rank: parts.frame(rank) for rank in parts.topology.children(parts.rank)}
    own = parts.slices[parts.rank]
    return {rank: parts.frame(rank, own) for rank in parts.topology.children(0)}


def work(parts: Parts) -> None:
    """A worker, a part of one, or a spare of a root that can employ it itself."""
    comm, prepared = _comm(parts), parts.prepared
    worker = together(comm, parts.worker)
    rate = comm.bcast(None)  # what a schedule begins with, or a restored run goes on with
    worker.follow(rate)
    size = prepared.adapter.manifest.size
    leads = parts.rank in (*parts.topology.leaders, *parts.topology.spares)
    parent: ChildEnd | SlicesEnd | None = None
    if leads and parts.topology.n_shards > 1:
        parent = SlicesEnd(comm, parts.slices, size, rate, prepared.watch)
    elif leads:
        above = parts.topology.parent(parts.rank)
        parent = ChildEnd(comm, above, Frame(size), prepared.watch)
    exchange = parent.exchange if parent is not None else None
    if prepared.ring is not None:
        ring = RingEnd(prepared.ring, Frame(size), parent)
        members = parts.topology.worker_of(parts.rank)
        exchange = ring.watched_by(prepared.watch, members).exchange
    assert exchange is not None
    with ignored_signals(), closing(worker.run(prepared.weights)) as run:
        try:
            message = next(run)
            while (down := exchange(message)).header.kind is not Kind.FINAL:
                message = run.send(down)
        except ulfm.PeersLost:
            raise
        except BaseException as error:  # sys.exit in user code too: rank 0 must hear of it
            if parts.dies_alone:
                _die_alone(parts, error)
            exchange(worker.failure(error, link.host()))


def _die_alone(parts: Parts, error: BaseException) -> NoReturn:
    name = parts.topology.name(parts.rank)
    log.error("%s on %s failed, the others go on:\n%s", name, link.host(), describe(error))
    ulfm.die()


def train_together(parts: Parts, root: Root | None, earlier: Root | None) -> Master:
    """One of several ranks alike: each applies the same reduced updates to its own weights.

    root: on rank 0, whose decisions (stop, learning rate) ride in the next reduction.
    """
    comm = _comm(parts)
    end = Loopback()

    def make() -> tuple[Replica, Worker]:
        master = parts.master(root or Nobody(), end, [parts.rank], Master)
        ring = parts.reducer
        assert ring is not None
        if root is not None:
            _begin(parts, root, master, earlier)
        assert parts.prepared.beside is not None
        dies = partial(_die_alone, parts) if parts.dies_alone else None
        replica = Replica(parts.prepared.beside, master, end, ring, root, dies)
        return replica, parts.worker()

    replica, worker = together(comm, make)
    comm.bcast(None)
    if root is None:
        with ignored_signals():
            replica.run(worker, parts.prepared.weights)
    else:
        replica.run(worker, parts.prepared.weights)
        _dismiss_spares(parts)
    return replica.master


def _begin(parts: Parts, root: Root, master: Master, earlier: Root | None) -> None:
    if parts.prepared.checkpoint is not None:
        whole = not parts.prepared.ranks_restored
        root.restore(parts.prepared.checkpoint, whole_epochs=whole)
    root.begin(master, earlier)


def finish(root: Root, master: Master) -> None:
    """After the last message: raise what has ended the run, or finish the history."""
    if master.error is not None:
        raise master.error
    if lost := master.lost:
        log.warning(
            "went on without %s: %d samples have had their turn, once each, %.2f epochs of %d",
            name_ranks(lost),
            round(root.progress * root.n_samples),
            root.progress,
            root.n_samples,
        )
    root.finish(master)


def _comm(parts: Parts) -> "MPI.Intracomm":
    assert parts.comm is not None
    return parts.comm
