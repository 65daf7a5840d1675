"""Ranks in one process: their societies go through the same rounds, bytes go between them."""

from dataclasses import dataclass

import numpy as np

from nnlo.bayes.crowd import Vectors
from nnlo.bayes.message import pack
from nnlo.bayes.rounds import Heard
from nnlo.bayes.society import Society
from nnlo.errors import NNLOError


@dataclass
class Seat:
    """A communicator of which only the place is used."""

    rank: int
    size: int

    def Dup(self):
        return self


def first_weights(pid, rng):
    return rng.normal(size=4)


class Ranks:
    """n particles on ``n_ranks`` virtual ranks; ``rules`` adds handlers to a society."""

    def __init__(self, n_ranks, rules, n=6, start=first_weights):
        seats = [None] if n_ranks == 1 else [Seat(rank, n_ranks) for rank in range(n_ranks)]
        self.societies = [Society(Vectors(start, n, comm=seat, seed=3)) for seat in seats]
        for society in self.societies:
            rules(society)

    def run(self, name, *args, on=0):
        """What each rank returns or raises."""
        runs = [society.steps(name, args, on) for society in self.societies]
        said = [next(run) for run in runs]
        ends = [None] * len(runs)
        while not all(ends):
            heard = [self._heard(said, rank) for rank in range(len(runs))]
            for rank, run in enumerate(runs):
                try:
                    said[rank] = run.send(heard[rank])
                except StopIteration as end:
                    ends[rank] = ("returned", end.value)
                except NNLOError as error:
                    ends[rank] = ("raised", error)
            assert all(ends) or not any(ends), ends
        return ends

    def result(self, name, *args, on=0):
        """What all ranks return alike."""
        ends = self.run(name, *args, on=on)
        assert {how for how, _ in ends} == {"returned"}, ends
        assert len({pack(value) for _, value in ends}) == 1
        return ends[0][1]

    def error(self, name, *args, on=0):
        """What all ranks raise alike."""
        ends = self.run(name, *args, on=on)
        assert {how for how, _ in ends} == {"raised"}, ends
        assert len({(type(error), str(error)) for _, error in ends}) == 1
        return ends[0][1]

    @staticmethod
    def _heard(said, rank):
        letters = {
            source: np.frombuffer(parcels[rank], np.uint8)
            for source, (parcels, _) in enumerate(said)
            if rank in parcels
        }
        return Heard([words for _, words in said], letters)
