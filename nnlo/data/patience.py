"""Patience with filesystems that fail for a moment, as those of clusters do."""

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import CalledProcessError
from typing import TypeVar

from nnlo.errors import DataError

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSES = (0.1, 0.3, 1.0, 3.0, 5.0)
"""Seconds between attempts, 9.4 in all: NFS attributes are refreshed within 3 to 60 s."""

_PASSING = frozenset(
    (
        *(errno.ESTALE, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO, errno.ENODEV),
        *(errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNREFUSED),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    )
)


@dataclass(frozen=True)
class Patience:
    """How often and how long a file is tried again. pauses: seconds between two attempts."""

    pauses: tuple[float, ...] = PAUSES
    sleep: Callable[[float], object] = time.sleep

    def run(self, attempt: Callable[[], T], name: str, *, was_there: bool = True) -> T:
        """Return ``attempt()``, made again while it raises what may pass.

        name: of the file, for the warning. was_there: the file has been read before, so that
        its absence may pass too. Raises DataError that says how often it was tried; what does
        not pass comes up at once, as it is.
        """
        start = time.monotonic()
        for number, pause in enumerate(self.pauses):
            try:
                return attempt()
            except (OSError, DataError) as error:
                if not _may_pass(error, was_there):
                    raise
                if number == 0:
                    seconds = sum(self.pauses)
                    log.warning("%s: %s; trying again for %.0f s", name, error, seconds)
                self.sleep(pause)
        try:
            return attempt()
        except (OSError, DataError) as error:
            if not _may_pass(error, was_there):
                raise
            n_tries, seconds = len(self.pauses) + 1, time.monotonic() - start
            raise DataError(
                f"a data file must be readable, got {error} for {name}, {n_tries} times in "
                f"{seconds:.0f} s; check the file and its filesystem"
            ) from error


def _may_pass(error: OSError | DataError, was_there: bool) -> bool:
    cause = error.__cause__ if isinstance(error, DataError) else error
    if isinstance(cause, CalledProcessError):  # a copy command
        return was_there
    number = getattr(cause, "errno", None)
    return number in _PASSING or (was_there and number == errno.ENOENT)
