"""What Downpour's master does with gradients at old weights: DC-ASGD, Gap-Aware."""

import numpy as np
import pytest

from nnlo.algo import Algo, Downpour
from nnlo.algo.base import Update
from nnlo.algo.optimizers import SGD
from nnlo.algo.staleness import POLICIES
from nnlo.errors import CheckpointError, ConfigError
from tests.algo.virtual import Run, network, quadratic, round_robin

PLAIN, RATE = SGD(learning_rate=0.1), 0.1
WITH_BASE = [name for name, policy in POLICIES.items() if policy.needs_base]


def dc_constant(memory, gradient, way, rate=0.04):
    return gradient + rate * gradient**2 * way


def dc_adaptive(memory, gradient, way):
    """Zheng et al. 2017: the strength is 2 over the root of the mean square."""
    memory["square"] = 0.95 * memory.get("square", 0.0) + 0.05 * gradient**2
    return dc_constant(memory, gradient, way, 2.0 / np.sqrt(memory["square"] + 1e-7))


def gap_aware(memory, gradient, way):
    """Barkai et al. 2020: divided by 1 + the way over the mean length of a step."""
    steps = memory.get("steps", [])
    decay = 0.99 ** np.arange(len(steps))[::-1]
    length = np.sum(decay * steps) / np.sum(decay) if steps else np.inf
    return gradient / (1.0 + np.linalg.norm(way) / length)


PAPERS = {"dc": dc_adaptive, "dc-constant": dc_constant, "gap": gap_aware}


def test_every_policy_that_needs_the_base_has_a_reference():
    assert set(PAPERS) == set(WITH_BASE) == {"dc", "dc-constant", "gap"}


@pytest.mark.parametrize("policy", PAPERS)
@pytest.mark.parametrize("problem", ["quadratic", "network"])
def test_the_trajectory_is_that_of_the_paper(policy, problem):
    gradient, start = network() if problem == "network" else (quadratic(), np.arange(1.0, 4.0))
    order = [0, 1, 2, 0, 0, 2, 1, *round_robin(3, 20)]
    path = Run(Downpour(PLAIN, staleness=policy), gradient, start, 3).run(order)
    weights, memory = np.float64(start), {}
    bases, batches = [weights.copy() for _ in range(3)], [0] * 3
    for step, i in enumerate(order):
        stale = np.float64(gradient(np.float32(bases[i]), i, batches[i]))
        move = -RATE * PAPERS[policy](memory, stale, weights - bases[i])
        memory.setdefault("steps", []).append(np.linalg.norm(move))
        weights = weights + move
        bases[i], batches[i] = weights.copy(), batches[i] + 1
        np.testing.assert_allclose(path[step], weights, rtol=0, atol=5e-6)


@pytest.mark.parametrize("policy", POLICIES)
def test_without_staleness_every_policy_is_downpour_bit_for_bit(policy):
    gradient, start = network()
    paths = [
        Run(Downpour(SGD(momentum=0.9), staleness=name), gradient, start, 1).run([0] * 20)
        for name in ("none", policy)
    ]
    np.testing.assert_array_equal(*paths)


@pytest.mark.parametrize("policy", WITH_BASE)
def test_each_update_of_a_round_is_corrected_by_its_own_base(policy):
    weights, gradient = np.float32([1.0, 2.0]), np.float32([0.5, -1.0])
    bases = [weights.copy(), np.zeros(2, np.float32)]
    masters = [Downpour(PLAIN, staleness=policy).master(2, 2) for _ in range(3)]
    for master in masters:  # so that the lengths of steps are known
        master.apply(weights.copy(), [Update(gradient.copy(), 1, 0, weights)], weights.copy())
    updates = [Update(gradient.copy(), 10, i, base) for i, base in enumerate(bases)]
    alone = np.array([weights, weights])
    for master, update, out in zip(masters, updates, alone, strict=False):
        if policy == "dc" and update.staleness:  # its mean square has seen both by then
            fresh = Update(gradient.copy(), 1, 0, weights)
            master.apply(weights.copy(), [fresh], weights.copy())
        master.apply(weights, [update._replace(vector=gradient.copy())], out)
    together = np.empty_like(weights)
    masters[2].apply(weights, updates, together)
    np.testing.assert_allclose(together, alone.mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("policy", ["dc", "gap"])
def test_a_restored_master_goes_on_exactly(policy):
    gradient, start = network()
    algo = Downpour(SGD(momentum=0.9), staleness=policy)
    run, other = (Run(algo, gradient, start, 2) for _ in range(2))
    run.run(round_robin(2, 7))
    other.master.load_state(run.master.state())
    other.weights[:], other.batches = run.weights, list(run.batches)
    other.x, other.base = list(run.x), list(run.base)
    np.testing.assert_array_equal(other.run([1, 0, 1, 1]), run.run([1, 0, 1, 1]))


def test_a_state_of_another_policy_is_refused():
    state = Downpour(PLAIN, staleness="dc").master(3, 2).state()
    for other in ("none", "gap"):
        with pytest.raises(CheckpointError, match="staleness policy must have arrays"):
            Downpour(PLAIN, staleness=other).master(3, 2).load_state(state)


def test_the_strength_of_the_compensation_may_be_given():
    weights, base = np.float32([2.0]), np.float32([1.0])
    algo = Algo("sgd", learning_rate=1.0, staleness="dc-constant", dc_lambda=0.5)
    algo.master(1, 2).apply(weights, [Update(np.float32([3.0]), 1, 1, base)], weights)
    assert weights == 2.0 - (3.0 + 0.5 * 9.0 * 1.0)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"staleness": "dc", "worker_optimizer": "sgd"}, "staleness dc must go with gradients"),
        ({"staleness": "gap", "sync_every": 4}, "must go with gradients, got local steps by"),
        ({"dc_lambda": 1.0}, "dc_lambda must be above 0 and come with .* got 1.0 with none"),
        ({"dc_lambda": 1.0, "staleness": "gap"}, "got 1.0 with gap; leave it out"),
        ({"dc_lambda": 0.0, "staleness": "dc"}, "dc_lambda must be above 0 .* got 0.0 with dc"),
    ],
)
def test_bad_numbers_are_config_errors_that_name_them(numbers, message):
    with pytest.raises(ConfigError, match=message):
        Algo(**numbers)
