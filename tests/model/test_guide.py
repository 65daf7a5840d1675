"""What docs/models.md and examples/ show works."""

import re
from pathlib import Path

import numpy as np
import pytest

from nnlo.history import History
from nnlo.model import load_builder
from nnlo.model.losses import ALIASES, LOSSES, METRICS
from nnlo.model.make import build_adapter
from nnlo.optimize.space import Space

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "models.md").read_text()


def test_file_of_the_guide_is_a_model(tmp_path):
    pytest.importorskip("keras")
    (tmp_path / "mine.py").write_text(re.search("```python\n(.*?)```", GUIDE, re.DOTALL)[1])
    builder = load_builder(tmp_path / "mine.py", width=8)
    assert builder.train_files() == ["train_0.h5", "train_1.h5"]
    assert build_adapter(builder).predict(np.zeros((2, 28, 28, 1))).shape == (2, 10)


def test_searched_file_of_the_guide_repairs_what_is_drawn(tmp_path):
    pytest.importorskip("keras")
    text = re.search("```python\n(# searched.py.*?)```", GUIDE, re.DOTALL)[1]
    (tmp_path / "searched.py").write_text(text)
    builder = load_builder(tmp_path / "searched.py")
    space = Space.from_range(builder.parameter_range, builder.parameter_names, builder.repair)
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(50)]
    assert {one["width"] for one in drawn if one["n_layers"] == 1} == {8}
    assert all(one["last_width"] <= one["width"] for one in drawn if one["n_layers"] > 1)
    assert load_builder(tmp_path / "searched.py", **drawn[0]).build_model().count_params() > 0
    epochs = [{"val_loss": 0.5}, {"val_loss": 0.25}, {"val_loss": 0.75}]
    assert builder.figure_of_merit(History(epochs=epochs)) == 0.25


def test_guide_names_every_loss_and_metric():
    missing = [
        name for name in (*LOSSES, *METRICS, "mse", "mae", "acc") if f"`{name}`" not in GUIDE
    ]
    assert missing == []
    assert {"mse", "mae", "acc"} <= set(ALIASES)


def test_gan_of_the_guide_trains_both_networks(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "gan.py").write_text(re.search("```python\n(# gan.py.*?)```", GUIDE, re.DOTALL)[1])
    builder = load_builder(tmp_path / "gan.py", latent=4)
    adapter = build_adapter(builder, seed=0, optimizer="adam", learning_rate=0.01)
    batch = np.ones((16, 8, 8, 1), np.float32), np.zeros(16)
    assert adapter.metric_names == ("loss", "discriminator/loss", "generator/loss")
    first = adapter.test_step(batch)
    for _ in range(20):
        adapter.train_step(batch)
    assert adapter.test_step(batch)[2] < first[2]
    assert adapter.predict(np.zeros((5, 4))).shape == (5, 8, 8, 1)


@pytest.mark.parametrize("name", ["example_mnist", "example_mnist_torch"])
def test_example_takes_a_step_on_images(name):
    pytest.importorskip("torch" if "torch" in name else "keras")
    builder = load_builder(ROOT / "examples" / f"{name}.py")
    adapter = build_adapter(builder, optimizer="sgd", seed=0)
    x, y = np.zeros((4, 28, 28, 1), np.float32), np.eye(10, dtype=np.float32)[:4]
    assert builder.name == name
    assert adapter.train_step((x, y))[0] == 4
