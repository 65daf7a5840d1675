"""What a rank says to its parent when its code has raised."""

import traceback

from nnlo.errors import NNLOError
from nnlo.mpi.frame import ERROR_BYTES, Frame, Header, Kind


def describe(error: BaseException) -> str:
    """The text for users: our own errors say it all, others need their traceback."""
    if isinstance(error, NNLOError):
        return str(error)
    return "".join(traceback.format_exception(error))


def write_failure(frame: Frame, rank: int, layout: int, host: str, trace: str) -> None:
    """Make ``frame`` the message that code of ``rank`` on ``host`` has failed."""
    head = f"{host}\n".encode()
    frame.tail[:] = 0.0
    # The end of a traceback says more than its beginning.
    n_extra = frame.set_extra(head + trace.encode()[-(ERROR_BYTES - len(head)) :])
    frame.header = Header(Kind.ERROR, sender=rank, layout=layout, n_extra=n_extra)


def read_failure(frame: Frame) -> tuple[int, str, str]:
    """Rank, host and trace of such a message."""
    host, _, trace = frame.extra.tobytes().decode(errors="replace").partition("\n")
    return frame.header.sender, host, trace
