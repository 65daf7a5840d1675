"""BatchNorm statistics of drawn weights."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from nnlo.bayes.refresh import Refresh  # noqa: E402
from nnlo.data import Data  # noqa: E402
from nnlo.errors import DataError  # noqa: E402
from nnlo.model import make_adapter  # noqa: E402

X = np.random.default_rng(0).normal(3.0, 2.0, size=(60, 4)).astype(np.float32)


class Points(Data):
    def load_data(self, file):
        return X, X[:, :2]


def points(files=("all",)):
    data = Points(batch_size=20, shuffle=False)
    data.set_files(files)
    return data


def adapter_of(*parts):
    torch.manual_seed(0)
    return make_adapter(nn.Sequential(nn.Linear(4, 6), *parts, nn.Linear(6, 2)), "mse")


def drawn(adapter):
    """Weights far from those of the statistics in S, which are those of a new model."""
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    vector[: adapter.manifest.n_trainable] += 1.0
    return vector


def hidden(adapter, vector):
    """Outputs of the first layer at ``vector`` for all points, by numpy."""
    kernel, bias = adapter.manifest.split(vector)[:2]
    return X @ kernel.T + bias


def test_statistics_are_those_of_the_drawn_weights():
    adapter = adapter_of(nn.BatchNorm1d(6))
    vector = drawn(adapter)
    Refresh(adapter, points())(vector)
    mean, variance = adapter.manifest.split(vector)[-2:]
    batches = hidden(adapter, vector).reshape(3, 20, 6)
    np.testing.assert_allclose(mean, batches.mean(axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(variance, batches.var(axis=1, ddof=1).mean(axis=0), rtol=1e-4)


def test_trainable_weights_and_random_states_stay():
    adapter = adapter_of(nn.BatchNorm1d(6), nn.Dropout(0.5))
    vector = drawn(adapter)
    before, state = vector.copy(), adapter.local_state()
    Refresh(adapter, points())(vector)
    n = adapter.manifest.n_trainable
    np.testing.assert_array_equal(vector[:n], before[:n])
    for name, value in adapter.local_state().items():
        np.testing.assert_array_equal(value, state[name])


def test_masks_of_a_refresh_do_not_depend_on_what_was_drawn_before():
    adapter = adapter_of(nn.Dropout(0.5), nn.BatchNorm1d(6))
    refresh = Refresh(adapter, points(), seed=4)
    one, other = drawn(adapter), drawn(adapter)
    refresh(one)
    adapter.seed(11)
    refresh(other)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("momentum", [None, 0.0])
def test_a_state_that_does_not_move_is_left_alone(momentum):
    adapter = adapter_of(*([] if momentum is None else [nn.BatchNorm1d(6, momentum=momentum)]))
    vector = drawn(adapter)
    before = vector.copy()
    Refresh(adapter, points())(vector)
    np.testing.assert_array_equal(vector, before)


def test_empty_training_data_is_refused():
    class Nothing(Data):
        def generate_data(self):
            yield from ()

    adapter = adapter_of(nn.BatchNorm1d(6))
    with pytest.raises(DataError):
        Refresh(adapter, Nothing(batch_size=4))(drawn(adapter))
