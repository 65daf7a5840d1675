"""The book of what one worker has to train on."""

import random

import pytest

from nnlo.errors import ProtocolError
from nnlo.mpi.agenda import Agenda, Share, divide, own_share, pack, unpack

N_BATCHES = 7


def cells(shares):
    return sorted(
        (epoch, share.shard, batch)
        for share in shares
        for epoch in range(share.first, share.end)
        for batch in range(share.start, N_BATCHES if share.stop is None else share.stop)
    )


def test_own_share_goes_on_where_a_checkpoint_left_it():
    assert own_share(2, (3, 0), 5) == [Share(2, 3, 5)]
    assert own_share(2, (3, 4), 5) == [Share(2, 3, 4, 4), Share(2, 4, 5)]


def test_stints_come_epoch_by_epoch_and_gifts_of_earlier_epochs_first():
    agenda = Agenda(own_share(0, (1, 0), 4))
    agenda.next()
    agenda.add([Share(5, 0, 3, 2, 4)])
    order = [(stint.epoch, stint.shard) for stint in iter(agenda.next, None)]
    assert order == [(0, 5), (1, 5), (2, 0), (2, 5), (3, 0)]


@pytest.mark.parametrize("seed", range(200))
def test_the_rest_is_what_the_positions_told_have_not_covered(seed):
    """A worker and its master keep the same book, whatever is added when."""
    rng = random.Random(seed)
    worker, master = Agenda(own_share(0, (0, 0), 3)), Agenda(own_share(0, (0, 0), 3))
    given = [Share(0, 0, 3)]
    done, batches = [], []
    for shard in range(1, 5):
        for _ in range(rng.randrange(12)):
            while not batches and (stint := worker.next()) is not None:
                stop = N_BATCHES if stint.stop is None else stint.stop
                batches = list(range(stint.start, stop))
            if not batches:
                break
            done.append((stint.epoch, stint.shard, batches.pop(0)))
            if rng.random() < 0.5:
                master.reach(stint.share, stint.epoch, done[-1][2] + 1)
        if done:
            master.reach(stint.share, stint.epoch, done[-1][2] + 1)
        assert cells(master.rest()) == sorted(set(cells(given)) - set(done))
        gift = [Share(shard, rng.randrange(3), 3, rng.randrange(3), rng.choice([None, 5]))]
        given += gift
        worker.add(gift)
        master.add(gift)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [N_BATCHES, None])
def test_parts_are_the_whole(n, count):
    shares = [Share(1, 2, 3, 4), Share(1, 3, 9), Share(4, 0, 2, 1, 6)]
    parts = divide(shares, n, lambda shard: count)
    assert len(parts) == n
    assert cells([share for part in parts for share in part]) == cells(shares)


def test_parts_of_known_batches_are_even():
    sizes = [len(cells(part)) for part in divide([Share(0, 0, 4)], 3, lambda shard: N_BATCHES)]
    assert max(sizes) - min(sizes) <= 4  # a batch an epoch


def test_shares_travel_as_bytes():
    shares = [Share(1, 2, 3, 4), Share(4, 0, 2, 1, 6)]
    assert unpack(pack(shares)) == shares


def test_a_position_of_a_share_that_was_never_given_is_an_error():
    with pytest.raises(ProtocolError, match="share of its own"):
        Agenda(own_share(0, (0, 0), 1)).reach(1, 0, 1)
