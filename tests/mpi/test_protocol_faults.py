"""A master whose workers die, fall silent, come back and fail, in ten thousand random orders."""

import random

import numpy as np
import pytest

from nnlo.algo import Downpour
from nnlo.algo.optimizers import SGD
from nnlo.errors import TrainingError, WorkerFailed
from nnlo.model.manifest import Entry, Manifest
from nnlo.mpi.agenda import Agenda, own_share, unpack
from nnlo.mpi.crew import Crew
from nnlo.mpi.failure import write_failure
from nnlo.mpi.frame import ERROR_BYTES, Flag, Frame, Header, Kind
from nnlo.mpi.loopback import Loopback
from nnlo.mpi.master import Master
from nnlo.mpi.protocol import MasterProtocol

N_EPOCHS, N_BATCHES = 2, 5
SCHEDULES, PARTS = 10_000, 20


class Hand:
    """A worker that only counts: one batch is one cell (epoch, shard, batch)."""

    def __init__(self, rank, share, manifest, rng, pulls):
        self.agenda, self.rank, self.rng, self.pulls = Agenda(share), rank, rng, pulls
        self.frame = Frame(manifest.size, 4, ERROR_BYTES)
        self.layout = manifest.hash32
        self.batches, self.cells, self.pulled = [], [], False

    def work(self):
        """Fill the frame with the next message."""
        if self.pulled or not self.pulls:
            self.cells = [cell for _ in range(self.rng.randint(1, 3)) if (cell := self.step())]
        if self.pulls and not self.pulled and self.has_more():
            self.pulled = True
            self.frame.header = Header(Kind.PULL, layout=self.layout)
            return
        self.pulled = False
        kind = Kind.UPDATE if self.cells else Kind.BYE
        flags = Flag.HAS_UPDATE if self.cells else Flag(0)
        where = {"stint": self.stint.share, "epoch": self.stint.epoch} if self.cells else {}
        batch = self.cells[-1][2] + 1 if self.cells else 0
        self.frame.header = Header(
            *(kind, flags, self.rank, 0, len(self.cells), len(self.cells)),
            batch=batch,
            layout=self.layout,
            **where,
        )

    def has_more(self):
        return bool(self.batches) or any(share.end > share.first for share in self.agenda.rest())

    def step(self):
        while not self.batches:
            if (stint := self.agenda.next()) is None:
                return None
            self.stint = stint
            stop = N_BATCHES if stint.stop is None else stint.stop
            self.batches = list(range(stint.start, stop))
        return self.stint.epoch, self.stint.shard, self.batches.pop(0)


class World:
    """One master, its hands, what happens to them, and which cells were applied."""

    def __init__(self, seed):
        rng = self.rng = random.Random(seed)
        n, self.spares = rng.randint(1, 5), rng.randint(0, 2)
        quorum = rng.choice([None, None, 1.0, 0.5])
        pulls = quorum is None and rng.random() < 0.3
        stale = rng.choice([None, 0, 2]) if quorum is None and not pulls else None
        manifest = Manifest([Entry("model", "w", (1,), "T", 0)])
        children = range(n + self.spares)
        shares = {c: own_share(c, (0, 0), N_EPOCHS) if c < n else [] for c in children}
        protocol = MasterProtocol(
            children, quorum, stale, one_at_a_time=pulls, keeps_children=True
        )
        self.link, self.applied, self.states = Loopback(), [], []
        half = Downpour(SGD()).master(1, n)
        weights = np.zeros(1, np.float32)
        self.master = Master(manifest, half, protocol, self.link, self, weights)
        count = (lambda shard: N_BATCHES) if rng.random() < 0.8 else (lambda shard: None)
        self.master.crew, self.master.fails_alone = Crew(shares, count), True
        self.hands = {c: Hand(c, shares[c], manifest, rng, pulls) for c in children}
        self.all_cells = sorted(
            (e, s, b) for e in range(N_EPOCHS) for s in range(n) for b in range(N_BATCHES)
        )
        self.ready = {c: self.hands[c].work() for c in children}  # messages on their way
        self.frozen, self.dead = set(), set()

    def counted(self, child, header, tail, staleness):
        self.applied += self.hands[child].cells
        self.hands[child].cells = []

    def stepped(self, master): ...

    def state_came(self, *_report): ...

    def run(self):
        """One random thing after another until the master has finished."""
        for _ in range(3000):
            if self.master.finished:
                return
            awake = [c for c in self.ready if c not in self.frozen]
            chance = self.rng.random()
            living = [c for c in self.hands if c not in self.dead]
            if chance < 0.04 and len(living) > 1:
                self.die(self.rng.choice(living))
            elif chance < 0.08 and living:
                self.freeze(self.rng.choice(living))
            elif chance < 0.2 and self.frozen:
                self.frozen.discard(self.rng.choice(sorted(self.frozen)))
            elif awake:
                self.speak(self.rng.choice(awake))
            elif self.frozen:  # nobody else can move: in time a silent one is ended
                self.die(self.rng.choice(sorted(self.frozen)))
            else:
                raise AssertionError("all wait for each other")
        raise AssertionError("no end")

    def die(self, child):
        self.dead.add(child)
        self.frozen.discard(child)
        self.ready.pop(child, None)
        self.master.lose(child, "was killed")
        self.deliver()

    def freeze(self, child):
        self.frozen.add(child)
        if child in self.ready and self.rng.random() < 0.7:
            self.master.suspect(child)
            self.deliver()

    def speak(self, child):
        self.ready.pop(child)
        hand = self.hands[child]
        if self.rng.random() < 0.03 and len(self.hands) - len(self.dead) > 1:
            hand.cells = []
            write_failure(hand.frame, child, hand.layout, "host", "its code raised")
            self.dead.add(child)
        self.master.receive(child, hand.frame)
        self.deliver()

    def deliver(self):
        while self.link.answers:
            child, down = self.link.answers.pop(0)
            down.in_flight -= 1
            if child in self.dead or down.header.kind is Kind.FINAL:
                continue
            hand = self.hands[child]
            if down.header.flags & Flag.GIFT:
                hand.agenda.add(unpack(down.attached))
            hand.work()
            self.ready[child] = None


@pytest.mark.parametrize("part", range(PARTS))
def test_every_batch_is_applied_once_whoever_dies(part):
    for seed in range(part, SCHEDULES, PARTS):
        world = World(seed)
        world.run()
        applied = sorted(world.applied)
        assert len(applied) == len(set(applied)), f"twice, schedule {seed}"
        if world.master.error is None:
            assert applied == world.all_cells, f"lost, schedule {seed}"
        else:
            assert isinstance(world.master.error, TrainingError | WorkerFailed)
            assert len(world.master.crew.lost) == len(world.hands), f"schedule {seed}"
