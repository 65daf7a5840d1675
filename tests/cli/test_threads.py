"""What each rank takes of its node, from fake environments of the launchers."""

import pytest

from nnlo.cli import threads
from nnlo.cli.threads import ALONE, Place, assign_gpu, limit_threads, local_place, threads_per_rank

TWO_RANKS = {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, ALONE),
        (TWO_RANKS, (1, 2)),
        ({"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "3"}, (0, 3)),
        ({"SLURM_LOCALID": "2", "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}, (2, 4)),
        (
            {
                "SLURM_LOCALID": "2",
                "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
                "SLURM_NODEID": "2",
            },
            (2, 3),
        ),
        (TWO_RANKS | {"SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1"}, (1, 2)),
    ],
)
def test_the_place_on_the_node_is_what_the_launcher_says(
    environ: dict[str, str], place: Place
) -> None:
    assert local_place(environ) == place


@pytest.mark.parametrize(
    ("own", "node", "n_local", "count"),
    [(64, 64, 4, 16), (8, 64, 8, 8), (32, 64, 8, 8), (1, 2, 2, 1), (2, 2, 3, 1)],
)
def test_ranks_of_a_node_share_its_cores(own: int, node: int, n_local: int, count: int) -> None:
    assert threads_per_rank(own, node, n_local) == count


def test_every_library_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda pid=0: 12)
    environ = dict(TWO_RANKS)
    assert limit_threads(environ) == 6
    assert environ["OMP_NUM_THREADS"] == environ["TF_NUM_INTRAOP_THREADS"] == "6"
    assert environ["TF_NUM_INTEROP_THREADS"] == "2"


def test_what_the_user_set_stays_unless_given_on_the_command_line() -> None:
    environ = {"OMP_NUM_THREADS": "3"}
    limit_threads(environ)
    assert environ["OMP_NUM_THREADS"] == "3"
    limit_threads(environ, threads=5)
    assert environ["OMP_NUM_THREADS"] == environ["MKL_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("visible", "given"),
    [("0,1", "1"), ("8,10,11", "10"), ("GPU-8f2c,GPU-77aa", "GPU-77aa"), ("3, 4", "4")],
)
def test_each_local_rank_gets_one_of_the_visible_gpus(visible: str, given: str) -> None:
    environ = TWO_RANKS | {"CUDA_VISIBLE_DEVICES": visible}
    assert assign_gpu(environ) == environ["CUDA_VISIBLE_DEVICES"] == given


def test_more_ranks_than_gpus_take_turns() -> None:
    environ = {
        "MPI_LOCALRANKID": "4",
        "MPI_LOCALNRANKS": "5",
        "ROCR_VISIBLE_DEVICES": "0,1,2",
    }
    assert assign_gpu(environ) == environ["ROCR_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    "chosen",
    [
        {"CUDA_VISIBLE_DEVICES": "5"},
        {"CUDA_VISIBLE_DEVICES": ""},
        {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"},
        {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_STEP_GPUS": "0,1,2,3"},
    ],
)
def test_the_choice_of_a_scheduler_is_not_overridden(chosen: dict[str, str]) -> None:
    environ = TWO_RANKS | chosen
    assert assign_gpu(environ) is None
    assert environ == TWO_RANKS | chosen


def test_a_rank_alone_on_its_node_keeps_all_gpus() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert assign_gpu(environ) is None


def test_the_driver_is_asked_where_no_variable_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_installed_gpus", lambda: ["0", "1", "2"])
    environ = dict(TWO_RANKS)
    assert assign_gpu(environ) == environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_the_number_for_openmp_is_that_of_all_that_is_not_set():
    environ = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "1"}
    assert limit_threads(environ) == 3
    assert environ["MKL_NUM_THREADS"] == "1"
    assert environ["OPENBLAS_NUM_THREADS"] == environ["TF_NUM_INTRAOP_THREADS"] == "3"
