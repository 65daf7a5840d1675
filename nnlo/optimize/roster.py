"""Which blocks there are and what each of them does."""


class Roster:
    """A block is in one of the four, or not there."""

    def __init__(self) -> None:
        self.busy: dict[int, tuple[int, float]] = {}
        """block -> its trial, since when."""
        self.idle: dict[int, None] = {}
        """In the order in which they became free."""
        self.leaving: dict[int, int | None] = {}
        """block, about to say Idle -> the trial that it may have finished before it heard."""
        self.stuck: set[int] = set()
        """Silent for too long, perhaps for ever."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no block to be expected anything of."""
        return not (self.busy or self.idle or self.leaving)

    def has(self, block: int, trial: int) -> bool:
        """Whether the block is busy with that trial."""
        return block in self.busy and self.busy[block][0] == trial

    def may_finish(self, block: int, trial: int) -> bool:
        """Whether it is busy with that trial, or leaving it unless it was done just now."""
        return self.has(block, trial) or self.leaving.get(block) == trial

    def free(self, block: int) -> None:
        """It is idle, whatever it was."""
        self.remove(block)
        self.idle[block] = None

    def start(self, trial: int, now: float) -> int:
        """The block that is idle for longest gets ``trial``."""
        block = next(iter(self.idle))
        del self.idle[block]
        self.busy[block] = (trial, now)
        return block

    def leave(self, block: int, trial: int | None = None) -> None:
        """It will say Idle, or that it finished ``trial``."""
        self.remove(block)
        self.leaving[block] = trial

    def hang(self, block: int) -> None:
        self.remove(block)
        self.stuck.add(block)

    def remove(self, block: int) -> int | None:
        """Forget it; the trial that it was busy with."""
        self.idle.pop(block, None)
        self.leaving.pop(block, None)
        self.stuck.discard(block)
        trial, _ = self.busy.pop(block, (None, 0.0))
        return trial

    def overdue(self, now: float, seconds: float) -> list[tuple[int, int]]:
        """(block, trial) of those that are busy for more than ``seconds``."""
        return [(block, one) for block, (one, since) in self.busy.items() if now - since > seconds]
