"""How much memory this process has, and an end to a training that takes too much."""

import os
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Of this process, 0 where the system does not tell (man 5 proc)."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class MemoryLimit:
    """Raises MemoryError once this process has more than ``gib`` GiB; asked at each batch."""

    def __init__(self, gib: float) -> None:
        self._gib = gib

    def __call__(self) -> None:
        found = resident_bytes() / 2**30
        if found > self._gib:
            raise MemoryError(
                f"a rank must stay within --trial-memory {self._gib:g} GiB, got {found:.2f} GiB"
            )
