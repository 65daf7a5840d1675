"""Files that are complete or absent."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then give it that name.

    The data is on the disk before the name changes; if anything fails no file is left and
    one that was there stays as it was. Raises what ``write`` and the system raise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
        temporary = Path(stream.name)
        try:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically, as UTF-8."""
    write_atomic(path, lambda stream: stream.write(text.encode()))


def _umask() -> int:
    """The process's umask, which temporary files ignore."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
