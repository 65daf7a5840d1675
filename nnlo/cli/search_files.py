"""Folders of trials: copied, cleared and put in place."""

import logging
import os
import re
import secrets
import shutil
from pathlib import Path

from nnlo.files import TEMPORARY, sync_folder, write_atomic

log = logging.getLogger(__name__)

# The model's own files and those of its networks, see RunDirectory.write_results.
_MODEL = re.compile(r"(model|best)[.-].+|weights\.npz")
_FOLD = re.compile(r"fold-\d+")


def copy(folder: Path, target: Path) -> None:
    """Copy what is of use after the search, each file flushed to the disk."""
    target.mkdir(parents=True, exist_ok=True)
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        log.warning("%s is not there: the best trial has left no model", folder)
        return
    for path in entries:
        if path.name in ("checkpoints", "log.txt") or path.name.startswith("."):
            continue
        if path.is_dir():
            copy(path, target / path.name)
        else:
            _copy_file(path, target / path.name)


def _copy_file(file: Path, target: Path) -> None:
    try:
        os.link(file, target)  # files are replaced, never changed
    except OSError:
        with file.open("rb") as source:
            write_atomic(target, lambda stream: shutil.copyfileobj(source, stream))


def clear(folder: Path, *, with_models: bool) -> None:
    """Remove checkpoints, and models if asked to, of a trial and its folds."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name == "checkpoints":
                shutil.rmtree(entry.path)
            elif _FOLD.fullmatch(entry.name):
                clear(Path(entry.path), with_models=with_models)
        elif with_models and _MODEL.fullmatch(entry.name):
            os.unlink(entry.path)


def model_in(folder: Path) -> Path:
    """The file of the best model; the folder, where that is of several folds."""
    for pattern in ("best.*", "model.*"):
        for file in sorted(folder.glob(pattern)):
            if file.suffix != ".npz":
                return file
    return folder


def aside(target: Path) -> Path:
    """A new name beside ``target`` for what is about to be it; ``remove_leftovers`` knows it."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY}")


def put(folder: Path, target: Path) -> None:
    """Give ``folder``, beside ``target``, its name, in place of what is there.

    Killed meanwhile there is the old, the new or none. Raises OSError; the old is there then.
    """
    old = aside(target)
    has_old = target.exists()
    if has_old:
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if has_old:
            old.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
