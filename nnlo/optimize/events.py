"""What a coordinator hears, what it answers, and the limits that it keeps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nnlo.errors import ConfigError
from nnlo.optimize.space import Params
from nnlo.optimize.trials import Record, Trials

NO_BLOCK = "no block is left"
"""Why a search has ended that others can go on with."""


@dataclass(frozen=True)
class Idle:
    """A block, perhaps a new one, has nothing to do."""

    block: int


@dataclass(frozen=True)
class Reported:
    """A trial has the merit after ``epoch`` epochs; saved: it can go on from there."""

    block: int
    trial: int
    epoch: int
    merit: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    saved: bool = False


@dataclass(frozen=True)
class Finished:
    """A trial had all its epochs, or ended by itself before. merits: of a search for several,
    of which ``merit`` is the first. seconds: of the block, all attempts together. leaves: the
    block takes no other trial."""

    block: int
    trial: int
    merit: float
    merits: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    files: Mapping[str, str] = field(default_factory=dict)
    leaves: bool = False


@dataclass(frozen=True)
class Failed:
    """A trial came to nothing; the block lives, or ``leaves``, since ranks of it hang.

    kind: error (an exception), infeasible (parameters that make no model, or one too large), nan,
    timeout, or transient (not the trial's fault: it is given to a block again).
    """

    block: int
    trial: int
    reason: str
    kind: Literal["error", "infeasible", "nan", "timeout", "transient"] = "error"
    leaves: bool = False


@dataclass(frozen=True)
class BlockLost:
    """A block has died. returns: what is left of it will say Idle."""

    block: int
    reason: str = "its block died"
    returns: bool = False


@dataclass(frozen=True)
class Tick:
    """Nothing but time has passed."""


@dataclass(frozen=True)
class Interrupted:
    """A signal, or the user, ends the search before its time; a log of it can be restored."""

    reason: str = "it was interrupted"


Event = Idle | Reported | Finished | Failed | BlockLost | Tick | Interrupted


@dataclass(frozen=True)
class Write:
    """Append to the log, before what follows."""

    record: Record


@dataclass(frozen=True)
class Start:
    """Train from the checkpoint of ``from_epoch`` (0: anew) and report after ``to_epoch`` epochs
    at the latest; wait there for the verdict unless those are all."""

    block: int
    trial: int
    params: Params
    attempt: int
    from_epoch: int
    to_epoch: int


@dataclass(frozen=True)
class Verdict:
    """continue: to ``to_epoch``. pause, suspend: keep the checkpoint and leave the trial, which
    may go on in any block. stop: leave it for good. A stop of a trial that took too long and the
    suspend of an interruption come unasked."""

    block: int
    trial: int
    verdict: Literal["continue", "pause", "stop", "suspend"]
    to_epoch: int = 0


@dataclass(frozen=True)
class Dismiss:
    """The block is not needed any more."""

    block: int


@dataclass(frozen=True)
class End:
    """The search is over; no event is expected any more."""

    reason: str


Action = Write | Start | Verdict | Dismiss | End


@dataclass(frozen=True)
class Limits:
    """When a search ends, and with whose fault.

    n_trials: proposals. target: no new ones once a merit is as small. deadline: on the clock of
    ``now``; from then on trials are suspended when they report. trial_s: seconds for one start
    of a trial, inf for any; a block that is still busy then gets no more work until it answers.
    max_errors_in_a_row: exceptions without a success between. max_failures_in_a_row: of any
    kind. max_failures: altogether. max_moves: how often a trial is given to another block
    after its own died, and to a restored search without having reported between. n_ahead:
    proposals that a thread makes before a block is free; each knows nothing of the results since
    so many trials were asked for. As many as results may come during one ask; 0: none.
    """

    n_trials: int
    target: float | None = None
    deadline: float = math.inf
    trial_s: float = math.inf
    max_errors_in_a_row: int = 3
    max_failures_in_a_row: int = 10
    max_failures: int | None = None
    max_moves: int = 2
    n_ahead: int = 0

    def __post_init__(self) -> None:
        counts = {
            "n_trials": self.n_trials,
            "max_errors_in_a_row": self.max_errors_in_a_row,
            "max_failures_in_a_row": self.max_failures_in_a_row,
            "max_failures": 1 if self.max_failures is None else self.max_failures,
        }
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}; raise it")
        if self.max_moves < 0 or self.n_ahead < 0 or not self.trial_s > 0:
            raise ConfigError(
                "max_moves and n_ahead must be >= 0 and trial_s above 0, got "
                f"{self.max_moves}, {self.n_ahead}, {self.trial_s}; correct them"
            )
        if self.target is not None and not math.isfinite(self.target):
            raise ConfigError(f"the target must be a number, got {self.target}; leave it out")

    def broken_by(self, trials: Trials) -> str:
        """Which limit on failures is reached, with the reasons of the last ones; else empty."""
        n_errors, n_row = (trials.failures_in_a_row[kind] for kind in ("error", "any"))
        total = math.inf if self.max_failures is None else self.max_failures
        if n_errors >= self.max_errors_in_a_row:
            return f"{n_errors} trials in a row failed by an error: {_reasons(trials)}"
        if n_row >= self.max_failures_in_a_row:
            return f"{n_row} trials in a row failed: {_reasons(trials)}"
        return f"{total} trials failed: {_reasons(trials)}" if trials.n_failed >= total else ""


def _reasons(trials: Trials) -> str:
    """Those of the last failures, each once."""
    told: dict[str, list[str]] = {}
    for trial in [one for one in trials.rows if one.state == "failed"][-3:]:
        told.setdefault(trial.cause, []).append(str(trial.number))
    return "; ".join(f"trial {', '.join(who)}: {reason}" for reason, who in told.items())
