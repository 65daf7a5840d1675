"""Time the two ways in which particles on several ranks meet, and what they hold and move.

    nnlorun -n 4 python benchmarks/svgd.py [--particles 8] [--size 1000000] [--rounds 10]

The ways take turns within a round. A row is of one rank; its time is from a step's begin until
all ranks have their directions. "alone": all particles on one rank, no message.
"""

import argparse
import resource
import statistics
import time
from typing import Any

import numpy as np

from nnlo.bayes.exchange import Meeting, meet
from nnlo.bayes.placement import Placement
from nnlo.mpi import link

MB = 1e6


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--size", type=int, default=1_000_000, help="weights of a particle")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    comm: Any = link.world()
    n_ranks, rank = (1, 0) if comm is None else (comm.size, comm.rank)
    placement = Placement(options.particles, n_ranks)
    counts = [len(placement.pids(r)) for r in range(n_ranks)]
    groups = [slice(0, options.size)]
    meetings = {"alone": meet(None, [options.particles], groups)}
    if comm is not None:
        meetings |= {
            way: meet(comm, counts, groups, None, way) for way in ("allgather", "transpose")
        }
    times: dict[str, list[float]] = {way: [] for way in meetings}
    for _ in range(options.rounds + 1):  # the first touches the memory
        for way, meeting in meetings.items():
            n_own = options.particles if way == "alone" else counts[rank]
            took = timed(comm, meeting, n_own, options.size, sits_out=way == "alone" and rank > 0)
            times[way].append(took)
    if rank == 0:
        report(times, counts, options.size)


def timed(comm: Any, meeting: Meeting, n_own: int, size: int, *, sits_out: bool) -> float:
    """Seconds of one step, of the slowest rank."""
    particles, scores = np.random.default_rng(0).normal(size=(2, n_own, 1)).astype(np.float32)
    particles, scores = np.repeat(particles, size, axis=1), np.repeat(scores, size, axis=1)
    if comm is not None:
        link.barrier(comm)
    begin = time.perf_counter()
    if not sits_out:
        meeting.descend(particles, scores, scores)
    if comm is not None:
        link.barrier(comm)
    return time.perf_counter() - begin


def report(times: dict[str, list[float]], counts: list[int], size: int) -> None:
    """The table, and the ratios of its medians."""
    n_ranks, n_particles, own = len(counts), sum(counts), counts[0]
    received = {
        "alone": 0.0,
        "allgather": 8.0 * (n_particles - own) * size,
        "transpose": 12.0 * own * size * (n_ranks - 1) / n_ranks,
    }
    held = {
        "alone": 0.0,
        "allgather": 8.0 * n_particles * size,
        "transpose": 4.0 * size * (own + 2 * n_particles / n_ranks),
    }
    print(f"{n_particles} particles of {size} weights on {n_ranks} ranks; one step")
    print("way         received  buffers    median  quartiles")
    medians = {}
    for way, all_times in times.items():
        low, medians[way], high = statistics.quantiles(all_times[1:], n=4)
        print(
            f"{way:<10} {received[way] / MB:6.1f} MB {held[way] / MB:5.1f} MB "
            f"{medians[way] * 1e3:6.1f} ms  {low * 1e3:.1f} .. {high * 1e3:.1f}"
        )
    if "allgather" in times:
        ratio = medians["transpose"] / medians["allgather"]
        print(f"transpose/allgather: time {ratio:.2f}, ", end="")
        print(f"bytes {received['transpose'] / received['allgather']:.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"peak memory of rank 0: {peak:.0f} MB")


if __name__ == "__main__":
    main()
