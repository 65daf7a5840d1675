"""Who does what: every shape that can be asked for, and what is said of those that cannot."""

from itertools import chain, product

import pytest

from nnlo.errors import ConfigError
from nnlo.mpi.topology import Topology

SHAPES = [
    (n, m, p)
    for n, m, p in product(range(1, 12), range(1, 6), range(1, 4))
    if n > m or m == 1  # else there is no worker
]


@pytest.fixture(params=SHAPES, ids=lambda shape: "n{}-m{}-p{}".format(*shape))
def topology(request):
    return Topology(*request.param)


def sizes_differ_by_at_most_one(groups):
    sizes = [len(group) for group in groups]
    return max(sizes) - min(sizes) <= 1


def test_every_rank_has_one_role_and_every_trainer_one_shard(topology):
    roles = [topology.role(rank) for rank in range(topology.n_ranks)]
    masters = [rank for rank, role in enumerate(roles) if role in ("root", "sub-master")]
    leaders = [rank for rank, role in enumerate(roles) if role in ("leader", "alone")]
    assert sorted([*masters, *topology.trainers]) == list(range(topology.n_ranks))
    assert masters == ([0, *topology.sub_masters] if topology.n_ranks > 1 else [])
    assert tuple(leaders) == topology.leaders


def test_every_child_has_the_one_parent_that_lists_it(topology):
    masters = (0, *topology.sub_masters)
    listed = list(chain.from_iterable(topology.children(master) for master in masters))
    assert sorted(listed) == sorted([*topology.sub_masters, *topology.leaders])
    assert all(child in topology.children(topology.parent(child)) for child in listed)


def test_members_and_leaders_are_dealt_out_evenly(topology):
    assert sizes_differ_by_at_most_one(topology.workers)
    groups = [topology.leaders_under(master) for master in topology.sub_masters or [0]]
    assert sizes_differ_by_at_most_one(groups)
    assert all(topology.worker_of(rank)[0] in topology.leaders for rank in topology.trainers)
    assert all(topology.worker_of(rank) == () for rank in topology.sub_masters)


def test_what_a_shape_is_short_of_or_has_left_over_is_remarked(topology):
    divides = len(topology.trainers) == topology.n_workers * topology.n_processes
    has_all = len(topology.sub_masters) == topology.n_masters - 1
    text = " ".join(topology.remarks())
    assert ("do not divide" in text) == (not divides)
    assert ("sub-masters were asked for" in text) == (not has_all)


def test_five_ranks_in_pairs_are_a_master_and_two_rings():
    topology = Topology(5, n_processes=2)
    assert topology.workers == ((1, 2), (3, 4))
    assert [topology.role(rank) for rank in range(5)] == [
        "root", "leader", "member", "leader", "member",
    ]  # fmt: skip
    assert topology.children(0) == (1, 3)
    assert topology.describe() == "a master and 2 workers of 2 ranks"
    assert topology.remarks() == []


def test_seven_ranks_with_three_masters_are_a_root_two_sub_masters_and_four_workers():
    topology = Topology(7, n_masters=3)
    assert topology.sub_masters == topology.children(0) == (1, 2)
    assert (topology.children(1), topology.children(2)) == ((3, 4), (5, 6))
    assert topology.n_workers == 4
    assert topology.describe() == "a master, 2 sub-masters and 4 workers"
    assert topology.remarks() == []


def test_ranks_that_fill_no_worker_join_the_first():
    topology = Topology(6, n_processes=2)
    assert topology.workers == ((1, 2, 3), (4, 5))
    assert topology.describe() == "a master and 2 workers of 2 or 3 ranks"
    (remark,) = topology.remarks()
    assert remark == "the ranks do not divide into workers of 2; there are workers of 2 and 3"


def test_sub_masters_without_a_worker_train():
    topology = Topology(6, n_masters=5)
    assert topology.sub_masters == (1, 2)
    assert topology.leaders == (3, 4, 5)
    (remark,) = topology.remarks()
    assert remark.startswith("4 sub-masters were asked for, but there are workers for 2")


@pytest.mark.parametrize("n_ranks", range(2, 12))
def test_without_a_master_all_ranks_are_alike(n_ranks):
    topology = Topology(n_ranks, has_master=False)
    assert {topology.role(rank) for rank in range(n_ranks)} == {"replica"}
    assert topology.workers == (tuple(range(n_ranks)),)
    assert topology.trainers == tuple(range(n_ranks))
    assert topology.sub_masters == ()
    assert topology.describe() == f"{n_ranks} ranks alike"
    assert topology.remarks() == []


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"n_ranks": 0}, "n_ranks must be at least 1, got 0"),
        ({"n_ranks": 3, "n_masters": 0}, "n_masters must be at least 1, got 0"),
        ({"n_ranks": 3, "n_processes": 0}, "n_processes must be at least 1, got 0"),
        ({"n_ranks": 1, "n_masters": 3}, "besides the 3 masters, got 1 ranks; start more"),
        ({"n_ranks": 3, "n_masters": 3}, "besides the 3 masters, got 3 ranks; start more"),
        ({"n_ranks": 4, "n_masters": 3, "has_master": False}, "one ring of all ranks, got n_m"),
        ({"n_ranks": 3, "n_spares": 2}, "besides the 2 spares, got 3 ranks; start more ranks"),
        ({"n_ranks": 4, "n_masters": 3, "n_spares": 1}, "3 masters and 1 spare, got 4 ranks"),
        ({"n_ranks": 4, "n_processes": 2, "has_master": False}, "n_processes 2; leave them out"),
    ],
)
def test_a_shape_that_cannot_be_says_why(shape, expected):
    with pytest.raises(ConfigError, match=expected):
        Topology(**shape)


@pytest.mark.parametrize("shape", [(6, 1, 1), (8, 3, 1), (8, 1, 2)])
def test_spares_are_the_last_ranks_and_train_nothing(shape):
    topology = Topology(*shape, n_spares=2)
    without = Topology(shape[0] - 2, *shape[1:])
    assert topology.spares == (shape[0] - 2, shape[0] - 1)
    assert [topology.role(rank) for rank in topology.spares] == ["spare"] * 2
    assert topology.workers == without.workers
    assert topology.shape == without.describe()
    assert topology.describe() == f"{without.describe()}, 2 spares"


def test_only_the_root_of_a_star_hears_spares():
    assert Topology(4, n_spares=1).children(0) == (1, 2, 3)
    assert Topology(5, n_processes=2, n_spares=2).children(0) == (1,)
    assert Topology(6, 3, n_spares=1).children(0) == (1, 2)
    assert not Topology(4, has_master=False, n_spares=1).is_star


def test_deaths_eat_spares_before_the_run_shrinks():
    topology = Topology(6, n_masters=2, n_spares=1)
    assert topology.reduced_to([0, 2, 3, 4, 5]).describe() == topology.shape
    left = topology.reduced_to([0, 3, 4, 5])
    assert left.describe() == "a master, 1 sub-master and 2 workers"
    assert [left.name(rank) for rank in range(3)] == ["master", "sub-master 3", "worker 4"]
    last = left.reduced_to([0, 2])
    assert last.describe() == "a master and 1 worker"
    assert last.name(1) == "worker 4"
    assert last.reduced_to([0]).describe() == "one process"


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0] > 1])
def test_any_shape_can_lose_a_rank(shape):
    left = Topology(*shape).reduced_to(range(shape[0] - 1))
    assert (left.n_ranks, left.n_processes) == (shape[0] - 1, shape[2])
    assert left.n_workers >= 1
    assert len(left.sub_masters) <= left.n_workers


def test_ranks_are_called_what_they_do():
    topology = Topology(6, n_masters=2, n_processes=2)
    names = [topology.name(rank) for rank in range(6)]
    assert names == ["master", "sub-master 1", "worker 2", "member 3", "worker 4", "member 5"]
    assert Topology(1).name(0) == "train"
