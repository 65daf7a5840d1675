"""Time an exchange of a worker with its master against bare MPI and against many messages.

    nnlorun -n 2 python benchmarks/exchange.py [--rounds 15] [--busy 0]

Started alone it starts itself on two ranks. No update is computed: what is timed is what the
messages cost. The patterns take turns within a round, so that a slow phase of the machine
meets all alike; a row shows quartiles over all exchanges of all rounds.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from nnlo.algo.base import Update, Vector
from nnlo.algo.downpour import DownpourWorker
from nnlo.cli.threads import ALONE, local_place
from nnlo.data import Data
from nnlo.model.adapter import ModelAdapter
from nnlo.model.manifest import Manifest
from nnlo.mpi import link
from nnlo.mpi.ends import ChildEnd, ParentEnd
from nnlo.mpi.frame import N_TIMES, Frame, Header, up_frame
from nnlo.mpi.master import Master
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.worker import Worker
from nnlo.mpi.workerplan import WorkerPlan

MASTER, WORKER = 0, 1
BEGIN_UPDATE, TIME, ACCEPTED, BEGIN_WEIGHTS, TENSOR = 11, 12, 13, 14, 15  # tags of (c)
N_SUMS = 3  # samples, loss, accuracy


class Case(NamedTuple):
    """A model to send: per layer a matrix and vectors of its width."""

    layers: int
    rows: int
    width: int
    vectors: int
    exchanges: int  # per pattern and round

    def manifest(self) -> Manifest:
        shapes = [(self.rows, self.width), *[(self.width,)] * self.vectors] * self.layers
        return Manifest.pack([(str(i), shape) for i, shape in enumerate(shapes)], [])


CASES = (Case(106, 488, 489, 2, 3), Case(4, 322, 322, 1, 100))


class Pattern(Protocol):
    """A way to carry an update up and the weights down."""

    name: str

    def serve(self, n: int) -> None:
        """Rank 0: answer ``n`` exchanges."""

    def exchange(self) -> None:
        """Rank 1: one of them."""


class Bare:
    """The bytes of one UP and one DOWN, in one blocking message each."""

    name = "a  bare Send and Recv, same bytes"

    def __init__(self, comm: Any, manifest: Manifest) -> None:
        self._comm = comm
        # The rooms that follow the vectors for errors and states are not sent.
        self._up = np.ones(Frame(manifest.size, N_TIMES + N_SUMS).buffer.size, np.uint8)
        self._down = np.ones(Frame(manifest.size).buffer.size, np.uint8)

    def serve(self, n: int) -> None:
        for _ in range(n):
            self._comm.Recv(self._up, WORKER)
            self._comm.Send(self._down, WORKER)

    def exchange(self) -> None:
        self._comm.Send(self._up, MASTER)
        self._comm.Recv(self._down, MASTER)


class Ours:
    """The package's own frames, ends, master and worker."""

    name = "b  NNLO"

    def __init__(self, comm: Any, manifest: Manifest) -> None:
        make = up_frame(manifest, N_SUMS)
        weights = np.ones(manifest.size, np.float32)
        if comm.rank == MASTER:
            self._end = ParentEnd(comm, {WORKER: make()})
            self._master = Master(
                manifest, NoArithmetic(), MasterProtocol([WORKER]), self._end, Unwatched(), weights
            )
            self._end.open()
        else:
            self._child = ChildEnd(comm, MASTER, Frame(manifest.size))
            adapter, data = cast(ModelAdapter, Untrained(manifest)), cast(Data, Endless())
            half = DownpourWorker(manifest.n_trainable, trains_locally=False)
            self._run = Worker(WORKER, adapter, data, half, make(), WorkerPlan(1)).run(weights)
            self._message = next(self._run)

    def serve(self, n: int) -> None:
        backoff = link.Backoff()
        while n:
            arrivals = self._end.arrivals()
            for child, frame in arrivals:
                self._master.receive(child, frame)
            n -= len(arrivals)
            if arrivals:
                backoff.reset()
            else:
                backoff.sleep()

    def exchange(self) -> None:
        self._message = self._run.send(self._child.exchange(self._message))

    def close(self) -> None:
        if hasattr(self, "_end"):
            self._end.close()


class ManyMessages:
    """A message per tensor and pickled control messages, 2 L + 5 of them for L tensors."""

    name = "c  a message per tensor"

    def __init__(self, comm: Any, manifest: Manifest) -> None:
        self._comm = comm
        self._update = manifest.split(np.ones(manifest.size, np.float32))
        self._weights = manifest.split(np.ones(manifest.size, np.float32))
        self._step = 0

    def serve(self, n: int) -> None:
        from mpi4py import MPI

        comm, status = self._comm, MPI.Status()
        for _ in range(n):
            self._step += 1
            comm.recv(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status)
            child = status.Get_source()
            comm.recv(source=child, tag=TIME)
            comm.send(True, child, ACCEPTED)
            for tensor in self._update:
                comm.Recv(tensor, child, TENSOR)
            comm.send(self._step, child, TIME)
            comm.send(None, child, BEGIN_WEIGHTS)
            for tensor in self._weights:
                comm.Send(tensor, child, TENSOR)

    def exchange(self) -> None:
        comm = self._comm
        comm.send(None, MASTER, BEGIN_UPDATE)
        comm.send(self._step, MASTER, TIME)
        comm.recv(source=MASTER, tag=ACCEPTED)
        for tensor in self._update:
            comm.Send(tensor, MASTER, TENSOR)
        self._step = comm.recv(source=MASTER, tag=TIME)
        comm.recv(source=MASTER, tag=BEGIN_WEIGHTS)
        for tensor in self._weights:
            comm.Recv(tensor, MASTER, TENSOR)


class NoArithmetic:
    """A master half that leaves the weights as they are."""

    learning_rate = 1.0

    def apply(self, weights: Vector, updates: Sequence[Update], out: Vector) -> None:
        """Nothing: whether ``out`` is ``weights`` or a free frame, only its bytes count."""

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


class Unwatched:
    """An observer that does nothing."""

    def counted(self, child: int, header: Header, tail: np.ndarray, staleness: int) -> None: ...

    def stepped(self, master: Master) -> None: ...

    def state_came(self, child: int, state: bytes, leaves: bool) -> None: ...


class Untrained:
    """A model adapter whose batches cost nothing."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def set_flat(self, vector: Vector) -> None: ...

    def gradient(self, batch: object, out: Vector) -> np.ndarray:
        return np.ones(N_SUMS)


class Endless:
    """An epoch without end."""

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[object]:
        while True:
            yield None


def main() -> None:
    """Parse the options, start a second rank where there is none, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each pattern")
    parser.add_argument("--busy", type=int, default=0, help="processes that compute beside")
    options = parser.parse_args()
    if local_place(os.environ) is ALONE:
        command = [sys.executable, "-m", "nnlo.cli.launch", "-n", "2"]
        os.execv(sys.executable, [*command, *sys.argv])
    comm = link.world()
    if comm is None or comm.size != 2:
        sys.exit("benchmarks/exchange.py must have 2 ranks; start it with nnlorun -n 2")
    with computing(options.busy if comm.rank == WORKER else 0):
        for case in CASES:
            times = measure(comm, case, options.rounds)
            if comm.rank == WORKER:
                report(case, times)


@contextmanager
def computing(n: int) -> Iterator[None]:
    """Keep ``n`` processes busy."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(comm: Any, case: Case, rounds: int) -> dict[str, list[float]]:
    """Seconds of every exchange by pattern; empty lists on rank 0."""
    manifest = case.manifest()
    ours = Ours(comm, manifest)
    patterns: list[Pattern] = [Bare(comm, manifest), ours, ManyMessages(comm, manifest)]
    times: dict[str, list[float]] = {pattern.name: [] for pattern in patterns}
    for _ in range(rounds):
        for pattern in patterns:
            link.barrier(comm)
            if comm.rank == MASTER:
                pattern.serve(1 + case.exchanges)
                continue
            pattern.exchange()  # the ranks leave the barrier at different times
            times[pattern.name] += [seconds(pattern.exchange) for _ in range(case.exchanges)]
    link.barrier(comm)
    ours.close()
    return times


def report(case: Case, times: dict[str, list[float]]) -> None:
    """Print a line a pattern and the two ratios."""
    manifest = case.manifest()
    n_exchanges = len(next(iter(times.values())))
    print(
        f"\n{manifest.size:,} floats in {len(manifest.entries)} tensors, "
        f"{8 * manifest.size / 1e6:.1f} MB there and back, {n_exchanges} exchanges a row, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':36}{'median, ms':>11}{'quartiles, ms':>18}{'GB/s':>7}")
    medians = []
    for name, found in times.items():
        low, median, high = np.percentile(found, (25, 50, 75)) * 1e3
        medians.append(median)
        rate = 8e-6 * manifest.size / median
        print(f"{name:36}{median:11.2f}{f'{low:.2f} to {high:.2f}':>18}{rate:7.1f}")
    bare, ours, many = medians
    print(f"b/a {ours / bare:.2f} (goal: at most 1.3)    c/b {many / ours:.1f} (goal: at least 4)")


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
