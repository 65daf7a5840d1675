"""A model's own optimizers stay where the user names none."""

import pytest

torch = pytest.importorskip("torch")

from nnlo.algo import Algo  # noqa: E402
from nnlo.model.make import make_adapter  # noqa: E402


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(2, 1)
        self.optimizers = {"model": torch.optim.SGD(self.parameters(), 0.3)}

    def train_step(self, batch):
        return {"loss": 0.0}


def adapter(algo):
    return make_adapter(
        Model(),
        None,
        optimizer=algo.worker_optimizer,
        learning_rate=algo.worker_learning_rate,
        keep_own=algo.keeps_own,
    )


@pytest.mark.parametrize("mode", ["easgd", "diloco"])
def test_the_default_of_a_mode_does_not_replace_them(mode):
    assert adapter(Algo(mode=mode)).learning_rate == 0.3


@pytest.mark.parametrize("mode", ["easgd", "diloco", "downpour"])
def test_a_named_optimizer_replaces_them(mode):
    algo = Algo(mode=mode, worker_optimizer="adam", worker_learning_rate=0.01)
    assert adapter(algo).learning_rate == 0.01
