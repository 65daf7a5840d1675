"""Predictions of small posteriors, in one process; over ranks: tests/distributed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nnlo.bayes.evaluate import evaluate, judge  # noqa: E402
from nnlo.bayes.likelihood import likelihood_of  # noqa: E402
from nnlo.bayes.posterior import Posterior  # noqa: E402
from nnlo.bayes.predict import predict  # noqa: E402
from nnlo.bayes.variational import Point, Variational  # noqa: E402
from nnlo.data import Data  # noqa: E402
from nnlo.errors import ConfigError, DataError, ModelError  # noqa: E402
from nnlo.model.make import make_adapter  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(700, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 700)
CLASSES = likelihood_of("sparse_categorical_crossentropy", is_torch=True)


class Shifted(Posterior):
    """Draw i: the vector plus noise of seed i."""

    kind = "shifted"

    def __init__(self, vector):
        self.vector = vector

    def mine(self, n_draws):
        return list(range(n_draws))[::-1]

    def draw(self, index, out):
        out[:] = self.vector + np.random.default_rng(index).normal(size=out.size)


def adapter_of(width=3, loss="sparse_categorical_crossentropy"):
    torch.manual_seed(0)
    return make_adapter(torch.nn.Linear(4, width), loss)


def vector_of(adapter):
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    return vector


def shifted(adapter):
    return Shifted(vector_of(adapter))


def test_draws_are_in_order_and_each_is_the_network_with_its_weights():
    adapter = adapter_of()
    posterior = shifted(adapter)
    found = predict(posterior, adapter, CLASSES, (X, None), samples=3, keep_draws=True)
    for index in range(3):
        vector = np.empty(adapter.manifest.size, np.float32)
        posterior.draw(index, vector)
        adapter.set_flat(vector)
        expected = torch.softmax(torch.from_numpy(adapter.predict(X)), 1)
        np.testing.assert_allclose(found["draws"][:, index], expected, atol=1e-6)
    np.testing.assert_allclose(found["probability"], found["draws"].mean(axis=1), atol=1e-6)
    assert (found.kind, found.n_draws, len(found), found.has_labels) == ("classes", 3, 700, False)


def test_the_weights_of_the_model_are_put_back():
    adapter = adapter_of()
    before = vector_of(adapter)
    predict(shifted(adapter), adapter, CLASSES, (X, Y), samples=2)
    np.testing.assert_array_equal(vector_of(adapter), before)


def test_chunks_change_nothing(monkeypatch):
    adapter = adapter_of()
    whole = predict(shifted(adapter), adapter, CLASSES, (X, Y), samples=4)
    monkeypatch.setattr("nnlo.bayes.predict.CHUNK_BYTES", 1)
    parts = predict(shifted(adapter), adapter, CLASSES, (X, Y), samples=4)
    assert whole.columns.keys() == parts.columns.keys()
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(column, parts[name], err_msg=name)


class Arrays(Data):
    def load_data(self, file):
        return (X, Y) if file == "whole" else (X[:0], Y[:0])


def test_data_are_predicted_in_their_own_order():
    adapter = adapter_of()
    data = Arrays(100, shuffle=True)
    data.set_files(["whole"])
    data.set_shard(1, 3)
    found = predict(shifted(adapter), adapter, CLASSES, data, samples=2)
    np.testing.assert_array_equal(found["label"], Y)
    assert data.shuffle
    assert data.n_shards == 3


def test_a_point_is_certain_of_itself():
    adapter = adapter_of()
    posterior = Point(adapter.manifest, vector_of(adapter))
    found = predict(posterior, adapter, CLASSES, (X, Y), samples=9)
    assert found.n_draws == 1
    np.testing.assert_array_equal(found["epistemic"], 0.0)
    np.testing.assert_array_equal(found["std"], 0.0)


def test_a_variational_posterior_needs_bayesian_layers():
    adapter = adapter_of()
    with pytest.raises(ModelError, match="take Point"):
        Variational(adapter.manifest, vector_of(adapter))


def test_values_with_known_noise_split_their_variance():
    adapter = adapter_of(1, "mse")
    likelihood = likelihood_of("mse", is_torch=True, noise=0.5)
    found = predict(shifted(adapter), adapter, likelihood, (X, X[:, 0]), samples=5)
    np.testing.assert_allclose(found["aleatoric"], 0.25, rtol=1e-12)
    np.testing.assert_allclose(found["total"], 0.25 + found["std"] ** 2, rtol=1e-12)
    assert found["mean"].shape == (700, 1)


def test_report_has_the_metrics_of_classes_and_of_data_from_elsewhere():
    adapter = adapter_of()
    report = evaluate(
        shifted(adapter), adapter, CLASSES, (X, Y), ood=(30.0 * X[:200], None), samples=4
    )
    assert {"accuracy", "nll", "brier", "ece", "ece_equal_mass", "total"} <= {*report.metrics}
    assert {*report.ood} == {"total", "epistemic", "confidence"}
    assert report.as_dict()["reliability"]["counts"] == report.reliability.counts.tolist()
    assert report.ood["total"]["auroc"] < 0.5  # a linear model is surer far away


def test_report_of_values_is_that_of_a_true_distribution():
    adapter = adapter_of(1, "mse")
    posterior = Point(adapter.manifest, vector_of(adapter))
    y = adapter.predict(X) + 0.5 * RNG.normal(size=(700, 1))
    likelihood = likelihood_of("mse", is_torch=True, noise=0.5)
    report = judge(predict(posterior, adapter, likelihood, (X, y)))
    assert report.metrics["rmse"] == pytest.approx(0.5, rel=0.1)
    assert report.metrics["coverage_90"] == pytest.approx(0.9, abs=0.04)
    assert report.metrics["nll"] == pytest.approx(0.5 * np.log(2 * np.pi * np.e * 0.25), abs=0.1)
    assert report.metrics["crps"] == pytest.approx(0.5 / np.sqrt(np.pi), rel=0.1)


def test_without_labels_there_are_only_the_uncertainties():
    adapter = adapter_of()
    report = judge(predict(shifted(adapter), adapter, CLASSES, (X, None), samples=2))
    assert {*report.metrics} == {"total", "aleatoric", "epistemic"}


@pytest.mark.parametrize(
    ("options", "says"), [({"samples": 0}, "samples"), ({"quantiles": (1.0,)}, "quantiles")]
)
def test_wishes_that_cannot_be_are_refused(options, says):
    adapter = adapter_of()
    with pytest.raises(ConfigError, match=says):
        predict(shifted(adapter), adapter, CLASSES, (X, Y), **options)


def test_no_points_are_an_error():
    adapter = adapter_of()
    with pytest.raises(DataError, match="there must be points to predict, got none"):
        predict(shifted(adapter), adapter, CLASSES, (X[:0], None))


def test_inputs_are_no_column_where_a_sample_is_several_points():
    adapter = make_adapter(torch.nn.Linear(1, 3), "binary_crossentropy")
    binary = likelihood_of("binary_crossentropy", is_torch=True)
    found = predict(shifted(adapter), adapter, binary, (X[:5, :1], None), samples=2)
    assert {len(column) for column in found.columns.values()} == {15}
    assert "input" not in found.columns


def test_data_of_another_shape_are_an_error():
    adapter = adapter_of()
    with pytest.raises(ModelError, match=r"as those of the model's training, got shape \(5, 3\):"):
        predict(shifted(adapter), adapter, CLASSES, (X[:5, :3], None))
