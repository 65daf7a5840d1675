"""Seeds by what they are for."""

from nnlo.bayes.seeds import Purpose, derive, generator


def test_seeds_differ_by_purpose_seed_and_number():
    seeds = [
        derive(seed, purpose, number)
        for seed in range(4)
        for purpose in Purpose
        for number in range(20)
    ]
    assert len(set(seeds)) == len(seeds)


def test_they_are_the_same_each_time():
    first, second = (generator(1, Purpose.DRAW, 7).normal(size=3) for _ in range(2))
    assert (first == second).all()
