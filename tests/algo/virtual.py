"""Workers and a master in one process, without the loops: who exchanges when is an argument."""

import numpy as np

from nnlo.algo.base import Update


class Run:
    """Virtual workers on a gradient function, one batch a step.

    gradient(weights, worker, batch): float32. rate: of the plain gradient descent that local
    steps are. ``weights`` are the master's, ``x[i]`` the i-th worker's.
    """

    def __init__(self, algo, gradient, start, n_workers, rate=0.1):
        self.algo, self.gradient, self.rate = algo, gradient, np.float32(rate)
        self.weights = np.array(start, np.float32)
        self.master = algo.master(self.weights.size, n_workers)
        self.halves = [algo.worker(self.weights.size, n_workers) for _ in range(n_workers)]
        self.x = [half.absorb(self.weights.copy()).copy() for half in self.halves]
        self.base = [self.weights.copy() for _ in self.halves]
        self.based, self.version = [0] * n_workers, 0
        self.batches = [0] * n_workers

    def train(self, i):
        """What worker ``i`` has after ``sync_every`` batches, before its push."""
        x, mean = self.x[i].copy(), np.zeros_like(self.weights)
        for _ in range(self.algo.sync_every):
            gradient = self.gradient(x, i, self.batches[i])
            self.batches[i] += 1
            if self.algo.trains_locally:
                x -= self.rate * gradient
            else:
                mean += gradient / np.float32(self.algo.sync_every)
        return x if self.algo.trains_locally else mean

    def exchange(self, *workers):
        """One step of the master: asynchronous of one worker, a round of several."""
        updates = []
        for i in workers:
            vector = self.train(i)
            if self.algo.pulls:
                self.halves[i].pull(self.weights.copy())
            self.halves[i].push(vector)
            updates.append(Update(vector, 10, self.version - self.based[i], self.base[i]))
        self.master.apply(self.weights, updates, self.weights)
        self.version += 1
        for i in workers:
            answer = None if self.algo.pulls else self.weights.copy()
            self.x[i] = self.halves[i].absorb(answer).copy()
            self.based[i], self.base[i] = self.version, self.weights.copy()

    def run(self, order):
        """``order``: a worker, or a tuple of those of a round, for each step of the master."""
        path = []
        for step in order:
            self.exchange(*(step if isinstance(step, tuple) else (step,)))
            path.append(self.weights.copy())
        return np.array(path)


def round_robin(n_workers, n_steps):
    return [step % n_workers for step in range(n_steps)]


def quadratic(curvature=1.0):
    """Of f(w) = curvature |w|^2 / 2."""
    return lambda weights, worker, batch: np.float32(curvature) * weights


def network(n_hidden=8):
    """A small network on noisy data: ``(gradient, start)``, batches differ by worker."""
    random = np.random.default_rng(3)
    x = random.standard_normal((64, 4))
    y = np.tanh(x @ random.standard_normal(4)) + 0.1 * random.standard_normal(64)
    start = 0.5 * random.standard_normal(5 * n_hidden)

    def gradient(weights, worker, batch):
        rows = np.random.default_rng([worker, batch]).integers(64, size=16)
        first, second = np.float64(weights[:-n_hidden]).reshape(4, -1), weights[-n_hidden:]
        hidden = np.tanh(x[rows] @ first)
        error = (hidden @ second - y[rows]) / 16
        inner = np.outer(error, second) * (1 - hidden**2)
        return np.concatenate([(x[rows].T @ inner).ravel(), hidden.T @ error]).astype(np.float32)

    return gradient, start.astype(np.float32)
