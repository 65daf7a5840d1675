"""Real ranks under the real nnlorun, each run with a hard limit and none left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnlo.data.fetch import write_dataset

TINY = '''
"""Digits by a small torch network."""
from torch import nn


def get_model(width=32, dropout=0.1):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10)
    )


def get_loss():
    return "categorical_crossentropy"
'''

START_LIMIT_S = 180.0
"""What a start may take on a busy machine; pytest-timeout ends the whole test at 300."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder start ranks."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("distributed")


_PYTHON = [Path(sys.executable).name]


@dataclass
class Ended:
    """How a run ended. output: stdout and stderr together."""

    code: int
    output: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.output.splitlines() if "error:" in line]


class Run:
    """A program in the background; ``close`` ends its processes, whatever session they are in.

    They are known by a variable in their environment. What they say goes to a file: a pipe that
    nobody reads would fill and stop them.
    """

    def __init__(self, words: list[object], folder: Path, **env: str) -> None:
        self.folder = folder
        self._mark = f"NNLO_TEST_RUN={uuid.uuid4().hex}"
        name, value = self._mark.split("=")
        self._file = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env=environment(**{name: value, "PYTHONFAULTHANDLER": "1"}, **env),
            cwd=folder,
        )

    @property
    def output(self) -> str:
        size = os.fstat(self._file.fileno()).st_size  # pread: the offset is the run's
        return os.pread(self._file.fileno(), size, 0).decode(errors="replace")

    def processes(self) -> list[int]:
        """Those of the run that have not ended."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has just ended, or is not ours
                if self._mark.encode() in entry.read_bytes().split(b"\0"):
                    found.append(int(entry.parent.name))
        return found

    def until(self, condition: Callable[[], object], limit_s: float = START_LIMIT_S) -> None:
        """Wait for ``condition()``; fail at once when the run ends without it."""
        deadline = time.monotonic() + limit_s
        while not condition():
            code = self.process.poll()
            if code is not None and not condition():
                pytest.fail(f"the run ended with {code} instead\n{self.report()}")
            if time.monotonic() > deadline:
                pytest.fail(f"not within {limit_s} s\n{self.report()}")
            time.sleep(0.02)

    def ended(self, limit_s: float = START_LIMIT_S) -> Ended:
        """Wait for the end of the run."""
        self.until(lambda: self.process.poll() is not None, limit_s)
        return Ended(self.process.returncode, self.output)

    def gone(self, limit_s: float) -> None:
        """Wait for the end of all its processes."""
        deadline = time.monotonic() + limit_s
        while self.processes():
            if time.monotonic() > deadline:
                pytest.fail(f"processes are left after {limit_s} s\n{self.report()}")
            time.sleep(0.02)

    def report(self) -> str:
        """Everything the run has said and where its processes stand; this ends them."""
        states = [_state(pid) for pid in self.processes()]
        # The ranks first: what they say comes through the launcher. Python's fault handler
        # writes what each thread is at; a rank that is stuck in C has its last Python line.
        pythons = {p: w for p in self.processes() if (w := _words(p))[:1] == _PYTHON}
        launchers = {pid for pid, words in pythons.items() if "nnlo.cli.launch" in words}
        for group in (pythons.keys() - launchers, launchers):
            for pid in group:
                _send(pid, signal.SIGABRT)
            time.sleep(1.5)
        logs = [f"-- {path}\n{path.read_text()}" for path in self.folder.rglob("log.txt")]
        return "\n".join(["-- processes", *states, "-- output", self.output, *logs])

    def close(self) -> None:
        """Kill what is left of the run and wait for its end."""
        deadline = time.monotonic() + 20
        with self._file:
            while self.process.poll() is None or self.processes():
                for pid in {*self.processes(), self.process.pid}:
                    _send(pid, signal.SIGKILL)
                assert time.monotonic() < deadline, f"{self.processes()} cannot be killed"
                time.sleep(0.02)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _words(pid: int) -> list[str]:
    """The command line of a process, its program without a folder."""
    with suppress(OSError):
        program, *words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return [Path(program).name, *words]
    return []


def _state(pid: int) -> str:
    """One line about a process: state, parent, what it waits for in the kernel, command."""
    with suppress(OSError):
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        waits_in = Path(f"/proc/{pid}/wchan").read_text()
        return f"{pid} {state} parent {parent} in {waits_in}: {' '.join(_words(pid))[:200]}"
    return f"{pid} has just ended"


def command(n_ranks: int, *arguments: object) -> list[str]:
    # One thread whatever the number of ranks: sums must not depend on it.
    start = [sys.executable, "-m", "nnlo.cli.launch", "-n", str(n_ranks), "--threads", "1"]
    return [*start, "-m", "nnlo.cli.train", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **changes}


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A folder with digits in 5 + 2 pieces and a model file."""
    folder = tmp_path_factory.mktemp("digits")
    write_dataset("digits", folder, train_files=5, test_files=2)
    (folder / "tiny.py").write_text(TINY)
    return folder


@pytest.fixture
def launch(tmp_path) -> Iterator[Callable[..., Run]]:
    """Start a command line in ``tmp_path``; the test's end is the end of its processes."""
    runs: list[Run] = []

    def start(words: list[object], **env: str) -> Run:
        runs.append(Run(words, tmp_path, **env))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


@pytest.fixture
def start(launch, digits, tmp_path):
    """Start TrainingDriver on ``n_ranks``; the run's folder is ``tmp_path/runs/...``."""

    def begin(n_ranks: int, *arguments: object, **env: str) -> Run:
        words = list(arguments)
        if "--model" not in words:
            words = ["--model", digits / "tiny.py", *words]
        if "--train-data" not in words:
            lists = [digits / "train_digits.list", digits / "test_digits.list"]
            words += ["--train-data", lists[0], "--val-data", lists[1]]
        if "--output" not in words:
            words += ["--output", tmp_path / "runs"]
        return launch(command(n_ranks, *words), **env)

    return begin


@pytest.fixture
def train(start):
    """Run TrainingDriver on ``n_ranks`` to its end."""

    def run(n_ranks: int, *arguments: object, limit_s: float = START_LIMIT_S, **env: str) -> Ended:
        return start(n_ranks, *arguments, **env).ended(limit_s)

    return run
