"""The batches of particles."""

import numpy as np
import pytest

from nnlo.bayes.feed import Feed, Wish
from nnlo.data import Data
from nnlo.errors import ConfigError, DataError


class Rows(Data):
    """Ten samples: x is the number of the sample, y a list of it and its double."""

    def load_data(self, file):
        x = np.arange(10, dtype=np.float32)[:, None]
        return x, [x, 2 * x]


class Made(Data):
    def generate_data(self):
        for start in range(0, 10, self.batch_size):
            x = np.arange(start, min(10, start + self.batch_size), dtype=np.float32)[:, None]
            yield x, x


def feed(data=None, wish=None, **options):
    data = data or Rows(batch_size=4)
    data.set_files(["a"])
    return Feed(data, wish or Wish(pids=[0, 1, 2], seed=5), **options)


def numbers(batches):
    return np.concatenate([x[..., 0] for x, _ in batches], axis=-1)


@pytest.mark.parametrize("memory_bytes", [1 << 20, 1])
def test_each_particle_sees_every_sample_once_in_its_own_order(memory_bytes):
    found = numbers(feed(memory_bytes=memory_bytes).epoch(0))
    assert found.shape == (3, 10)
    assert (np.sort(found, axis=1) == np.arange(10)).all()
    assert not (found[0] == found[1]).all()


@pytest.mark.parametrize("memory_bytes", [1 << 20, 1])
def test_a_particles_order_depends_on_its_number_alone(memory_bytes):
    together = numbers(feed(memory_bytes=memory_bytes).epoch(3))
    alone = numbers(feed(wish=Wish(pids=[2], seed=5), memory_bytes=memory_bytes).epoch(3))
    assert (alone[0] == together[2]).all()


def test_orders_change_with_the_epoch_and_stay_without_shuffling():
    assert not (numbers(feed().epoch(0)) == numbers(feed().epoch(1))).all()
    data = Rows(batch_size=4, shuffle=False)
    assert (numbers(feed(data).epoch(1)) == np.arange(10)).all()


def test_labels_go_with_their_features():
    for x, (same, double) in feed().epoch(0):
        assert (same == x).all()
        assert (double == 2 * x).all()


def test_a_shared_order_has_no_axis_for_particles():
    shared = feed(wish=Wish(pids=[0, 1], seed=5, shared=True))
    assert shared.is_shared
    assert sorted(numbers(shared.epoch(0))) == list(range(10))


def test_what_a_generator_makes_is_the_same_for_all():
    made = feed(Made(batch_size=4))
    assert made.is_shared
    assert (made.n_samples, made.steps) == (10, 3)
    assert (numbers(made.epoch(0)) == np.arange(10)).all()


def test_bootstrap_draws_with_replacement_once_for_all_epochs():
    wish = Wish(pids=[0, 1], seed=5, bootstrap=True)
    first, second = (numbers(feed(wish=wish).epoch(epoch)) for epoch in (0, 1))
    assert (np.sort(first) == np.sort(second)).all()
    assert len(set(first[0])) < 10
    assert not (np.sort(first[0]) == np.sort(first[1])).all()


@pytest.mark.parametrize("shared", [False, True])
def test_the_parts_of_a_group_make_up_each_batch(shared):
    def of(member):
        wish = Wish(pids=[0], seed=5, shared=shared, member=member, group_size=3)
        return [x[..., 0].ravel() for x, _ in feed(wish=wish).epoch(0)]

    whole = [x[..., 0].ravel() for x, _ in feed(wish=Wish([0], 5, shared)).epoch(0)]
    parts = [np.concatenate(each) for each in zip(of(0), of(1), of(2), strict=True)]
    assert all((a == b).all() for a, b in zip(parts, whole, strict=True))


def test_an_epoch_goes_on_after_steps_that_are_done():
    whole, rest = list(feed().epoch(2)), list(feed().epoch(2, skip=1))
    assert len(rest) == len(whole) - 1
    assert (rest[0][0] == whole[1][0]).all()


@pytest.mark.parametrize("data", [Rows(batch_size=4), Made(batch_size=4)])
def test_bootstrap_needs_data_in_memory(data):
    wish = Wish(pids=[0], bootstrap=True)
    with pytest.raises(ConfigError, match="bootstrap must have data of at most"):
        feed(data, wish, memory_bytes=1)


class Two(Data):
    """Two files: x of ``shapes``, y of ``types``, each 1.5."""

    def __init__(self, shapes=((1,), (1,)), types=(np.float32, np.float32)):
        super().__init__(4)
        self.shapes, self.types = shapes, types
        self.set_files(["0", "1"])

    def load_data(self, file):
        x = np.ones((8, *self.shapes[int(file)]), np.float32)
        return x, np.full((8, 1), 1.5).astype(self.types[int(file)])


@pytest.mark.parametrize("shapes", [((3,), (1,)), ((1,), (3,))])
def test_files_of_other_shapes_are_an_error_and_not_spread(shapes):
    with pytest.raises(DataError, match="all samples must have one shape, got"):
        Feed(Two(shapes), Wish([0]))


def test_a_later_file_of_finer_numbers_is_not_cut_to_the_first_ones_type():
    batches = Feed(Two(types=(np.int32, np.float32)), Wish([0])).epoch(0)
    found = np.concatenate([y for _, y in batches], axis=1)
    assert found.dtype == np.float32
    assert sorted(set(found.ravel())) == [1.0, 1.5]
