"""The benchmark of many asynchronous workers: its orders, its measure, what it writes."""

import importlib.util
import json
import math
from itertools import islice
from pathlib import Path

import pytest

from nnlo.algo import GEM, Downpour
from nnlo.algo.optimizers import SGD
from nnlo.data.originals import mnist

pytest.importorskip("torch")
ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("gem_figure", ROOT / "benchmarks/gem_figure.py")
gem_figure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gem_figure)
Final = gem_figure.Final

MNIST = ROOT.parent / "shared/data/mnist.npz"
SERIAL = Final(1, 0.25, 0.5, 0.75, 0.0, 1.0)
CURVES = {
    "good": [Final(5, 0.2, 0.4, 0.9, 0.0, 1.0), Final(10, 0.3, 0.6, 0.9, 0.0, 1.0)],
    "bad": [Final(5, 0.2, 0.4, 0.9, 4.0, 1.0), Final(10, math.inf, math.inf, 0.0, None, 1.0)],
}


@pytest.fixture(scope="module")
def task():
    if not MNIST.is_file():
        pytest.skip("the original mnist.npz is not beside the checkout")
    source = mnist(MNIST)
    train = gem_figure.Images(source.train, 64, 1500)
    return gem_figure.Task(train, gem_figure.Images(source.test, 1000, 2000, shuffle=False))


@pytest.mark.parametrize(
    ("algo", "order", "first"),
    [
        (Downpour(), "turns", [0, 1, 0, 1]),
        (GEM(), "turns", [0, 0, 1, 1]),
        (GEM(), "lockstep", [0, 1, 0, 1]),
    ],
)
def test_a_worker_that_pulls_speaks_twice_in_its_turn(algo, order, first):
    assert list(islice(gem_figure.arrivals(algo, 2, order), 4)) == first


def test_workers_in_turn_are_stale_by_all_the_others(task):
    assert gem_figure.measure(gem_figure.SERIAL, 3, task).staleness == 2.0


def test_many_workers_learn_by_gem_where_downpour_does_worse_than_one(task):
    gem = gem_figure.measure(gem_figure.LINES["GEM, kappa 2"], 10, task)
    one, downpour = (gem_figure.measure(gem_figure.SERIAL, n, task) for n in (1, 10))
    assert gem.test_loss < one.test_loss / 2
    assert downpour.test_loss > 0.95 * math.log(10)  # a guess among ten classes


def test_a_run_whose_loss_is_not_finite_is_told_as_infinite(task):
    wild = Downpour(SGD(learning_rate=1e30))
    assert gem_figure.measure(wild, 1, task).test_loss == math.inf


def test_tables_tell_the_largest_loss_by_both_yardsticks():
    rows = [line.split() for line in gem_figure.tables(SERIAL, CURVES).splitlines()]
    assert [row for row in rows if row[:1] in (["good"], ["bad"])][:2] == [
        ["good", "0.400", "0.600", "1.50", "1.20"],
        ["bad", "0.400", "inf", "inf", "inf"],
    ]


def test_json_holds_every_number_and_null_for_infinity():
    found = json.loads(gem_figure.as_json(SERIAL, CURVES))
    assert [final["test_loss"] for final in found["bad"]] == [0.4, None]
    assert found["one process"][0] == SERIAL._asdict()


def test_the_plot_names_every_line(tmp_path):
    pytest.importorskip("matplotlib")
    gem_figure.plot(SERIAL, CURVES, tmp_path / "gem.svg")
    text = (tmp_path / "gem.svg").read_text()
    assert all(f">{name}</text>" in text for name in (*CURVES, "one process, one epoch"))
