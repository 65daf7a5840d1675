"""Run a command as a reader of the guides would, with this Python and this checkout."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRIVERS = {path.stem: str(path) for path in (ROOT / "drivers").glob("*.py")}


def run_here(folder: Path, program: str, *arguments: str, limit_s: float = 120) -> str:
    """Return what ``program`` writes in ``folder``; fails unless it ends with 0."""
    words = [DRIVERS.get(word, word) for word in (program, *arguments)]
    if program == "nnlorun":
        words[:1] = ["-m", "nnlo.cli.launch"]
    elif program == "python":
        words = words[1:]
    settings = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT), "NNLO_DATA": "data"}
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert ended.returncode == 0, f"{words}\n{ended.stdout}"
    return ended.stdout
