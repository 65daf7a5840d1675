"""A rank in the middle, whose children and parent say what a test wants."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnlo.mpi.branch import Branch, BranchPlan
from nnlo.mpi.frame import N_TIMES, Flag, Frame, Header, Kind, pack_arrays, unpack_arrays, up_frame
from nnlo.mpi.loopback import Loopback
from nnlo.mpi.master import Master
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.refusal import Refusal, pack_refusals
from nnlo.mpi.submaster import SubMaster
from tests.mpi.fakes import LinearModel

RANK = 1
CHILDREN = (3, 4)


class Between:
    """quorum, max_staleness: of the protocol below."""

    middle: Any

    def __init__(self, children: Any = CHILDREN, **rules: Any) -> None:
        self.manifest = LinearModel().manifest
        self.link = Loopback()
        self.protocol = MasterProtocol(children, **rules)
        make = up_frame(self.manifest, 2, 1 << 16)
        self.frame, self.spare = make(), make()
        self.frames = {child: make() for child in children}

    def say(
        self,
        child: int,
        kind: Kind = Kind.UPDATE,
        value: float | None = None,
        n_samples: int = 1,
        flags: int = 0,
        state: float | None = None,
        refusals: Sequence[Refusal] = (),
        **fields: Any,
    ) -> None:
        """A message of ``child``; value: of all elements of its update, None without one."""
        frame, extra, flags = self.frames[child], b"", Flag(flags)
        if value is not None:
            frame.vector[:] = value
            frame.tail[N_TIMES:] = n_samples, 0.5 * n_samples
            flags |= Flag.HAS_UPDATE
            fields |= {"n_samples": n_samples, "n_steps": 1}
        if state is not None:
            extra, flags = pack_arrays({f"{child}/s": np.array(state)}), flags | Flag.HAS_STATE
        if refusals:
            flags |= Flag.REFUSED
        n_extra = frame.set_extra(pack_refusals(refusals) + extra)
        layout = self.manifest.hash32
        header = Header(kind, flags, child, layout=layout, n_extra=n_extra)
        frame.header = header._replace(**fields)
        self.middle.receive(child, frame)

    def up(self) -> tuple[Header, np.ndarray]:
        """The message that is due, which there must be."""
        frame = self.middle.up()
        assert frame is not None
        return frame.header, frame.vector.copy()

    def states(self) -> dict[str, float]:
        """What the last message up holds for a checkpoint."""
        return {k: float(v) for k, v in unpack_arrays(self.frame.extra.tobytes()).items()}

    def answer(
        self, kind: Kind = Kind.WEIGHTS, value: float = 0.0, flags: int = 0, **fields: Any
    ) -> None:
        down = Frame(self.manifest.size)
        down.vector[:] = value
        down.header = Header(kind, Flag(flags), **fields)
        self.middle.answer(down)

    def heard(self) -> dict[int, tuple[Header, float]]:
        """What each child has been answered since the last call: header, first weight."""
        answers = {}
        for child, frame in self.link.answers:
            first = float(frame.vector[0]) if frame.vector.size else np.nan
            answers[child] = frame.header, first
            frame.in_flight -= 1
        self.link.answers.clear()
        return answers


class OverSubMaster(Between):
    def __init__(self, merge: Any = "mean", **rules: Any) -> None:
        super().__init__(**rules)
        self.middle = SubMaster(
            RANK, self.manifest, merge, self.protocol, self.link, self.frame, ("loss",)
        )


class OverBranch(Between):
    """root: the algorithm above, of which there are two branches. own: that of the branch."""

    def __init__(self, root: Any, own: Any, weights: float = 0.0, **rules: Any) -> None:
        super().__init__(**rules)
        n = self.manifest.n_trainable
        plan = BranchPlan(RANK, ("loss",), n, root.sync_every, root.pulls, sends_state=False)
        self.half = root.worker(n, 2)
        self.middle = Branch(plan, self.half, self.frame)
        start = np.full(self.manifest.size, weights, np.float32)
        half = own.master(n, len(CHILDREN))
        self.master = Master(self.manifest, half, self.protocol, self.link, self.middle, start)
        self.middle.begin(self.master, start, version=7)
