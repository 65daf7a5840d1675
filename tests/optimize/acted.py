"""A search whose trials are acted: a learning curve in the place of each training."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnlo.optimize.dimensions import Categorical, Integer, Real
from nnlo.optimize.events import Limits
from nnlo.optimize.pruning import Never, Pruner
from nnlo.optimize.search import Plan, Search
from nnlo.optimize.searcher import make_searcher
from nnlo.optimize.space import Space
from nnlo.optimize.trials import Record
from nnlo.optimize.wire import PartEnd

SPACE = Space((Real("x", 0.0, 1.0), Integer("n", 1, 9), Categorical("kind", ("a", "b"))))


def fall(params: Any, epoch: int, fold: int = 0) -> tuple[float, ...]:
    """A merit that falls with the epochs, best at x = 0.3."""
    return (abs(params["x"] - 0.3) + 1 / epoch + 0.01 * fold,)


@dataclass
class Actor:
    """Performs parts. merit: of (params, epoch, fold). at: called with (part, epoch) as if it
    were the model's code; what it returns, if anything, is the end of the part."""

    epochs: int = 3
    merit: Callable[..., tuple[float, ...]] = fall
    at: Callable[[Any, int], PartEnd | None] = lambda part, epoch: None
    trained: Counter[tuple[int, int | None, int]] = field(default_factory=Counter)
    began: list[tuple[int, int]] = field(default_factory=list)  # trial, from epoch
    refits: list[int] = field(default_factory=list)

    def __call__(self, part: Any, voice: Any) -> PartEnd:
        part.folder.mkdir(parents=True, exist_ok=True)
        fold, state = part.fold or 0, part.folder / "state"
        if part.refit_epochs:
            self.refits.append(part.refit_epochs)
            if (end := self.at(part, 0)) is not None:
                return end
            return PartEnd("done", epochs=part.refit_epochs, files={"model": "refit"})
        start = int(state.read_text()) if state.exists() else 0
        self.began.append((part.trial, start))
        for epoch in range(start + 1, self.epochs + 1):
            self.trained[part.trial, part.fold, epoch] += 1
            if (end := self.at(part, epoch)) is not None:
                return end
            voice.report(epoch, self.merit(part.params, epoch, fold), {"loss": 1.0}, saved=True)
            state.write_text(str(epoch))
            if epoch < self.epochs and (verdict := voice.verdict()):
                return PartEnd("left", fold, reason=verdict)
        merits = self.merit(part.params, self.epochs, fold)
        return PartEnd("done", fold, merits, {"loss": 1.0}, self.epochs, {"model": "f"})

    def n_repeated(self) -> int:
        """Epochs of a trial that were trained more than once."""
        return sum(count - 1 for count in self.trained.values())


def searched(folder: Path, actor: Actor, n_trials: int = 6, **changes: Any) -> Search:
    """A search that has run in this process."""
    search = prepared(folder, actor, n_trials, **changes)
    search.run()
    assert search.close()
    return search


def prepared(
    folder: Path,
    actor: Actor,
    n_trials: int = 6,
    *,
    seed: int = 0,
    searcher: str = "random",
    pruner: Pruner | None = None,
    n_folds: int = 1,
    limits: Any = None,
    space: Space = SPACE,
    **plan: Any,
) -> Search:
    """limits, plan: fields of Limits and Plan."""
    plan = {
        "merit_names": ("merit",),
        "header": {"model": "acted", "seed": seed, "space": space.to_json()},
    } | plan
    made = Plan(
        space,
        make_searcher(searcher, space, seed),
        Limits(n_trials, **(limits or {})),
        pruner or Never(actor.epochs),
        **plan,
    )
    return Search(None, folder, actor, made, n_folds=n_folds)


def params_of(search: Search) -> list[Any]:
    return [trial.params for trial in search.trials.rows]


def states(search: Search) -> list[str]:
    return [trial.state for trial in search.trials.rows]


def events(search: Search) -> list[Record]:
    return search.records()
