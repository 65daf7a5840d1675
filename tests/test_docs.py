"""What README.md and docs/ say is so: commands, code, links, the tree of the project.

Every line of a ``bash`` block (or of one without a language that starts like a command) goes
through the real parser of its program. Blocks under ``<!-- run -->`` are run, in order, in a
folder that holds the files which other blocks show (``# name.ext`` is their first line).
"""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from nnlo.bayes.methods import METHODS
from nnlo.cli.getdata import main as get_data
from nnlo.cli.launch import build_parser
from nnlo.cli.optimize_options import OptimizeOptions, tunable
from nnlo.cli.options import parse
from nnlo.cli.particles import method_of
from nnlo.cli.predict_options import PredictOptions
from nnlo.cli.prune_options import PruneOptions
from nnlo.cli.train_options import TrainOptions
from nnlo.cli.training import make_algo
from nnlo.model import load_builder
from nnlo.optimize.merit import Merit
from nnlo.optimize.pruning import PRUNERS
from nnlo.optimize.searcher import SEARCHERS
from nnlo.optimize.space import Space
from tests.program import run_here

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = (
    *("TrainingDriver", "OptimizationDriver", "PredictDriver", "PruneDriver", "GetData"),
    "nnlorun",
)
ZOO = {path.stem for path in (ROOT / "models").glob("*.py")}
LAUNCHERS = ("mpirun", "srun", "jsrun", "aprun")
KNOWN = ("tensorboard", "optuna-dashboard", ".", "kill")  # programs of others, not checked
SETTINGS = {"KERAS_BACKEND", "NNLO_MPIRUN", "NNLO_DATA", "DATA_CACHE", "DATA_COPY_COMMAND"}


class Block(NamedTuple):
    page: str
    language: str
    text: str
    is_run: bool

    @property
    def file(self) -> str | None:
        """The name in the first line, where the block shows a whole file."""
        first = re.match(r"# ([\w.]+\.(?:py|yaml))\n", self.text)
        return first and first[1]

    @property
    def commands(self) -> list[str]:
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks() -> Iterator[Block]:
    form = r"(<!-- run -->\n)?^```(\w*)\n(.*?)^```$"
    for page in PAGES:
        for run, language, text in re.findall(form, page.read_text(), re.MULTILINE | re.DOTALL):
            if not language and text.split()[0] in (*OURS, *LAUNCHERS):
                language = "bash"
            yield Block(page.name, language, text, bool(run))


SHELL = [block for block in blocks() if block.language in ("bash", "console")]
COMMANDS = [(block.page, command) for block in SHELL for command in block.commands]


# Commands ---------------------------------------------------------------------------------


def check(words: list[str]) -> None:
    """Fail unless every word of a command line means something."""
    while words and (setting := re.match(r"(\w+)=", words[0])):
        assert setting[1] in SETTINGS
        words = words[1:]
    program, arguments = words[0], words[1:]
    if program in LAUNCHERS:
        start = next(at for at, word in enumerate(words) if word in OURS)
        check(words[start:])
    elif program in CHECKS:
        CHECKS[program](arguments)
    else:
        assert program in KNOWN, f"no test knows {program}"


def check_nnlorun(arguments: list[str]) -> None:
    options = build_parser().parse_args(arguments)
    if options.check:
        return
    if options.program.endswith(".py"):
        check_script([options.program, *options.arguments])
    elif not options.is_module:
        check([options.program, *options.arguments])


def check_training(arguments: list[str]) -> None:
    options = parse("TrainingDriver", TrainOptions, "", arguments)
    if options.mode in METHODS:
        method_of(options)
    else:
        make_algo(options)


def check_prediction(arguments: list[str]) -> None:
    parse("PredictDriver", PredictOptions, "", arguments)


def check_pruning(arguments: list[str]) -> None:
    parse("PruneDriver", PruneOptions, "", arguments)


def check_search(arguments: list[str]) -> None:
    options = parse("OptimizationDriver", OptimizeOptions, "", arguments)
    make_algo(options)
    Merit.from_text(options.merit or "loss")
    if options.tune and options.model in ZOO:
        names = Space.from_tune(options.tune).names
        assert set(names) <= {*tunable(), *load_builder(options.model).parameter_names}


def check_data(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        get_data([*arguments, "--help"])
    assert ended.value.code == 0


def check_script(arguments: list[str]) -> None:
    name, *options = arguments
    if name == "-m":
        return
    if "/" in name:  # a file of ours, whose text must hold the options
        text = (ROOT / name).read_text()
        assert [o for o in options if o.startswith("--") and f'"{o}"' not in text] == []


def check_pip(arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"\.\[(.*?)\]", " ".join(arguments)):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def check_make(arguments: list[str]) -> None:
    rules = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(arguments) <= set(rules)


CHECKS = {
    "nnlorun": check_nnlorun,
    "TrainingDriver": check_training,
    "OptimizationDriver": check_search,
    "PredictDriver": check_prediction,
    "PruneDriver": check_pruning,
    "GetData": check_data,
    "python": check_script,
    "python3.11": check_script,
    "pip": check_pip,
    "make": check_make,
}


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """A folder with the files that the pages show, as the current one."""
    monkeypatch.chdir(tmp_path)
    for block in blocks():
        if block.file:
            Path(block.file).write_text(block.text)
    return tmp_path


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p}: {c}" for p, c in COMMANDS])
def test_every_word_of_a_command_is_understood(page, command, shown):
    for name in re.findall(r"--config (runs\S+)", command):  # one that a run has written
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text('{"options": {"model": "digits"}}')
    check(shlex.split(command, comments=True))


@pytest.mark.parametrize(
    "command",
    [
        "nnlorun -n 3 TrainingDriver --model digits --no-such-option",
        "nnlorun -n 3 --no-such-option TrainingDriver --model digits",
        "mpirun -np 3 TrainingDriver --model digits --mode no-such-mode",
        "OptimizationDriver --model digits --tune no_such_parameter=1:2",
        "nnlorun -n 3 OptimizationDriver --model digits --hyper-opt no-such-searcher",
        "GetData no-such-set",
        "make no-such-target",
        "pip install .[no-such-extra]",
        "nnlorun -n 3 examples/own_data.py --no-such-option",
        "no-such-program",
    ],
)
def test_a_stale_command_would_be_found(command):
    with pytest.raises((SystemExit, AssertionError)) as found:
        check(shlex.split(command))
    assert found.type is AssertionError or found.value.code == 2


@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_marked_blocks_run_one_after_the_other(shown):
    marked = [block for block in blocks() if block.is_run]
    assert 4 <= sum(len(block.commands) for block in marked if block.language == "bash") <= 8
    marked.sort(key=lambda block: "GetData" not in block.text)
    for block in marked:
        if block.language == "python":
            run_here(shown, "python", "-c", block.text)
        else:
            for command in block.commands:
                run_here(shown, *shlex.split(command))
    assert (shown / "runs/my_model-train/checkpoints/cp-00006.npz").is_file()


# Prose ------------------------------------------------------------------------------------


def run_code(page: str) -> dict[str, object]:
    """The names that the code of a guide has made, all in one process."""
    pytest.importorskip("torch")
    names: dict[str, object] = {}
    for block in blocks():
        if block.page == page and block.language == "python":
            exec(compile(block.text, block.page, "exec"), names)
    return names


def test_code_of_the_library_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_code("library.md")
    assert len(names["signs"].history.epochs) == 2  # type: ignore[attr-defined]


def test_code_of_the_guide_on_particles_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_code("bayes.md")
    inside, outside = names["prediction"]["epistemic"][[25, 0]]  # type: ignore[index]
    assert outside > 4.0 * inside
    assert names["get_model"]().count_params() == 784 * 64 * 2 + 1 + 64 + 650  # type: ignore[operator]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text().lower(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", h).replace(" ", "-") for h in headings]


def missing(options: type, *guides: str) -> set[str]:
    """The options that no guide names."""
    text = "".join((ROOT / "docs" / name).read_text() for name in guides)
    written = {name.replace("_", "-") for name in re.findall(r"--([a-z][\w-]*)", text)}
    return {name.replace("_", "-") for name in options.__dataclass_fields__} - written


def test_every_option_is_in_a_guide_on_training():
    guides = ("training.md", "algorithms.md", "shapes.md", "faults.md", "bayes.md")
    assert missing(TrainOptions, *guides) == set()


def test_every_option_of_a_prediction_is_in_its_guide():
    assert missing(PredictOptions, "bayes.md") == {"run"}
    assert missing(PruneOptions, "pruning.md") == {"run"}


def test_every_option_of_a_search_is_in_its_guide():
    of_trainings = {name.replace("_", "-") for name in TrainOptions.__dataclass_fields__}
    assert missing(OptimizeOptions, "search.md") - of_trainings == set()


@pytest.mark.parametrize("name", [*SEARCHERS, *PRUNERS])
def test_every_searcher_and_rule_is_in_the_guide(name):
    assert f"| `{name}`" in (ROOT / "docs/search.md").read_text()


def test_every_guide_and_example_is_named_somewhere():
    text = "".join(page.read_text() for page in PAGES)
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in text] == []
    examples = (ROOT / "examples").glob("*.py")
    assert [file.name for file in examples if f"examples/{file.name}" not in text] == []


# The tree ---------------------------------------------------------------------------------


def tree() -> dict[Path, str]:
    """What the README's tree names, with its annotation."""
    (text,) = (b.text for b in blocks() if b.page == "README.md" and b.language == "text")
    found, folder = {}, Path()
    for line in text.splitlines():
        names, _, note = line.strip().partition("   ")
        indented = line.startswith("  ")
        for name in names.split(", "):
            found[(folder if indented else Path()) / name.rstrip("/")] = note.strip()
        if not indented and names.endswith("/"):
            folder = Path(names)
    return found


def real(folder: Path) -> set[Path]:
    """What is in a folder of the project, but for what tools and runs leave there."""
    ignored = {"__pycache__", "__init__.py", "README.md"}
    if folder == Path():
        ignored |= {"build", "dist", "runs", "data"}
    entries = {path.relative_to(ROOT) for path in (ROOT / folder).iterdir()}
    return {
        path
        for path in entries
        if path.name == ".ci"
        or not (path.name in ignored or path.name.startswith(".") or path.suffix == ".egg-info")
    }


def test_the_tree_in_the_readme_is_the_real_one():
    shown = tree()
    folders = {Path(), Path("nnlo"), Path("docs")}
    assert folders == {path.parent for path in shown}
    for folder in folders:
        assert {path for path in shown if path.parent == folder} == real(folder)
    assert all(note for path, note in shown.items() if (ROOT / path).is_dir())
