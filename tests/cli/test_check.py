"""``nnlorun --check``: the table it shows, and the misfits it knows."""

import argparse
import os
import subprocess
import sys

import pytest

from nnlo.cli import launch
from nnlo.cli.check import (
    Exchange,
    RankFacts,
    alone,
    describe,
    exchange_line,
    hosts_table,
    misfit,
    ranges,
)
from nnlo.cli.machine import Machine

OPEN = "mpirun of Open MPI 5.0.11 (/bin/mpirun)"
HYDRA = "mpirun of Hydra (MPICH, Intel MPI) 4.1 (/bin/mpiexec)"


def test_numbers_in_a_row_are_a_range() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert ranges([3]) == "3"


def test_a_host_is_a_row() -> None:
    facts = [
        RankFacts(0, "n1", 8, "4", ("A100", "A100")),
        RankFacts(1, "n1", 8, "4"),
        RankFacts(2, "node2", 8, "8"),
    ]
    assert hosts_table(facts)[1:-1] == [
        "host   ranks  on host  cores  threads  GPUs",
        "n1     0-1    2        8      4        2 A100",
        "node2  2      1        8      8        none",
    ]


def test_an_exchange_is_told_as_bandwidth_and_latency() -> None:
    facts = [RankFacts(rank, host, 1, "1") for rank, host in enumerate("aab")]
    line = exchange_line(Exchange(2, 1.5e-6, (16 << 20) / 2e9), facts)
    assert line == "ranks 0 and 2 on a and b: 2.0 GB/s (16 MiB), 1.5 us (8 bytes, one way)"
    assert "on one host" in exchange_line(Exchange(1, 1e-6, 1e-3), facts)


@pytest.mark.parametrize(
    ("library", "launcher", "fits"),
    [
        ("Open MPI v5.0.11", OPEN, True),
        ("MPICH Version: 4.1", HYDRA, True),
        ("Intel(R) MPI Library 2021.1", HYDRA, True),
        ("Open MPI v4.1.6", OPEN, False),
        ("MPICH Version: 4.1", OPEN, False),
        ("Open MPI v5.0.11", HYDRA, False),
        ("Open MPI v5.0.11", "srun", True),
        ("", OPEN, True),
    ],
)
def test_launcher_and_library_must_be_of_one_mpi(library: str, launcher: str, fits: bool) -> None:
    assert (misfit(library, launcher) == "") is fits


def test_the_remedy_for_lonely_ranks_depends_on_the_launcher() -> None:
    assert "got 4 worlds of size 1 of MPICH; take --launcher mpirun" in alone(4, "MPICH", "srun")
    assert "take the mpirun of that MPI" in alone(2, "MPICH", OPEN)


@pytest.mark.parametrize(("enabled", "told"), [("1", "on"), ("0", "nnlorun --fault-tolerant")])
def test_fault_tolerance_is_told(enabled: str, told: str) -> None:
    options = argparse.Namespace(launcher=OPEN, fault_tolerance="nnlorun --fault-tolerant")
    lines = describe(options, "Open MPI", {"OMPI_MCA_mpi_ft_enable": enabled})
    assert f"fault tolerance  {told}" in lines


def test_a_backend_that_is_not_there_is_told() -> None:
    options = argparse.Namespace(launcher="", fault_tolerance="")
    lines = describe(options, "", {"KERAS_BACKEND": "theano"})
    assert "Keras backend    theano, which is not installed" in lines


def check(*words: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "nnlo.cli.check", *words]
    environ = {**os.environ, **changes}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environ
    )


@pytest.mark.parametrize(
    ("size", "rank"),
    [("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("OTHER", "SLURM_PROCID")],
)
def test_ranks_in_worlds_of_their_own_are_told_once(size: str, rank: str) -> None:
    pytest.importorskip("mpi4py")
    ends = [check("--ranks=2", **{size: "2", rank: str(i)}) for i in (0, 1)]
    assert [end.returncode for end in ends] == [1, 0]
    assert ends[0].stdout.count("PROBLEM: the 2 processes of this launch must form one MPI") == 1
    assert ends[1].stdout == ""


def test_they_are_told_once_where_no_variable_tells_them_apart(tmp_path) -> None:
    pytest.importorskip("mpi4py")
    ends = [check("--ranks=2", NNLO_JOB=str(tmp_path)) for _ in range(2)]
    assert [end.returncode for end in ends] == [1, 0]
    assert ["PROBLEM" in end.stdout for end in ends] == [True, False]


def test_without_a_launcher_it_tells_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "probe_machine", lambda _: Machine())
    assert launch.main(["--check"]) == 1
    told = capfd.readouterr().out
    assert "PROBLEM: an mpirun must be found" in told
    assert "numpy" in told


def test_without_mpi4py_it_tells_what_there_is(tmp_path) -> None:
    (tmp_path / "mpi4py.py").write_text("raise ImportError('no mpi4py here')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    end = check("--ranks=2", PYTHONPATH=path, OMPI_COMM_WORLD_SIZE="2")
    assert end.returncode == 1
    assert "2 ranks must share one MPI, got none (no mpi4py here)" in end.stdout
    assert end.stderr == ""
