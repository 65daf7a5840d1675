"""MC dropout: predictions with masks drawn anew, each a sample of a posterior.

Gal & Ghahramani 2016 (arXiv:1506.02142): a network trained with dropout fits a variational
distribution over weights, and a forward pass with a random mask samples from it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from nnlo.bayes.ensemble import DeepEnsemble
from nnlo.bayes.method import Source
from nnlo.bayes.posterior import InMemory, ParticlePosterior, Posterior
from nnlo.bayes.seeds import Purpose
from nnlo.errors import ModelError
from nnlo.model.adapter import NO_DROPOUT, ModelAdapter


@dataclass(frozen=True)
class MCDropout(DeepEnsemble):
    """Networks with dropout layers, trained as by DeepEnsemble; one is Gal & Ghahramani's.

    weight_decay: twice the paper's lambda, which comes without the factor 1/2.
    """

    name: ClassVar[str] = "mcdropout"

    def check(self, adapter: ModelAdapter) -> None:
        """Raises ModelError for a model without dropout."""
        if not adapter.has_dropout:
            raise ModelError(NO_DROPOUT)

    def posterior(self, source: Source) -> Posterior:
        return MCDropoutPosterior(InMemory(source), **self.numbers())


class MCDropoutPosterior(ParticlePosterior):
    """Draw s is particle ``s % n_particles`` under masks of its own, see ``predict_masked``."""

    kind = "mcdropout"

    def n_draws(self, samples: int | None = None) -> int:
        return Posterior.n_draws(self, samples)

    def dropout_seed(self, index: int) -> int | None:
        return self._seed(Purpose.MASK, index)


def predict_masked(adapter: ModelAdapter, x: Any, seed: int) -> Any:
    """Outputs as ``adapter.predict`` gives them, with dropout on and all else in inference mode.

    The masks, one for each sample of x, are a function of ``seed`` (below 2^32) and the shape
    of x; the adapter's random states are as before. ModelError without a dropout layer.
    """
    before = adapter.local_state()
    adapter.seed(seed)
    try:
        return adapter.predict(x, dropout=True)
    finally:
        adapter.load_local_state(before)
