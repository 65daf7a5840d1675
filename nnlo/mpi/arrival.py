"""What a message of a child is to the protocol."""

from nnlo.errors import ProtocolError
from nnlo.mpi.events import Arrived
from nnlo.mpi.frame import Flag, Header, Kind


def read_arrival(child: int, header: Header, layout: int) -> Arrived:
    """The event that a message with ``header`` is; who sends an ERROR leaves.

    layout: 32 bits of the model's hash. Raises ProtocolError for a message of another model.
    """
    if header.layout != layout:
        raise ProtocolError(
            f"all ranks must train the same model, got another layout from rank {child}; "
            "check that the model file is the same on all nodes"
        )
    return Arrived(
        child,
        has_update=bool(header.flags & Flag.HAS_UPDATE) and header.n_samples > 0,
        leaves=header.kind in (Kind.BYE, Kind.ERROR),
        pulls=bool(header.flags & Flag.PULLS),
        refused=bool(header.flags & Flag.REFUSED),
    )
