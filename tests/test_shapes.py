"""Laws of stars, trees, rings and runs without a master, all by virtual workers."""

import random

import numpy as np
import pytest

from nnlo.algo import Downpour
from nnlo.algo.allreduce import Allreduce
from nnlo.algo.diloco import DiLoCo
from nnlo.algo.easgd import EASGD
from nnlo.algo.gem import GEM
from nnlo.algo.optimizers import SGD
from nnlo.errors import ConfigError
from nnlo.mpi.loopback import Loopback, _deliver
from nnlo.mpi.root import Root
from nnlo.simulate import simulate
from tests.mpi.fakes import JointData, LinearModel, LineData

SUM = SGD(learning_rate=0.02, momentum=0.9)
GRADIENTS = Downpour(SUM)
ALIKE = Allreduce(SUM)
OUTER = DiLoCo(sync_every=2, worker_optimizer="sgd")
ELASTIC = EASGD(sync_every=2)
STEPS = Downpour(SGD(1.0), sync_every=2, worker_optimizer="sgd")
BRANCHES = {"easgd": ELASTIC, "diloco": OUTER, "downpour": STEPS}


def run(algo, data, n_workers, **settings):
    return simulate(algo, LinearModel(), data, n_workers, **settings)


# One process -------------------------------------------------------------------------------------

SAME = {  # of six trainers
    "star": (6, {}),
    "rings of 2": (3, {"num_processes": 2}),
    "rings of 3": (2, {"num_processes": 3}),
    "one ring": (1, {"num_processes": 6}),
    "tree of 2": (6, {"num_masters": 2}),
    "tree of 3": (6, {"num_masters": 3}),
    "uneven tree": (6, {"num_masters": 5}),
    "tree of rings": (3, {"num_masters": 3, "num_processes": 2}),
}


@pytest.mark.parametrize("n", [96, 95, 62])
@pytest.mark.parametrize("shape", SAME)
def test_together_a_shape_equals_one_process_with_the_same_global_batches(shape, n):
    n_workers, settings = SAME[shape]
    together = {"synchronous": True, "num_epochs": 3}
    simulated = run(GRADIENTS, LineData(n, 4), n_workers, **together, **settings)
    expected = run(GRADIENTS, JointData(n, 4, 6), 1, num_epochs=3)
    np.testing.assert_allclose(simulated.weights[:3], expected.weights[:3], rtol=1e-5)
    losses = [one.history.values("loss") for one in (simulated, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 6, 11])
def test_ranks_alike_equal_one_process_with_the_same_global_batches(n_ranks):
    simulated = run(ALIKE, LineData(95, 4), n_ranks, num_epochs=3)
    expected = run(GRADIENTS, JointData(95, 4, n_ranks), 1, num_epochs=3)
    np.testing.assert_allclose(simulated.weights[:3], expected.weights[:3], rtol=1e-5)


@pytest.mark.parametrize("algo", [ELASTIC, OUTER, GEM()], ids=["easgd", "diloco", "gem"])
def test_together_a_tree_equals_a_star(algo):
    together = {"synchronous": True, "num_epochs": 3}
    star = run(algo, LineData(96, 4), 4, **together)
    tree = run(algo, LineData(96, 4), 4, num_masters=3, **together)
    np.testing.assert_allclose(tree.weights, star.weights, rtol=1e-5)


def test_a_tree_in_a_given_order_reproduces():
    order = [0, 1, 1, 0, 1, 0, 0, 0, 1]
    runs = [run(GRADIENTS, LineData(48, 4), 4, num_masters=3, order=order) for _ in range(2)]
    assert runs[0].arrivals[:9] == tuple(order)
    np.testing.assert_array_equal(runs[0].weights, runs[1].weights)


# Samples -----------------------------------------------------------------------------------------

WAYS = {
    "asynchronous": {},
    "together": {"synchronous": True},
    "quorum": {"synchronous": True, "quorum": 0.5},
    "bounded": {"max_staleness": 1},
}


def shapes(n_ranks):
    """(workers, settings) of the trees and rings that take so many ranks."""
    for n_masters in range(1, min(5, n_ranks)):
        for n_processes in (1, 2, 3):
            n_workers, left = divmod(n_ranks - n_masters, n_processes)
            if n_workers >= max(n_masters - 1, 1) and not left:
                yield n_workers, {"num_masters": n_masters, "num_processes": n_processes}


def assert_all_seen_once(data, simulated, n_epochs):
    assert sorted(data.seen) == sorted((n, float(y)) for n in range(n_epochs) for y in data.y)
    assert sum(record["samples"] for record in simulated.history.epochs) == n_epochs * len(data.y)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n_ranks", range(2, 12))
def test_every_sample_is_used_once_an_epoch_in_every_shape(n_ranks, way):
    for n_workers, settings in shapes(n_ranks):
        data = LineData(41, 4)  # two files, which fewer than most shapes have trainers
        simulated = run(GRADIENTS, data, n_workers, num_epochs=2, **WAYS[way], **settings)
        assert_all_seen_once(data, simulated, 2)


@pytest.mark.parametrize("root", BRANCHES)
@pytest.mark.parametrize("n_ranks", [3, 4, 7, 11])
def test_every_sample_is_used_once_an_epoch_below_branches(n_ranks, root):
    for n_workers, settings in shapes(n_ranks):
        if settings["num_masters"] > 1:
            data, settings["root_algo"] = LineData(41, 4), BRANCHES[root]
            simulated = run(GRADIENTS, data, n_workers, num_epochs=2, **settings)
            assert_all_seen_once(data, simulated, 2)


@pytest.mark.parametrize("n_ranks", range(1, 12))
def test_every_sample_is_used_once_an_epoch_by_ranks_alike(n_ranks):
    data = LineData(41, 4)
    assert_all_seen_once(data, run(ALIKE, data, n_ranks, num_epochs=2), 2)


# Stops -------------------------------------------------------------------------------------------


@pytest.fixture
def stop(monkeypatch):
    """Run a shape that is stopped at version 5; return the batches trained after that."""

    def stopped(algo, n_workers, **settings):
        data, drawn = LineData(480, 4), []

        class Stopping(Root):
            def stepped(self, master):
                super().stepped(master)
                if master.version == 5:
                    self.stop(master, "asked")
                    drawn.append(len(data.seen))

        monkeypatch.setattr("nnlo.simulate.Root", Stopping)
        simulated = run(algo, data, n_workers, num_epochs=20, **settings)
        assert simulated.history.stopped == "asked"
        return (len(data.seen) - drawn[0]) / 4

    return stopped


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SAME)
def test_after_a_stop_nobody_trains_another_batch(stop, shape, way):
    n_workers, settings = SAME[shape]
    assert stop(GRADIENTS, n_workers, **settings, **WAYS[way]) == 0


@pytest.mark.parametrize("algo", [ELASTIC, OUTER, STEPS, GEM()], ids=lambda a: a.mode)
@pytest.mark.parametrize("n_masters", [1, 3])
def test_after_a_stop_no_local_step_is_made(stop, algo, n_masters):
    assert stop(algo, 4, num_masters=n_masters) == 0


@pytest.mark.parametrize("root", BRANCHES)
def test_a_branch_hears_of_a_stop_within_its_own_exchange(stop, root):
    # Each of the two exchanges after two more updates, a batch of any of its two workers.
    assert stop(GRADIENTS, 4, num_masters=3, root_algo=BRANCHES[root]) <= 2 * 2


# Schedules ---------------------------------------------------------------------------------------

MODES = (
    GRADIENTS,
    Downpour(SUM, sync_every=3),
    Downpour(SUM, staleness="dc"),
    STEPS,
    ELASTIC,
    OUTER,
    GEM(sync_every=2),
)


def merging(draw):
    """As ``branch_in_process``, where any number of messages come before one goes up."""

    def branch(middle, link, workers, order):
        ready = {rank: next(worker) for rank, worker in workers.items()}
        while not middle.finished:
            up = None if ready and draw.random() < 0.5 else middle.up()
            if up is not None:
                middle.answer((yield up))
            else:
                child = draw.choice(sorted(ready))
                middle.receive(child, ready.pop(child))
            _deliver(link, workers, ready)

    return branch


def random_run(draw, data, model):
    """Arguments of a run of any shape, mode and way."""
    n_masters = draw.randint(1, 4)
    settings = {"num_epochs": draw.randint(1, 2), "seed": draw.randint(0, 99)}
    if draw.random() < 0.1:
        return ALIKE, model, data, draw.randint(1, 5), settings
    settings |= {"num_masters": n_masters, "num_processes": draw.randint(1, 2)}
    settings |= draw.choice(list(WAYS.values()))
    if n_masters > 1:
        settings["root_algo"] = draw.choice([None, None, *BRANCHES.values()])
    return draw.choice(MODES), model, data, draw.randint(max(n_masters - 1, 1), 5), settings


@pytest.mark.parametrize("block", range(8))
def test_in_any_schedule_nothing_is_lost_and_nothing_stays_unread(block, monkeypatch):
    for seed in range(100 * block, 100 * (block + 1)):
        draw, links, model = random.Random(seed), [], LinearModel()
        model.learning_rate = 0.01
        stop_at = draw.choice([None, draw.randint(1, 12)])
        watch(monkeypatch, draw, links, stop_at)
        data = LineData(draw.randint(10, 30), draw.randint(1, 4))
        *words, settings = random_run(draw, data, model)
        simulated = simulate(*words, **settings)
        n_applied = sum(record["samples"] for record in simulated.history.epochs)
        assert n_applied == len(data.seen), f"seed {seed}"
        assert not any(link.answers for link in links), f"seed {seed}"
        if stop_at is None:
            assert n_applied == settings["num_epochs"] * len(data.y), f"seed {seed}"


def watch(monkeypatch, draw, links, stop_at):
    """Note all links of the next run, mix its trees, and stop it at a version."""

    class Noted(Loopback):
        def __init__(self):
            super().__init__()
            links.append(self)

    class Stopping(Root):
        def stepped(self, master):
            super().stepped(master)
            if master.version == stop_at:
                self.stop(master, "asked")

    for name, value in {"Loopback": Noted, "Root": Stopping}.items():
        monkeypatch.setattr(f"nnlo.simulate.{name}", value)
    monkeypatch.setattr("nnlo.simulate.branch_in_process", merging(draw))


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algo", "settings", "expected"),
    [
        (ALIKE, {"num_masters": 3}, "one ring of all ranks, got n_masters 3"),
        (ALIKE, {"num_processes": 2}, "one ring of all ranks, got .* n_processes 2"),
        (ALIKE, {"synchronous": True}, "--synchronous, .* must go with a mode that has a master"),
        (ALIKE, {"max_staleness": 2}, "must go with a mode that has a master"),
        (GRADIENTS, {"root_algo": ELASTIC}, "a root mode must go with sub-masters"),
        (GRADIENTS, {"num_masters": 3, "root_algo": GRADIENTS}, "must merge weights, got Downpou"),
        (GRADIENTS, {"num_masters": 3, "root_algo": ALIKE}, "must merge weights, got Allreduce"),
        (GRADIENTS, {"num_masters": 3, "root_algo": GEM()}, "must merge weights, got GEM"),
    ],
)
def test_what_does_not_fit_a_shape_is_an_error(algo, settings, expected):
    with pytest.raises(ConfigError, match=expected):
        run(algo, LineData(48, 4), 4, **settings)
