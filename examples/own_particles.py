"""A particle algorithm of one's own: Langevin dynamics with replica exchange on a noisy sine.

    nnlorun -n 4 examples/own_particles.py
    python examples/own_particles.py --particles 4 --steps 2000

Every particle is a small network that walks at random in the landscape of its posterior, each
at a temperature of its own (Welling & Teh 2011; Swendsen & Wang 1986). Hot ones cross barriers;
now and then neighbours change places, so that the cold one, particle 0, sees many valleys. Its
walk is the posterior. The result does not depend on the number of ranks.
"""

import argparse

import numpy as np
from torch import nn

from nnlo import bayes
from nnlo.model import ModelBuilder
from nnlo.mpi import link

NOISE = 0.1  # of the observations
RATE, EVERY = 3e-6, 10  # of the walk; steps between two exchanges
GRID = np.linspace(-3.0, 3.0, 13, dtype=np.float32)[:, None]
RNG = np.random.default_rng(0)
X = RNG.uniform(-1.5, 1.5, (100, 1)).astype(np.float32)
Y = (np.sin(2.0 * X) + NOISE * RNG.normal(size=X.shape)).astype(np.float32)


class Network(ModelBuilder):
    def build_model(self):
        return nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))


def add_rules(society):
    """The whole algorithm."""

    @society.on("WALK")
    async def walk(p, n_steps):
        p.state["temperature"] = 1.5**p.pid
        for _ in range(n_steps // 4):  # first go where it is likely at all
            await p.step((X, Y))
        draws = []
        for step in range(n_steps):
            gradient, loss = await p.gradient((X, Y))
            scale = len(X) / (2.0 * NOISE**2)  # from mean squares to minus the log likelihood
            p.state["energy"] = scale * loss + p.weights @ p.weights / 2.0
            if step % EVERY == 0:
                await exchange(p, step // EVERY)
                draws.append(p.outputs(GRID)[:, 0])
            kick = np.sqrt(2.0 * RATE * p.state["temperature"]) * p.rng.normal(size=p.weights.size)
            p.weights -= RATE * (scale * gradient + p.weights) - kick
        return np.array(draws[len(draws) // 2 :]), p.state.get("swaps", 0)

    async def exchange(p, number):
        """Even particles ask the next one, then odd ones; all wait for the end of it."""
        if p.pid % 2 == number % 2 and p.pid + 1 < p.n:
            mine = p.weights, p.state["energy"], p.state["temperature"]
            theirs = await p.send(p.pid + 1, "SWAP", *mine)
            if theirs is not None:
                p.weights = theirs
                p.state["swaps"] = p.state.get("swaps", 0) + 1
        await p.barrier()

    @society.on("SWAP")
    def swap(p, weights, energy, temperature):
        colder = 1.0 / temperature - 1.0 / p.state["temperature"]
        if np.log(p.rng.random()) >= colder * (energy - p.state["energy"]):
            return None
        mine, p.weights = p.weights.copy(), weights
        return mine


def main():
    parser = argparse.ArgumentParser(description="Langevin dynamics with replica exchange")
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4000)
    options = parser.parse_args()

    comm = link.world()  # None in a single process
    particles = bayes.Particles(Network(), options.particles, comm=comm, loss="mse")
    society = bayes.Society(particles, optimizer="adam", learning_rate=0.02)
    add_rules(society)
    results = society.run("WALK", options.steps, on="all")  # on all ranks
    if comm is None or comm.rank == 0:
        draws, _ = results[0]
        print(f"{'x':>5} {'sin 2x':>7} {'mean':>7} {'std':>6}")
        for x, mean, std in zip(GRID[:, 0], draws.mean(axis=0), draws.std(axis=0), strict=True):
            print(f"{x:5.1f} {np.sin(2 * x):7.2f} {mean:7.2f} {std:6.3f}")
        print("exchanges with the next one:", *[swaps for _, swaps in results[:-1]])
    society.close()
    particles.close()


if __name__ == "__main__":
    main()
