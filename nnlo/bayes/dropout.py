"""MC dropout: predictions with masks drawn anew, each a sample of the posterior.

Gal & Ghahramani 2016 (arXiv:1506.02142): a network trained with dropout fits a variational
distribution over weights, and a forward pass with a random mask samples from it.
"""

from typing import Any

from nnlo.model.adapter import ModelAdapter


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
