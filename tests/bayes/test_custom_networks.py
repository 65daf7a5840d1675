"""Handlers of particles that have a model: gradients, steps, outputs, predictions."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nnlo.bayes.particles import Particles  # noqa: E402
from nnlo.bayes.posterior import vector_of  # noqa: E402
from nnlo.bayes.society import Society  # noqa: E402
from nnlo.errors import ParticleError  # noqa: E402
from tests.bayes.networks import Sine, Small  # noqa: E402

X, Y = Sine(n=40).load_data("sine")


@pytest.fixture
def particles():
    return Particles(Small(), 4, loss="mse", seed=4)


def test_gradient_and_loss_are_those_of_the_model(particles):
    society = Society(particles)

    @society.on("SLOPE")
    async def slope(p):
        return await p.gradient((X, Y))

    (gradient, loss) = society.run("SLOPE", on=2)
    adapter, vector = particles.adapter, np.concatenate([particles.weights[2], particles.state[2]])
    adapter.set_flat(vector)
    n, total = adapter.gradient((X, Y), vector)[:2]
    np.testing.assert_allclose(gradient, vector[: gradient.size], rtol=1e-5, atol=1e-6)
    assert loss == pytest.approx(total / n, rel=1e-5)


def test_batches_of_one_layout_go_through_the_model_at_once(particles, monkeypatch):
    society = Society(particles)
    sizes = []
    gradients = particles.rows.gradients
    monkeypatch.setattr(
        particles.rows,
        "gradients",
        lambda weights, *rest, **options: (
            sizes.append(len(weights)) or gradients(weights, *rest, **options)
        ),
    )

    @society.on("TRAIN")
    async def train(p):
        n = 10 if p.pid == 1 else 20
        return [(await p.gradient((X[:n], Y[:n])))[1] for _ in range(2)]

    society.run("TRAIN", on="all")
    assert sizes == [3, 1, 3, 1]


def test_steps_are_those_of_the_optimizer_and_lower_the_loss(particles):
    society = Society(particles, optimizer="sgd", learning_rate=0.1)
    before = particles.weights.copy()

    @society.on("STEP")
    async def step(p):
        gradient, loss = await p.gradient((X, Y))
        return gradient, loss, await p.step((X, Y))

    for pid, (gradient, loss, again) in enumerate(society.run("STEP", on="all")):
        assert again == pytest.approx(loss)
        expected = before[pid] - np.float32(0.1) * gradient
        np.testing.assert_allclose(particles.weights[pid], expected, atol=1e-6)


def test_outputs_are_those_of_the_model_in_the_posterior(particles):
    society = Society(particles)
    society.on("SAY")(lambda p: p.outputs(X))
    posterior, adapter = society.posterior(), particles.adapter
    for index, said in enumerate(society.run("SAY", on="all")):
        adapter.set_flat(vector_of(posterior, index, adapter.manifest))
        np.testing.assert_array_equal(adapter.predict(X), said)


@pytest.mark.parametrize(
    ("batch", "kind"), [((X, Y[:3]), "ModelError"), (X, "ConfigError"), (None, "ConfigError")]
)
def test_a_bad_batch_is_the_error_of_who_asks(particles, batch, kind):
    society = Society(particles)

    @society.on("ASK")
    async def ask(p):
        await p.gradient(batch if p.pid == 2 else (X, Y))
        p.state["done"] = True

    with pytest.raises(ParticleError) as caught:
        society.run("ASK", on="all")
    assert (caught.value.particle, [m.pid for m in society.members if m.state]) == (2, [0, 1, 3])
    assert caught.value.kind == kind


def test_a_step_needs_an_optimizer(particles):
    society = Society(particles)

    @society.on("STEP")
    async def step(p):
        await p.step((X, Y))

    with pytest.raises(ParticleError, match=r"make Society\(\.\.\., optimizer='adam'\)"):
        society.run("STEP")
