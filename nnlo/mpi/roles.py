"""What each role does with its parts: the loops of one run, over MPI or in one process."""

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from nnlo.history import History, Record
from nnlo.mpi import link
from nnlo.mpi.ends import ChildEnd, ParentEnd
from nnlo.mpi.frame import Frame, Kind
from nnlo.mpi.loopback import Loopback, Middle, run_in_process
from nnlo.mpi.master import Master
from nnlo.mpi.parts import Parts
from nnlo.mpi.replica import Nobody, Replica
from nnlo.mpi.ringend import RingEnd
from nnlo.mpi.root import Root
from nnlo.mpi.serve import ignored_signals, relay, serve, signals
from nnlo.mpi.setup import together
from nnlo.mpi.slices import SliceReader, SlicesEnd, WholeMaster, serve_slice

if TYPE_CHECKING:
    from mpi4py import MPI

Gather = Callable[[History | None], dict[str, list[Record]]]
"""Brings to rank 0 what ranks have noted, after the last message; collective. Given to it is a
sub-master's book; it returns the rows of all of them on rank 0."""


def train_alone(parts: Parts, root: Root, gather: Gather) -> Master:
    """Master and worker in one process."""
    end = Loopback()
    master = parts.master(root, end, [0], Master)
    worker = parts.worker()
    with root.background, signals(root):
        _begin(parts, root, master)
        worker.follow(master.rate)
        run = worker.run(parts.prepared.weights)
        run_in_process(master, end, {0: run}, poll=partial(root.poll, master))
        gather(None)
        _finish(root, master)
    return master


def lead(parts: Parts, root: Root, gather: Gather, abandon: Callable[[], None]) -> Master:
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
        _begin(parts, root, master)
        return master, end

    master, end = together(comm, make)
    comm.bcast(master.rate)
    end.open()
    lose = master.lose if master.crew is not None else None
    guard = parts.guard(master, end, lose)
    earlier = copy.deepcopy(root.history.ranks)  # of the run that goes on
    with root.background, signals(root):
        if serve(master, end, root, guard):
            master.settle()
            end.close()
            if books := gather(None):
                # The root has heard sub-masters only; they have heard the workers.
                root.history.ranks = earlier
                root.history.add_ranks(books)
        else:
            abandon()
        _finish(root, master)
    return master


def own_slice(parts: Parts, gather: Gather) -> None:
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
    gather(None)


def stand_between(parts: Parts, gather: Gather) -> None:
    """A sub-master."""
    comm = _comm(parts)
    size = parts.prepared.adapter.manifest.size

    def make() -> tuple[Middle, ParentEnd, ChildEnd]:
        end = ParentEnd(comm, _frames(parts), parts.vigil())
        parent = ChildEnd(comm, 0, Frame(size))
        if parts.job.root_algo is not None:
            return parts.branch(end), end, parent
        return parts.sub_master(end), end, parent

    middle, end, parent = together(comm, make)
    comm.bcast(None)
    end.open()
    with ignored_signals():
        relay(middle, end, parent, parts.frame(parts.rank), parts.guard(middle, end))
    end.close()
    gather(middle.history)


def _frames(parts: Parts) -> dict[int, Frame]:
    """Where a master receives the messages of its children."""
    if parts.topology.n_shards == 1:
        return {rank: parts.frame(rank) for rank in parts.topology.children(parts.rank)}
    own = parts.slices[parts.rank]
    return {rank: parts.frame(rank, own) for rank in parts.topology.children(0)}


def work(parts: Parts, gather: Gather) -> None:
    """A worker, a part of one, or a spare of a root that can employ it itself."""
    comm, prepared = _comm(parts), parts.prepared
    worker = together(comm, parts.worker)
    rate = comm.bcast(None)  # what a schedule begins with, or a restored run goes on with
    worker.follow(rate)
    size = prepared.adapter.manifest.size
    leads = parts.rank in (*parts.topology.leaders, *parts.topology.spares)
    parent: ChildEnd | SlicesEnd | None = None
    if leads and parts.topology.n_shards > 1:
        parent = SlicesEnd(comm, parts.slices, size, rate)
    elif leads:
        parent = ChildEnd(comm, parts.topology.parent(parts.rank), Frame(size))
    ring = None if prepared.ring is None else RingEnd(prepared.ring, Frame(size), parent)
    exchange = ring.exchange if ring is not None else parent.exchange  # type: ignore[union-attr]
    with ignored_signals():
        try:
            run = worker.run(prepared.weights)
            message = next(run)
            while (down := exchange(message)).header.kind is not Kind.FINAL:
                message = run.send(down)
        except BaseException as error:  # sys.exit in user code too: rank 0 must hear of it
            exchange(worker.failure(error, link.host()))
    gather(None)


def train_together(parts: Parts, root: Root | None, gather: Gather) -> Master:
    """One of several ranks alike: each applies the same reduced updates to its own weights.

    root: on rank 0, whose decisions (stop, learning rate) ride in the next reduction.
    """
    comm = _comm(parts)
    end = Loopback()

    def make() -> Replica:
        master = parts.master(root or Nobody(), end, [parts.rank], Master)
        ring = parts.reducer
        assert ring is not None
        if root is not None:
            _begin(parts, root, master)
        return Replica(comm, master, end, ring, root)

    replica = together(comm, make)
    worker = together(comm, parts.worker)
    if root is None:
        with ignored_signals():
            replica.run(worker, parts.prepared.weights)
        gather(None)
        return replica.master
    with root.background, signals(root):
        replica.run(worker, parts.prepared.weights)
        gather(None)
        _finish(root, replica.master)
    return replica.master


def _begin(parts: Parts, root: Root, master: Master) -> None:
    if parts.prepared.checkpoint is not None:
        whole = not parts.prepared.ranks_restored
        root.restore(parts.prepared.checkpoint, whole_epochs=whole)
    root.begin(master)


def _finish(root: Root, master: Master) -> None:
    if master.error is not None:
        raise master.error
    root.finish(master)


def _comm(parts: Parts) -> "MPI.Intracomm":
    assert parts.comm is not None
    return parts.comm
