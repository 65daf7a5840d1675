import re

import numpy as np
import pytest

from nnlo.errors import ModelError
from nnlo.model.manifest import Entry, Manifest

SMALL = Manifest.pack([("kernel", (2, 3)), ("bias", (3,))], [("mean", (3,))])


def test_variables_are_packed_trainable_first_without_gaps():
    assert SMALL.entries == (
        Entry("model", "kernel", (2, 3), "T", 0),
        Entry("model", "bias", (3,), "T", 6),
        Entry("model", "mean", (3,), "S", 9),
    )
    assert (SMALL.size, SMALL.n_trainable, SMALL.n_state) == (12, 9, 3)


def test_split_gives_views_of_the_vector():
    vector = np.zeros(12, np.float32)
    kernel, bias, mean = SMALL.split(vector)
    kernel[1, 2], bias[0], mean[:] = 1, 2, 3
    np.testing.assert_array_equal(vector, [0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 3, 3])


def test_scalars_and_empty_models_have_their_place():
    scalar = Manifest.pack([("scale", ())], [])
    assert scalar.split(np.ones(1, np.float32))[0].shape == ()
    assert Manifest([]).size == 0


def test_hash_is_that_of_the_layout():
    same = Manifest.pack([("kernel", (2, 3)), ("bias", (3,))], [("mean", (3,))])
    assert same.hash == SMALL.hash
    assert len(SMALL.hash) == 64
    assert SMALL.hash32 == int(SMALL.hash[:8], 16)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Manifest.pack([("kernel", (2, 3)), ("bias", (3,))], [("mean", (3,))]), ""),
        (Manifest.pack([("kernel", (3, 2)), ("bias", (3,))], [("mean", (3,))]), "variable 0 is"),
        (Manifest.pack([("kernel", (2, 3)), ("bias", (3,))], []), "mean .* is only here"),
        (Manifest.pack([("kernel", (2, 3)), ("bias", (3,)), ("b", (3,))], []), "variable 2 is"),
    ],
)
def test_difference_is_told_and_changes_the_hash(other, says):
    told = SMALL.describe_difference(other)
    assert (told == "") == (says == "") == (other.hash == SMALL.hash)
    assert re.search(says, told)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([Entry("model", "a", (2,), "T", 1)], "without gaps, got model/a .* at 1; place it at 0"),
        ([Entry("model", "a", (2,), "S", 0), Entry("model", "b", (2,), "T", 2)], "kind T, then S"),
        ([Entry("model", "a", (2,), "K", 0)], "kind T, then S"),
    ],
)
def test_wrong_entries_are_refused(entries, says):
    with pytest.raises(ModelError, match=says):
        Manifest(entries)


@pytest.mark.parametrize(
    "vector", [np.zeros(11, np.float32), np.zeros(12), np.zeros(24, np.float32)[::2]]
)
def test_vectors_that_do_not_fit_are_refused(vector):
    with pytest.raises(ModelError, match="the vector must be"):
        SMALL.split(vector)
