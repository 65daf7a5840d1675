"""What travels: public names, version, the console programs, the zoo."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import nnlo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", nnlo.__all__)
def test_public_names_are_there(name: str) -> None:
    assert name in dir(nnlo)
    assert getattr(nnlo, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        nnlo.Trainer  # noqa: B018


@pytest.mark.parametrize("target", PROJECT["scripts"].values())
def test_console_programs_lead_to_a_function(target: str) -> None:
    module, function = target.split(":")
    assert callable(getattr(import_module(module), function))


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files in a wheel built, without a network, from a copy of what git would ship."""
    work = tmp_path_factory.mktemp("wheel")
    leave = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "runs")
    shutil.copytree(ROOT, work / "src", ignore=leave)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(work)]
    done = subprocess.run([*build, str(work / "src")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    return zipfile.ZipFile(next(work.glob("*.whl"))).namelist()


def test_the_wheel_holds_nnlo_alone(wheel_names: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert tops == {"nnlo", f"nnlo-{nnlo.__version__}.dist-info"}


def test_the_wheel_holds_every_module_and_the_zoo(wheel_names: list[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "nnlo").rglob("*.py")}
    zoo = {f"nnlo/zoo/{path.name}" for path in (ROOT / "models").glob("*.py")}
    assert {name for name in wheel_names if name.endswith(".py")} == modules | zoo
