"""Training particles in one process, saving them and going on."""

import json
import signal

import numpy as np
import pytest
from torch import nn

from nnlo import bayes
from nnlo.bayes.ensemble import DeepEnsemble
from nnlo.bayes.fit import Fit
from nnlo.bayes.fit_settings import FitSettings
from nnlo.bayes.methods import METHODS, load, make_method
from nnlo.bayes.particles import Particles
from nnlo.bayes.posterior import vector_of
from nnlo.errors import CheckpointError, ConfigError, ModelError, NNLOError, TrainingError
from tests.bayes.networks import Sine, Small

NUMBERS = {
    "ensemble": {"learning_rate": 0.01},
    "svgd": {"learning_rate": 0.01},
    "multiswag": {"learning_rate": 0.01, "swa_start": 0.5, "rank": 3},
    "mcdropout": {"learning_rate": 0.01},
}


def particles(name="ensemble", n=3, **options):
    layer = (lambda: nn.Dropout(0.1)) if name == "mcdropout" else None
    return Particles(Small(layer), n, loss="mse", seed=4, **options)


def method(name):
    return make_method(name, **NUMBERS[name])


def draws(posterior, manifest):
    return np.array([vector_of(posterior, i, manifest) for i in range(posterior.n_draws())])


def test_every_method_has_numbers_to_be_tested_with():
    assert set(NUMBERS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name):
    swarm = particles(name)
    swarm.fit(method(name), Sine(), epochs=12, validation=Sine())
    losses = swarm.history.values("loss")
    assert losses[-1] < 0.7 * losses[0]
    assert swarm.history.values("val_loss")[-1] < losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_what_is_loaded_draws_what_was_saved(name, tmp_path):
    swarm = particles(name)
    posterior = swarm.fit(method(name), Sine(), epochs=6)
    swarm.save(tmp_path / "posterior")
    manifest = swarm.adapter.manifest
    again = load(tmp_path / "posterior", manifest)
    assert again.kind == posterior.kind
    assert (draws(again, manifest) == draws(posterior, manifest)).all()
    assert again.dropout_seed(1) == posterior.dropout_seed(1)


@pytest.mark.parametrize("name", METHODS)
def test_a_restored_run_ends_as_the_undisturbed_one(name, tmp_path):
    whole = particles(name)
    wanted = whole.fit(method(name), Sine(), epochs=8)
    # method sees 8 epochs: MultiSWAG begins to collect at half of them
    first, second = particles(name), particles(name)
    stop_after(first, 5)
    with signals_restored():
        first.fit(method(name), Sine(), epochs=8, checkpoint=tmp_path / "cp")
    assert first.history.stopped.startswith("interruption")
    found = second.fit(method(name), Sine(), epochs=8, restore=tmp_path / "cp")
    manifest = whole.adapter.manifest
    assert (draws(found, manifest) == draws(wanted, manifest)).all()
    assert second.history.values("loss") == whole.history.values("loss")
    assert second.history.particles == whole.history.particles


def stop_after(swarm, n_steps):
    """Let a signal come within step ``n_steps`` of ``swarm``."""
    swarm.prepare()
    inner = swarm.rows.gradients
    steps = []

    def gradients(*args, **kwargs):
        steps.append(1)
        if len(steps) == n_steps:
            signal.raise_signal(signal.SIGUSR1)
        return inner(*args, **kwargs)

    swarm.rows.gradients = gradients


class signals_restored:
    def __enter__(self):
        self.before = signal.getsignal(signal.SIGUSR1)

    def __exit__(self, *error):
        assert signal.getsignal(signal.SIGUSR1) == self.before


def test_the_particles_of_a_run_are_its_first_ones_of_a_larger_run():
    few, many = particles(n=2), particles(n=5)
    few.fit(method("ensemble"), Sine(), epochs=2)
    many.fit(method("ensemble"), Sine(), epochs=2)
    np.testing.assert_allclose(few.weights, many.weights[:2], rtol=1e-5, atol=1e-7)


def test_weights_may_be_given():
    swarm = particles(n=2)
    swarm.prepare()
    swarm.weights[:] = 0.5
    start = swarm.weights.copy()
    swarm.fit(DeepEnsemble(learning_rate=1e-9), Sine(), epochs=1)
    np.testing.assert_allclose(swarm.weights, start, atol=1e-6)


def test_a_second_fit_goes_on_and_leaves_the_first_posterior_alone():
    swarm = particles()
    first = swarm.fit(method("ensemble"), Sine(), epochs=2)
    before = draws(first, swarm.adapter.manifest)
    second = swarm.fit(method("ensemble"), Sine(), epochs=2)
    assert (draws(first, swarm.adapter.manifest) == before).all()
    assert not (draws(second, swarm.adapter.manifest) == before).all()


def test_weight_decay_is_the_gradient_of_its_penalty():
    plain, decayed = particles(n=1), particles(n=1)
    plain.prepare()
    start = plain.weights.copy()
    rate, decay = 0.1, 0.3
    data = Sine(batch_size=60)
    plain.fit(DeepEnsemble("sgd", rate), data, epochs=1)
    decayed.fit(DeepEnsemble("sgd", rate, decay), data, epochs=1)
    np.testing.assert_allclose(
        decayed.weights, plain.weights - rate * decay * start, rtol=1e-5, atol=1e-7
    )


def test_each_particle_has_its_own_batch_norm_statistics():
    swarm = Particles(Small(lambda: nn.BatchNorm1d(8)), 3, loss="mse")
    swarm.fit(method("ensemble"), Sine(), epochs=2)
    assert swarm.state.shape == (3, 16)
    assert not np.allclose(swarm.state[0], swarm.state[1])
    assert swarm.state.any(axis=1).all()


def test_a_loss_that_is_not_finite_names_the_particle():
    swarm = particles()
    swarm.prepare()
    swarm.weights[1] = np.nan
    with pytest.raises(TrainingError, match="got nan for particle 1 in epoch 1; lower"):
        swarm.fit(method("ensemble"), Sine(), epochs=1)


def test_weights_that_the_last_step_has_spoilt_are_an_error():
    class Spoilt(DeepEnsemble):
        def start(self, setting):
            stepper = super().start(setting)
            stepper.step = lambda weights, gradient: weights[1].fill(np.inf)
            return stepper

    with pytest.raises(TrainingError, match="got others of particle 1 after epoch 1; lower"):
        particles().fit(Spoilt(), Sine(batch_size=60), epochs=1)


def test_a_builder_that_makes_different_models_is_refused():
    class Builder(Small):
        def build_model(self):
            self.width += 1
            return super().build_model()

    with pytest.raises(ModelError, match="all particles must be of one model, got others"):
        Particles(Builder(), 2, loss="mse").prepare()


def test_ranks_hear_of_each_other_as_often_whatever_an_epoch_has(monkeypatch):
    swarm = particles()
    swarm.prepare()
    fit = Fit(swarm, method("ensemble"), Sine(), FitSettings())
    clock = iter(np.arange(1, 1000) * 0.05)  # seconds, at every third step
    monkeypatch.setattr("nnlo.bayes.fit.time.perf_counter", lambda: next(clock))
    fit._heard = 0.0
    for _ in range(100):
        fit._left = fit._between - 3
        fit._pace()
    assert fit._between == 60


def test_a_history_has_a_row_for_each_particle_and_epoch():
    swarm = particles(n=2)
    swarm.fit(method("ensemble"), Sine(), epochs=3, validation=Sine(), validate_every=2)
    history = json.loads(swarm.history.to_json())
    assert [sorted(row) for row in history["particles"]["1"]] == [
        ["epoch", "loss"],
        ["epoch", "loss", "val_loss"],
        ["epoch", "loss", "val_loss"],
    ]
    means = np.mean([[row["loss"] for row in rows] for rows in history["particles"].values()], 0)
    np.testing.assert_allclose(means, [record["loss"] for record in history["epochs"]])
    assert history["epochs"][0]["samples"] == 120


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": 0}, ConfigError, "epochs must be a whole number, at least 1, got 0"),
        ({"epoch": 1}, ConfigError, "settings must be among epochs, .* got epoch"),
        ({"restore": "nowhere"}, CheckpointError, r"nowhere-\*.npz, got none"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        particles().fit(method("ensemble"), Sine(), **settings)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    particles().fit(method("ensemble"), Sine(), epochs=2, checkpoint=tmp_path / "cp")
    for other, name, epochs, message in (
        (particles(n=4), "ensemble", 4, "same n_particles, got 3"),
        (particles(), "svgd", 4, "same kind, got ensemble"),
        (Particles(Small(width=9), 3, loss="mse", seed=4), "ensemble", 4, "same manifest"),
        (particles(), "ensemble", 2, "above the 2 that"),
    ):
        with pytest.raises(NNLOError, match=message):
            other.fit(method(name), Sine(), epochs=epochs, restore=tmp_path / "cp")


def test_old_checkpoints_are_forgotten_with_their_folders(tmp_path):
    particles().fit(
        method("ensemble"), Sine(), epochs=6, checkpoint=tmp_path / "cp", checkpoint_interval=1
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"cp-0000{e}{end}" for e in (4, 5, 6) for end in ("", ".npz")]


def test_a_damaged_particle_is_an_error_that_names_it(tmp_path):
    swarm = particles()
    swarm.fit(method("ensemble"), Sine(), epochs=1)
    swarm.save(tmp_path / "posterior")
    (tmp_path / "posterior" / "particle-00001.npz").write_bytes(b"PK")
    posterior = load(tmp_path / "posterior", swarm.adapter.manifest)
    with pytest.raises(CheckpointError, match="particle-00001"):
        draws(posterior, swarm.adapter.manifest)


def test_a_posterior_of_another_model_is_refused(tmp_path):
    swarm, other = particles(), Particles(Small(width=9), 1, loss="mse")
    swarm.fit(method("ensemble"), Sine(), epochs=1)
    swarm.save(tmp_path / "posterior")
    other.prepare()
    with pytest.raises(CheckpointError, match="of the model that is asked"):
        load(tmp_path / "posterior", other.adapter.manifest)
    with pytest.raises(CheckpointError, match="a posterior must be a folder"):
        load(tmp_path, swarm.adapter.manifest)


def test_an_ensemble_has_as_many_draws_as_particles():
    posterior = particles().fit(method("ensemble"), Sine(), epochs=1)
    assert posterior.n_draws() == 3
    with pytest.raises(ConfigError, match="number of particles, 3, got 30"):
        posterior.n_draws(30)


def test_bootstrap_is_not_for_svgd():
    with pytest.raises(ConfigError, match="bootstrap must go with particles that train alone"):
        particles("svgd").fit(method("svgd"), Sine(), bootstrap=True)


def test_a_model_with_its_own_training_is_refused():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def train_step(self, batch):
            return {"loss": self.layer(batch[0]).mean()}

    class Builder(Small):
        def build_model(self):
            return Own()

    with pytest.raises(ModelError, match="got one with a train_step of its own"):
        Particles(Builder(), 2).prepare()


def test_variational_layers_are_refused():
    from nnlo.bayes.torch_layers import LinearFlipout

    with pytest.raises(ModelError, match="plain network, got variational layers"):
        Particles(Small(lambda: LinearFlipout(8, 8)), 2, loss="mse").prepare()


def test_particles_predict_and_are_judged():
    swarm = particles()
    with pytest.raises(ConfigError, match=r"fit\(\) must come before a prediction"):
        swarm.predict(Sine())
    swarm.fit(method("ensemble"), Sine(), epochs=2)
    prediction = swarm.predict(Sine())
    assert len(prediction) == 60
    assert (prediction["epistemic"] > 0.0).all()
    report = swarm.evaluate(Sine(), noise=0.1)
    assert report.metrics["rmse"] > 0.0
    assert report.n_draws == 3


def test_unknown_methods_and_numbers_are_refused():
    with pytest.raises(ConfigError, match="must be one of ensemble, multiswag"):
        make_method("swag")
    with pytest.raises(ConfigError, match="got ranks; it has optimizer"):
        make_method("ensemble", ranks=3)


@pytest.mark.parametrize("value", ["abc", True, [1], {}, np.nan, np.inf])
@pytest.mark.parametrize("name", ["weight_decay", "swa_start", "swa_lr", "every", "rank", "scale"])
def test_numbers_that_are_none_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} must|learning_rate must"):
        make_method("multiswag", **{name: value})


def test_public_names_are_there():
    assert bayes.DeepEnsemble is DeepEnsemble
    assert all(callable(getattr(bayes, name)) for name in bayes.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = bayes.Nothing
