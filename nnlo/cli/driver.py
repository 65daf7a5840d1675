"""What the programs of many ranks have in common: how they begin, and how they end."""

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nnlo.cli.marks import AGAIN, mark_done, mark_up
from nnlo.cli.options import parse, speak_first
from nnlo.cli.threads import settle_rank
from nnlo.errors import NNLOError, RanksLost
from nnlo.mpi import link, ulfm

if TYPE_CHECKING:
    from mpi4py import MPI

Run = Callable[[Any, "MPI.Intracomm | None"], int]


def drive(
    prog: str, options: type[Any], description: str, run: Run, argv: Sequence[str] | None
) -> int:
    """Run a command on this rank: ``run(options, comm)`` returns its exit code.

    Returns the exit code: that of ``run``, 1 after an error message, 75 where the job shall be
    started again, 130 after Ctrl-C; a command line that cannot be understood ends the program
    with 2.
    """
    settle_rank()
    try:
        chosen = parse(prog, options, description, argv)
        comm = link.world()
    except NNLOError as error:
        mark_done(1)
        speak_first(f"{prog}: error: {error}")
        return 1
    finally:
        mark_up()
    try:
        with ulfm.losses(comm):
            return link.leave(run(chosen, comm))
    except NNLOError as error:
        left = ulfm.survivors(comm)
        code = tell(prog, error, left is None or left.rank == 0)
        ulfm.survivors(left)  # all have heard it before the launcher sees an exit code
        return link.leave(code)
    except ulfm.PeersLost:
        tell(prog, RanksLost("no rank must die before the work begins, got that; start again"))
        link.abort(AGAIN)
        return AGAIN
    except KeyboardInterrupt:
        if comm is not None:
            link.abort(130)
        return 130
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        if comm is not None:
            link.abort(1)
        return 1


def tell(prog: str, error: NNLOError, speaks: bool = True) -> int:
    """Say what has failed, on one rank; return the exit code for it."""
    code = AGAIN if isinstance(error, RanksLost) else 1
    if speaks:
        if code != AGAIN:  # what ends without a mark, nnlorun may start again
            mark_done(code)
        print(f"{prog}: error: {error}", file=sys.stderr, flush=True)
    return code
