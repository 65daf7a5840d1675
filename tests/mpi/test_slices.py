"""The vector cut into slices for sharded masters, and joined again."""

import numpy as np
import pytest

from nnlo.algo import Algo
from nnlo.errors import ConfigError
from nnlo.model.manifest import Manifest
from nnlo.mpi.loopback import Loopback
from nnlo.mpi.observer import Nobody
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.slices import WholeMaster, cut, cut_state, join_states


def manifest(n_trainable, n_state=0):
    return Manifest.pack([("w", (n_trainable,))], [("s", (n_state,))] if n_state else [])


@pytest.mark.parametrize("n_slices", [1, 2, 3, 7])
@pytest.mark.parametrize("n_trainable", [112, 1000, 4097])
def test_slices_cover_the_vector_once_and_differ_little(n_slices, n_trainable):
    slices = cut(manifest(n_trainable, 5), n_slices)
    assert [one.start for one in slices[1:]] == [one.stop for one in slices[:-1]]
    assert (slices[0].start, slices[-1].stop) == (0, n_trainable + 5)
    lengths = [one.n_trainable for one in slices]
    assert sum(lengths) == n_trainable
    assert max(lengths) - min(lengths) <= 32


def test_the_last_slice_has_the_state():
    slices = cut(manifest(64, 5), 2)
    assert [one.n_state for one in slices] == [0, 5]


def test_slices_begin_at_64_bytes():
    assert all(one.start % 16 == 0 for one in cut(manifest(1001), 5))


def test_more_masters_than_weights_to_share_are_refused():
    with pytest.raises(ConfigError, match="3 masters for 40 weights; ask for fewer --n-shards"):
        cut(manifest(40), 3)


def test_states_that_are_cut_join_to_what_they_were():
    slices, rng = cut(manifest(100), 3), np.random.default_rng(0)
    state = {"momentum": rng.normal(size=100), "count": np.array(7)}
    joined = join_states([cut_state(state, one, 100) for one in slices], slices)
    assert joined.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(joined[name], value)


def test_a_state_of_one_shape_per_weight_only_is_cut():
    piece = cut(manifest(100), 2)[1]
    assert cut_state({"count": np.array([7])}, piece, 100)["count"].tolist() == [7]


def test_weights_before_the_first_message_are_had_without_asking_the_others():
    whole = manifest(40, 3)
    first = np.arange(43, dtype=np.float32)
    slices = cut(whole, 2)
    own = slices[0]
    half = Algo("sgd").master(own.n_trainable, 1)
    protocol, link = MasterProtocol([2]), Loopback()
    master = WholeMaster(own, half, protocol, link, Nobody(), first[own.start : own.stop])
    master.know(None, slices, whole, first)  # to ask would fail
    np.testing.assert_array_equal(master.weights, first)
