"""What a rank did when, kept only if somebody wants to see it."""

import time
from dataclasses import dataclass, field

Span = tuple[str, float, float]
"""What was done, and from when to when in seconds."""


@dataclass
class Spans:
    """A list of (what, start, end); seconds since ``zero``, which is set at the common start."""

    enabled: bool = False
    zero: float = 0.0
    entries: list[Span] = field(default_factory=list)

    def start(self) -> None:
        """This is second 0, on all ranks."""
        self.zero = time.perf_counter()

    def add(self, what: str, start: float, end: float) -> None:
        """Times as ``time.perf_counter`` gives them."""
        if self.enabled:
            self.entries.append((what, start - self.zero, end - self.zero))
