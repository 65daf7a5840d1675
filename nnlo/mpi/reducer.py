"""How the ranks of a run without master reduce: chosen by what the algorithm says."""

from typing import TYPE_CHECKING

from nnlo.algo.allreduce import Allreduce
from nnlo.algo.base import Algorithm
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi.frame import Frame
from nnlo.mpi.horovod import HorovodRing, find_horovod
from nnlo.mpi.overlap import EarlyRing, buckets, check_overlap
from nnlo.mpi.ringend import RingEnd
from nnlo.mpi.shortring import ShortRing, is_short

if TYPE_CHECKING:
    from mpi4py import MPI


def make_reducer(
    algo: Algorithm,
    adapter: ModelAdapter,
    ring: "MPI.Intracomm | None",
    comm: "MPI.Intracomm | None",
) -> RingEnd | None:
    """Return this rank's end of ``ring``, or None where a rank is alone.

    ring, comm: of the same ranks. Raises ConfigError for a way to reduce that the model or the
    machine does not allow, on a single rank too.
    """
    overlap = isinstance(algo, Allreduce) and algo.overlap
    by_horovod = isinstance(algo, Allreduce) and algo.engine == "horovod"
    if overlap:
        check_overlap(adapter)
    horovod = find_horovod(adapter) if by_horovod else None
    if ring is None or comm is None:
        return None
    manifest = adapter.manifest
    down = Frame(manifest.size)
    if by_horovod:
        return HorovodRing(ring, down, horovod)
    if overlap:
        # On one communicator the votes would have to keep their place among the buckets.
        return EarlyRing(ring, comm, down, buckets(manifest), manifest.n_trainable)
    if is_short(manifest.size, 1 + len(adapter.metric_names)):
        return ShortRing(ring, down)
    return RingEnd(ring, down)
