"""List files: the names of a data set's files, one a line."""

import re
from contextlib import suppress
from pathlib import Path

from nnlo.errors import DataError

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read_list(path: str | Path) -> list[str]:
    """Return the files named in the text file ``path``, absolute, in its order.

    Blank lines and lines that start with ``#`` are ignored. A relative name is looked for in
    the current directory, then beside the list, and must not lead out of them by ``..``, so
    that a list which came with a data set names its own files (an absolute name says what it
    means). A name with ``://`` in it is left as it is, for the copy command of a cache. Raises
    DataError where the list or a file is missing.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"list of files must be a text file with one name a line, got {path}; "
            "put the names of the data files into a text file and give that"
        ) from error
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"list of files must be readable, got {path} ({reason}); check the path"
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    files = [
        _located(line, path, number)
        for number, line in enumerate(lines, start=1)
        if line and not line.startswith("#")
    ]
    if not files:
        raise DataError(
            f"list of files must name at least one file, got none in {path}; add one name a line"
        )
    return files


def _located(name: str, path: Path, number: int) -> str:
    if "://" in name:
        if not _REMOTE.match(name):
            raise DataError(
                f"a remote name must begin with its protocol, as in root://, got {name!r} in "
                f"{path} line {number}; a copy command could take it for an option"
            )
        return name
    if not Path(name).is_absolute() and ".." in Path(name).parts:
        raise DataError(
            f"a relative name must not lead out of its folder by .., got {name} in {path} line "
            f"{number}; give the absolute name"
        )
    for file in (Path(name), path.parent / name):
        with suppress(OSError, ValueError):  # a name too long, or with a NUL
            if file.is_file():
                return str(file.resolve())
    raise DataError(
        f"file named in a list must exist, got {name} in {path} line {number}; "
        f"correct the line (looked in {Path.cwd()} and {path.parent.absolute()})"
    )
