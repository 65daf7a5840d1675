"""Who may import whom: only downwards (docs: layers), and heavy libraries in few places."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "nnlo").rglob("*.py"))

# Leaf helpers: every file may import them; among themselves they stand in this order.
HELPERS = (
    "nnlo.errors",
    "nnlo.files",
    "nnlo.log",
    "nnlo.history",
    "nnlo.checkpoint",
    "nnlo.spans",
)

# What files under a name may import of the package, beside the helpers and their own package.
# The longest matching name counts.
LEAVES = ("nnlo.algo", "nnlo.model", "nnlo.data")
ALLOWED = {
    "nnlo": ("nnlo",),  # lazily: see the last test
    "nnlo.algo": (),
    "nnlo.model": (),
    "nnlo.data": (),
    "nnlo.report": (),
    "nnlo.report.search_axes": ("nnlo.optimize.dimensions", "nnlo.optimize.importance"),
    "nnlo.report.search_events": ("nnlo.optimize.trials",),
    "nnlo.report.search_plots": (
        "nnlo.report.search_axes",
        "nnlo.optimize.course",
        "nnlo.optimize.dimensions",
        "nnlo.optimize.importance",
        "nnlo.optimize.table",
        "nnlo.optimize.trials",
    ),
    "nnlo.mpi": LEAVES,
    "nnlo.mpi.topology": (),
    "nnlo.mpi.frame": (),
    "nnlo.mpi.protocol": (),
    "nnlo.mpi.events": (),
    "nnlo.mpi.agenda": (),
    "nnlo.mpi.vigil": (),
    "nnlo.mpi.link": (),
    "nnlo.simulate": (*LEAVES, "nnlo.mpi"),
    "nnlo.optimize": (*LEAVES, "nnlo.mpi", "nnlo.report"),
    "nnlo.bayes": (*LEAVES, "nnlo.mpi", "nnlo.report"),
    "nnlo.cli": ("nnlo",),
}
# Within their package, pure files and the link know only these of their neighbours.
SEARCH = (
    "nnlo.optimize.bayesian",
    "nnlo.optimize.dimensions",
    "nnlo.optimize.forms",
    "nnlo.optimize.gaussian_process",
    "nnlo.optimize.quasi_random",
    "nnlo.optimize.searcher",
    "nnlo.optimize.space",
)
LOW = {
    "nnlo.mpi.topology": (),
    "nnlo.mpi.frame": (),
    "nnlo.mpi.events": (),
    "nnlo.mpi.protocol": ("nnlo.mpi.events",),
    "nnlo.mpi.agenda": (),
    "nnlo.mpi.vigil": (),
    "nnlo.mpi.link": ("nnlo.mpi.frame", "nnlo.mpi.protocol"),
    "nnlo.optimize.dimensions": (),
    "nnlo.optimize.folds": (),
    "nnlo.optimize.forms": ("nnlo.optimize.dimensions",),
    "nnlo.optimize.space": ("nnlo.optimize.dimensions", "nnlo.optimize.forms"),
    "nnlo.optimize.searcher": ("nnlo.optimize.dimensions", "nnlo.optimize.space"),
    "nnlo.optimize.importance": SEARCH,
    "nnlo.optimize.course": (
        "nnlo.optimize.fidelity",
        "nnlo.optimize.searcher",
        "nnlo.optimize.space",
        "nnlo.optimize.study",
        "nnlo.optimize.trials",
    ),
    **dict.fromkeys(
        (
            "nnlo.optimize.bayesian",
            "nnlo.optimize.gaussian_process",
            "nnlo.optimize.genetic",
            "nnlo.optimize.optuna_searcher",
            "nnlo.optimize.quasi_random",
            "nnlo.optimize.skopt_searcher",
        ),
        SEARCH,
    ),
}

# Which files may import a heavy library, at the top or on use; a type costs nothing.
KERAS = (
    "nnlo.model.keras_*",
    "nnlo.model.builder",  # reads architectures
    "nnlo.data.originals",  # downloads through keras.datasets
    "nnlo.mpi.callbacks",
    "nnlo.callbacks",
    "nnlo.bayes.keras_*",
)
HEAVY = {
    "mpi4py": ("nnlo.mpi.link", "nnlo.mpi.mixed", "nnlo.mpi.ulfm"),
    "keras": KERAS,
    "tensorflow": KERAS,
    "torch": ("nnlo.model.torch_*", "nnlo.model.keras_torch", "nnlo.bayes.torch_*"),
    "jax": ("nnlo.model.keras_jax*",),
    "numba": ("nnlo.algo.kernels",),
    "matplotlib": ("nnlo.report.search_*", "nnlo.report.bayes_*"),
    "skopt": ("nnlo.optimize.forms", "nnlo.optimize.skopt_searcher"),
    "optuna": ("nnlo.optimize.optuna_*",),
    "cmaes": ("nnlo.optimize.optuna_searcher",),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class DropTypeChecking(ast.NodeTransformer):
    """Takes out what stands under ``if TYPE_CHECKING:``."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imported_names(path: Path, *, with_types: bool = True) -> list[str]:
    """Full names of all that a file imports, at its top or inside functions."""
    tree = ast.parse(path.read_text())
    names = []
    for node in ast.walk(tree if with_types else DropTypeChecking().visit(tree)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def is_under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def may_import(module: str, name: str) -> bool:
    """Whether ``module`` may import ``name``, both of the package."""
    helper = next((h for h in HELPERS if is_under(name, h)), None)
    if module in HELPERS:
        return helper is not None and HELPERS.index(helper) <= HELPERS.index(module)
    if helper is not None:
        return True
    if module in LOW:
        return any(is_under(name, below) for below in LOW[module])
    home = max((key for key in ALLOWED if is_under(module, key)), key=len)
    own = home if home != "nnlo" else module
    return any(is_under(name, package) for package in (own, *ALLOWED[home]))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    own = [name for name in imported_names(path) if is_under(name, "nnlo")]
    assert [name for name in own if not may_import(module_name(path), name)] == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_heavy_libraries_stay_where_they_belong(path: Path) -> None:
    module = Path(module_name(path))
    for name in imported_names(path, with_types=False):
        places = HEAVY.get(name.partition(".")[0])
        assert places is None or any(module.match(place) for place in places), name


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("nnlo.algo.downpour", "nnlo.model.manifest.Manifest"),
        ("nnlo.data.hdf5", "nnlo.algo.base.Vector"),
        ("nnlo.mpi.master", "nnlo.cli.train"),
        ("nnlo.mpi.protocol", "nnlo.mpi.master"),
        ("nnlo.errors", "nnlo.files.write_text"),
        ("nnlo.model.loader", "nnlo.mpi.link"),
        ("nnlo.optimize.space", "nnlo.optimize.bayesian.Bayesian"),
        ("nnlo.optimize.bayesian", "nnlo.mpi.manager.MPIManager"),
    ],
)
def test_the_rule_catches_an_upward_or_sideways_import(module: str, name: str) -> None:
    assert not may_import(module, name)


def test_importing_the_package_loads_neither_mpi_nor_a_backend() -> None:
    code = "import sys, nnlo, nnlo.cli.launch; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert set(HEAVY).isdisjoint(done.stdout.split())
