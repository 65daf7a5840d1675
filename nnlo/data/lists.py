"""List files: the names of a data set's files, one a line."""

from pathlib import Path

from nnlo.errors import DataError


def read_list(path: str | Path) -> list[str]:
    """Return the files named in the text file ``path``, absolute, in its order.

    Blank lines and lines that start with ``#`` are ignored. A relative name is looked for in
    the current directory, then beside the list. A name with ``://`` in it is left as it is,
    for the copy command of a cache. Raises DataError where the list or a file is missing.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"list of files must be a text file with one name a line, got {path}; "
            "put the names of the data files into a text file and give that"
        ) from error
    except OSError as error:
        raise DataError(
            f"list of files must be readable, got {path} ({error.strerror}); check the path"
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
        return name
    for file in (Path(name), path.parent / name):
        if file.is_file():
            return str(file.resolve())
    raise DataError(
        f"file named in a list must exist, got {name} in {path} line {number}; "
        f"correct the line (looked in {Path.cwd()} and {path.parent.absolute()})"
    )
