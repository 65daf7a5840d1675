"""A search whose trials only pretend to train: they sleep, report, obey, and break when told.

Started under nnlorun with a folder and a JSON object, see ``ORDERS``.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from nnlo.errors import NNLOError
from nnlo.mpi import link, ulfm
from nnlo.optimize import desk
from nnlo.optimize.attempt import Part
from nnlo.optimize.events import Limits
from nnlo.optimize.pruning import make_pruner
from nnlo.optimize.search import Plan, Search
from nnlo.optimize.searcher import make_searcher
from nnlo.optimize.space import Space
from nnlo.optimize.teller import Voice
from nnlo.optimize.wire import PartEnd

ORDERS: dict[str, Any] = {
    "trials": 6,
    "block_size": 1,
    "folds": 1,
    "epochs": 3,
    "pace": 0.02,  # seconds of an epoch
    "pruning": "none",
    "trial_s": None,
    "last_word_s": 1.0,
    "room": None,  # bytes that rank 0 can write to a file
    "restores": False,
    "refit": False,
    "faults": {},  # trial -> {do, who: ranks of the part, epoch, fold, always}
}


class Pretended:
    """Trains a part in no other way than by sleep."""

    def __init__(self, folder: Path, orders: dict[str, Any]) -> None:
        self._folder = folder
        self._orders = orders

    def __call__(self, part: Part, voice: Voice) -> PartEnd | None:
        verdict = ""
        with (self._folder / f"trained-{os.getpid()}").open("a") as stream:
            stream.write(f"{part.trial}\n")
        for epoch in range(1, self._orders["epochs"] + 1):
            time.sleep(self._orders["pace"])
            merit = math.sin(part.trial) + 1 / epoch + (part.fold or 0)
            do = self._fault(part, epoch)
            error = "".join(self._agreed(part, do))
            if error:
                return PartEnd("failed", part.fold or 0, reason=error) if part.is_first else None
            if part.is_first:
                merit = math.nan if do == "nan" else merit
                voice.report(epoch, (merit,), {"loss": merit}, saved=True)
                verdict = voice.verdict()
            verdict = self._agreed(part, verdict)[0]
            if verdict:
                return PartEnd("left", part.fold or 0, reason=verdict) if part.is_first else None
        end = PartEnd("done", part.fold or 0, (merit,), {"loss": merit}, epoch)
        return end if part.is_first else None

    def _fault(self, part: Part, epoch: int) -> str:
        fault = self._orders["faults"].get(str(part.trial))
        rank = 0 if part.comm is None else part.comm.rank
        if fault is None or rank not in fault.get("who", [0]):
            return ""
        if epoch != fault.get("epoch", 2) or (part.fold or 0) != fault.get("fold", 0):
            return ""
        mark = self._folder / f"fault-{part.trial}-{rank}"
        if mark.exists() and not fault.get("always"):
            return ""
        mark.touch()
        if fault["do"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while fault["do"] == "hang":
            time.sleep(1)
        return str(fault["do"])

    def _agreed(self, part: Part, word: str) -> list[str]:
        """What each rank of the part says: its failures, or its verdicts."""
        words = [word if word != "nan" else ""]
        if part.comm is None:
            return words
        comm = part.comm

        def step() -> list[str]:
            link.barrier(comm)
            return comm.allgather(words[0])

        return ulfm.all_or_none(comm, step)


def make_plan(orders: dict[str, Any]) -> Plan:
    space = Space.from_tune(["x=0.0:1.0"])
    return Plan(
        space,
        make_searcher("random", space, 1),
        Limits(orders["trials"], trial_s=orders["trial_s"] or math.inf),
        make_pruner(orders["pruning"], orders["epochs"]),
        ("loss",),
        {"folds": orders["folds"]},
        orders["restores"],
        refit_epochs=(lambda trial: 2) if orders["refit"] else None,
    )


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    orders = ORDERS | json.loads(sys.argv[2])
    comm = link.world()
    is_first = comm is None or comm.rank == 0
    desk.LAST_WORD_S = orders["last_word_s"]
    if orders["room"] and is_first:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (orders["room"], resource.RLIM_INFINITY))
    perform = Pretended(folder, orders)
    sizes = {"block_size": orders["block_size"], "n_folds": orders["folds"]}
    plan = make_plan(orders) if is_first else None
    search = Search(comm, folder, perform, plan, **sizes)
    error: NNLOError | None = None
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        search.run()
    except NNLOError as raised:
        error = raised
    if search.hung:
        print(f"hung: {sorted(search.hung)}", flush=True)
        link.abort(3)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    try:
        search.close(error)
    except NNLOError as raised:
        left = ulfm.survivors(comm)
        if left is None or left.rank == 0:
            print(f"error: {type(raised).__name__}: {raised}", flush=True)
        ulfm.survivors(left)
        return link.leave(4)
    print(f"rank {0 if comm is None else comm.rank} cpu {share:.4f}", flush=True)
    if is_first:
        refit = search.refit.state if search.refit else "none"
        print(f"over: {search.reason}; {search.interrupted}; refit {refit}", flush=True)
    return link.leave(0)


if __name__ == "__main__":
    sys.exit(main())
