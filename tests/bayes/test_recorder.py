"""The trace of a posterior: what is recorded when, and its figure."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from nnlo.bayes.gaussians import find_gaussians, rho_of
from nnlo.bayes.recorder import FILE, LEVELS, PosteriorRecorder
from nnlo.errors import ConfigError, ModelError
from nnlo.model.manifest import Manifest

LAYER = [("flip/kernel_loc", (2, 50)), ("flip/kernel_rho", (2, 50))]
MANIFEST = Manifest.pack(
    LAYER * 2, [("flip/kl_weight", ()), ("flip/kl_weight", ()), ("flip/kernel_mask", (2, 50))]
)


def master(version=0):
    vector = np.zeros(MANIFEST.size, np.float32)
    first, second = find_gaussians(MANIFEST)
    first.means(vector)[:] = np.linspace(-1, 1, 100).reshape(2, 50)
    first.rhos(vector)[:] = rho_of(0.5)
    second.masks(vector)[0] = 1.0
    second.means(vector)[0] = 3.0
    second.rhos(vector)[0] = rho_of(0.25)
    return SimpleNamespace(version=version, weights=vector)


ROOT = SimpleNamespace(progress=0.5, snapshot=None)


def written(folder):
    return json.loads((folder / FILE).read_text())


def run(folder, every=None, n_epochs=2, n_updates=3, first=0):
    recorder = PosteriorRecorder(MANIFEST, folder, every)
    recorder.begin(ROOT, master(first))
    version = first
    for epoch in range(n_epochs):
        recorder.epoch_began(epoch)
        for _ in range(n_updates):
            version += 1
            recorder.updated(version, 10, {})
        recorder.epoch_ended(epoch, {"version": version, "epoch": epoch + 1})
    recorder.end()
    return written(folder)["records"]


def test_a_record_holds_mean_deviation_and_quantiles_of_each_tensor(tmp_path):
    record, trace = run(tmp_path)[0], written(tmp_path)
    assert trace["tensors"] == ["flip/kernel", "flip/kernel#2"]
    values = np.linspace(-1, 1, 100)
    expected = [values.mean(), values.std(), *np.quantile(values, LEVELS)]
    np.testing.assert_allclose(record["loc"]["flip/kernel"], expected, atol=1e-5)
    np.testing.assert_allclose(record["sigma"]["flip/kernel"][0], 0.5, rtol=1e-5)
    np.testing.assert_allclose(record["snr"]["flip/kernel"][0], 2 * abs(values).mean(), rtol=1e-5)


def test_pruned_weights_are_left_out(tmp_path):
    record = run(tmp_path)[0]
    assert record["n_weights"] == {"flip/kernel": 100, "flip/kernel#2": 50}
    np.testing.assert_allclose(record["snr"]["flip/kernel#2"], [12, 0, *[12] * 7], rtol=1e-5)


@pytest.mark.parametrize(
    ("every", "versions"), [(None, [0, 3, 6]), (2, [0, 2, 4, 6]), (5, [0, 5])]
)
def test_records_come_by_epochs_or_updates(tmp_path, every, versions):
    assert [one["version"] for one in run(tmp_path, every)] == versions


def test_a_run_that_goes_on_adds_to_its_trace(tmp_path):
    run(tmp_path, n_epochs=3)
    assert [one["version"] for one in run(tmp_path, n_epochs=1, first=6)] == [0, 3, 6, 9]
    (tmp_path / FILE).write_text("torn {")
    assert [one["version"] for one in run(tmp_path, n_epochs=1, first=6)] == [6, 9]


def test_a_model_that_is_not_variational_has_nothing_to_record(tmp_path):
    with pytest.raises(ModelError, match="with variational layers"):
        PosteriorRecorder(Manifest.pack([("a/kernel", (2,))], []), tmp_path)


def test_the_trace_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from nnlo.report.bayes_trace import posterior_trace, write_trace

    run(tmp_path)
    figure = posterior_trace(written(tmp_path))
    assert len(figure.axes) == 2 * 3
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [0.5, 1.0, 2.0])
    assert write_trace(tmp_path / FILE).read_bytes()[:4] == b"\x89PNG"


def test_a_file_that_is_no_trace_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    from nnlo.report.bayes_trace import write_trace

    (tmp_path / FILE).write_text("{}")
    with pytest.raises(ConfigError, match=r"must be the posterior_trace.json of a run"):
        write_trace(tmp_path / FILE)
