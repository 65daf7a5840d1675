"""Which run gets which fault: one seed, one training run, one fault at a random moment of it."""

import random
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nnlo.mpi.topology import Topology

N_TRAIN, BATCH, EPOCHS = 1500, 25, 6
TRAINING_S = 3.0
"""What a run without faults trains for, by pauses after each batch."""

MODES: dict[str, tuple[object, ...]] = {
    "downpour": ("--learning-rate", 0.003),
    "downpour, local": ("--sync-every", 4, "--worker-learning-rate", 0.01),
    "easgd": ("--mode", "easgd", "--sync-every", 4),
    "gem": ("--mode", "gem"),
    "diloco": ("--mode", "diloco", "--sync-every", 6),
    "allreduce": ("--mode", "allreduce", "--learning-rate", 0.01),
}


@dataclass(frozen=True)
class Shape:
    """Options that ask for it, the modes tried in it, numbers of ranks, the least first."""

    words: tuple[object, ...]
    modes: tuple[str, ...]
    ranks: tuple[int, ...]


_ALL = ("downpour", "downpour, local", "easgd", "gem", "diloco")
_BRANCHES = ("--n-masters", 3, "--root-mode", "easgd", "--root-params", "sync_every=4")
SHAPES = {
    "star": Shape((), _ALL, (3, 3, 4, 4, 5, 7)),
    "synchronous star": Shape(("--synchronous",), ("downpour", "easgd", "diloco"), (3, 4, 5, 6)),
    "tree": Shape(("--n-masters", 3), ("downpour", "easgd", "diloco"), (5, 5, 6, 7)),
    "branches": Shape(_BRANCHES, ("downpour", "easgd"), (5, 6)),
    "rings": Shape(("--n-processes", 2), ("downpour", "downpour, local", "easgd"), (5, 5, 6, 7)),
    "allreduce": Shape((), ("allreduce",), (3, 3, 4, 5)),
    "shards": Shape(("--n-shards", 2), ("downpour", "easgd"), (4, 5)),
}
EXACT = ("star", "synchronous star")
"""Where a lost worker costs no sample and brings none twice."""
ORDERED = ("synchronous star", "allreduce")
"""Where a run that goes on from a checkpoint knows where everybody was."""


@dataclass(frozen=True)
class Fault:
    """What is done to a run and what must come of it.

    do: kill, freeze, raise, nan, slow, cut (a data file), stop (SIGTERM), end (SIGKILL for the
    whole job), none. whom: role of the victim. freeze_s: how long, None for ever. moment: shares
    of the training between which it comes; before 0 is during the start-up. suspect_after: the
    option. words: further ones. tolerant: whether ranks may outlive others. restarts: how many
    nnlorun may make. again: whether the run is started a second time, from its checkpoint.
    damage: whether the newest checkpoint is cut off before. codes: of the first start.
    says: what must be read in what it says. extra_s: what it may cost. shapes: where it is tried.
    """

    do: str
    whom: str = "trainer"
    freeze_s: tuple[float, float] | None = None
    moment: tuple[float, float] = (0.1, 0.85)
    suspect_after: float = 5.0
    words: tuple[object, ...] = ()
    tolerant: bool = True
    restarts: int = 0
    again: bool = False
    damage: bool = False
    codes: tuple[int, ...] = (0,)
    says: str = ""
    tracebacks: int = 0
    extra_s: float = 5.0
    shapes: tuple[str, ...] = tuple(SHAPES)


SAVING = ("--checkpoint", "cp", "--checkpoint-interval", 1)
_WHOLE = tuple(name for name in SHAPES if name != "shards")
_DIED = r"rank|worker"
_AGAIN = r"restart 1 of 2"
_START = dict(moment=(-1.0, 0.0), restarts=2, words=SAVING, extra_s=25.0)
FAULTS = {
    "none": Fault("none", extra_s=0.0),
    "worker killed": Fault("kill", says=_DIED, shapes=_WHOLE),
    "worker killed at the end": Fault("kill", moment=(0.93, 1.0), shapes=_WHOLE),
    "two killed": Fault("kill", "two", says=_DIED, shapes=_WHOLE),
    "sub-master killed": Fault("kill", "sub-master", says=_DIED, shapes=("tree", "branches")),
    "ring member killed": Fault("kill", "member", says=_DIED, shapes=("rings",)),
    "rank 0 killed, restart": Fault(
        "kill", "root", words=SAVING, restarts=2, says=_AGAIN, extra_s=25.0
    ),
    "killed while starting": Fault("kill", "any", **_START, shapes=("star", "tree", "allreduce")),
    "killed without ULFM, restart": Fault(
        *("kill", "any"), tolerant=False, words=SAVING, restarts=2, says=_AGAIN, extra_s=25.0
    ),
    "a shard killed, restart": Fault(
        *("kill", "any"), words=SAVING, restarts=2, says=_AGAIN, extra_s=25.0, shapes=("shards",)
    ),
    "frozen for a moment": Fault("freeze", freeze_s=(0.1, 0.8), shapes=_WHOLE),
    "frozen, wakes up": Fault(
        "freeze", freeze_s=(2.5, 4.0), suspect_after=1.0, extra_s=10.0, shapes=_WHOLE
    ),
    "frozen for ever": Fault(
        *("freeze",), suspect_after=0.5, says=r"silent|stopped", extra_s=40.0, shapes=_WHOLE
    ),
    "raises, abort": Fault("raise", codes=(1,), says="the injected fault", tracebacks=1),
    "raises, continue": Fault(
        *("raise",),
        words=("--on-worker-error", "continue"),
        says="the injected fault",
        tracebacks=1,
        shapes=EXACT,
    ),
    "some nan": Fault("nan", says="not finite"),
    "all nan": Fault("nan", "all", codes=(1,), says="must be finite"),
    "slow disk": Fault("slow", "all", words=SAVING, extra_s=15.0),
    "data file cut": Fault("cut", moment=(0.1, 0.6), codes=(1,), says=r"\.h5", extra_s=15.0),
    "job killed, restore": Fault(
        "end", words=SAVING, again=True, codes=(-9,), moment=(0.25, 0.9), extra_s=25.0
    ),
    "job killed, newest checkpoint cut": Fault(
        *("end",),
        words=SAVING,
        again=True,
        damage=True,
        codes=(-9,),
        moment=(0.5, 0.9),
        says="passed over",
        extra_s=25.0,
        shapes=("star", "synchronous star", "allreduce", "rings"),
    ),
    "SIGTERM, restore": Fault("stop", words=SAVING, again=True, codes=(75,), extra_s=25.0),
}
CELLS = [(shape, name) for name in FAULTS if name != "none" for shape in FAULTS[name].shapes]
random.Random(6).shuffle(CELLS)  # so that the first seeds try a bit of everything
UNDISTURBED = [(shape, mode) for shape in SHAPES for mode in SHAPES[shape].modes]


@dataclass(frozen=True)
class Case:
    """One run. n_ranks: spares among them. moment: share of the training. victims: ranks."""

    seed: int
    shape: str
    mode: str
    fault: str
    n_ranks: int
    spares: int
    moment: float
    victims: tuple[int, ...] = ()
    freeze_s: float | None = None
    order: dict[str, Any] = field(default_factory=dict)

    @property
    def n_trainers(self) -> int:
        return len(_topology(self.shape, self.n_ranks, self.spares).trainers)

    @property
    def limit_s(self) -> float:
        """When it should have ended: the starts on two cores, the training, the fault."""
        fault = FAULTS[self.fault]
        starts = 1 + (fault.restarts > 0) + fault.again
        return starts * (6.0 + 2.5 * self.n_ranks) + 3.0 * TRAINING_S + fault.extra_s

    def record(self) -> dict[str, Any]:
        return asdict(self)


def draw(seed: int) -> Case:
    """The run of this seed; successive seeds go through all faults in all shapes."""
    chance = random.Random(seed)
    shape, name = CELLS[seed % len(CELLS)]
    fault = FAULTS[name]
    kind = SHAPES[shape]
    n_ranks = max(chance.choice(kind.ranks), kind.ranks[0] + (fault.whom == "two"))
    spares = 0 if shape == "shards" or not fault.tolerant else chance.choice((0, 0, 1))
    spares = spares if n_ranks > kind.ranks[0] else 0
    # What is silent for long is counted in intervals between exchanges: short ones, here.
    modes = kind.modes[:1] if fault.do == "freeze" and not fault.freeze_s else kind.modes
    case = Case(
        *(seed, shape, chance.choice(modes), name, n_ranks, spares),
        moment=round(chance.uniform(*fault.moment), 3),
        freeze_s=round(chance.uniform(*fault.freeze_s), 2) if fault.freeze_s else None,
    )
    return _with_victims(case, chance)


def undisturbed(seed: int) -> Case:
    """A run without fault; successive seeds go through all modes in all shapes."""
    chance = random.Random(seed)
    shape, mode = UNDISTURBED[seed % len(UNDISTURBED)]
    return Case(seed, shape, mode, "none", chance.choice(SHAPES[shape].ranks), 0, 1.0)


def _topology(shape: str, n_ranks: int, spares: int) -> Topology:
    words = dict(zip(SHAPES[shape].words[::2], SHAPES[shape].words[1::2], strict=False))
    return Topology(
        n_ranks,
        words.get("--n-masters", 1),  # type: ignore[arg-type]
        words.get("--n-processes", 1),  # type: ignore[arg-type]
        words.get("--n-shards", 1),  # type: ignore[arg-type]
        has_master=shape != "allreduce",
        n_spares=spares,
    )


def _with_victims(case: Case, chance: random.Random) -> Case:
    topology = _topology(case.shape, case.n_ranks, case.spares)
    fault = FAULTS[case.fault]
    trainers = [rank for rank in topology.trainers if rank > 0]
    others = {
        "sub-master": list(topology.sub_masters),
        "member": [rank for worker in topology.workers for rank in worker[1:]],
        "root": [0],
        "any": list(range(case.n_ranks)),
    }
    n = 2 if fault.whom == "two" else 1
    victims = tuple(chance.sample(others.get(fault.whom, trainers), n))
    if fault.do in ("kill", "freeze"):
        return replace(case, victims=victims)
    n_batches = EPOCHS * N_TRAIN / BATCH / len(topology.trainers)
    order: dict[str, Any] = {"do": fault.do, "rank": victims[0] if fault.whom != "all" else None}
    if fault.do == "slow":
        order |= {"fsync_s": round(chance.uniform(0.1, 0.8), 2), "read_s": 0.05}
    elif fault.do in ("raise", "nan"):
        count = 10**9 if fault.whom == "all" or fault.do == "raise" else chance.randint(1, 3)
        order |= {"batch": max(1, int(case.moment * n_batches)), "count": count}
    else:
        return case
    return replace(case, order=order)
