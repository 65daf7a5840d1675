"""Files that are complete or absent, and folders that one process has to itself."""

import errno
import fcntl
import logging
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO
from weakref import finalize

from nnlo.errors import ConfigError

log = logging.getLogger(__name__)

TEMPORARY = ".part"
"""How the names of temporary files and folders end; ``.<name>.`` and 8 letters are before it."""

_TEMPORARY_NAME = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}" + re.escape(TEMPORARY))
# What a filesystem answers that has no use for flushing a folder.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES)
# What a filesystem answers that has no locks: NFS without its daemon, Lustre without flock.
_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then give it that name.

    The data is on the disk before the name changes, and the name when this returns. If
    anything fails no file is left and one that was there stays as it was. A writer that is
    killed leaves its temporary file, see ``remove_leftovers``. Raises what ``write`` and the
    system raise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY, delete=False
    ) as stream:
        temporary = Path(stream.name)
        try:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            cause = error.__context__
            if isinstance(error, RuntimeError) and isinstance(cause, OSError):
                raise cause from error  # torch has words of its own for a full disk
            raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically, as UTF-8."""
    write_atomic(path, lambda stream: stream.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk, where its filesystem knows such a thing."""
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def remove_leftovers(folder: Path, name: str = "", before: float = math.inf) -> None:
    """Remove temporary files and folders that killed writers have left in ``folder``.

    name: only those of files whose names begin so. before: only those last written before
    this time, in seconds of the filesystem's clock; without it the caller must know that
    nobody is writing. What cannot be removed stays.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            match = _TEMPORARY_NAME.fullmatch(path.name)
            if match is None or not match["name"].startswith(name):
                continue
            with suppress(OSError):
                if path.lstat().st_mtime >= before:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


class FolderLock:
    """A folder for one process at a time, on whatever host, until it ends or is killed.

    file: is locked (flock) and tells who holds it; it stays behind. Where the filesystem has no
    locks, ``take`` warns and all else goes on as if it were held by nobody.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._close: Callable[[], object] | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._close is not None

    def take(self, patience: float = 0.0) -> None:
        """Take the lock, waiting up to ``patience`` seconds for another process to end.

        Raises ConfigError that names the process which holds it, OSError where the file
        cannot be made.
        """
        if self.is_held:
            return
        number = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            is_locked = self._locked(number, time.monotonic() + patience)
            if is_locked:
                about = f"{socket.gethostname()} {os.getpid()} {datetime.now():%Y-%m-%d %H:%M:%S}"
                os.ftruncate(number, 0)
                os.write(number, f"{about}\n".encode())
        except BaseException:
            os.close(number)
            raise
        if is_locked:
            self._close = finalize(self, os.close, number)
        else:
            os.close(number)

    def release(self) -> None:
        """Let others have the folder."""
        if self._close is not None:
            self._close()
            self._close = None

    def _locked(self, number: int, deadline: float) -> bool:
        """Whether the file is locked now; False where the filesystem has no locks."""
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                raise self._taken(os.read(number, 200)) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                log.warning(
                    "%s: the filesystem has no locks (%s), nothing keeps a second run out",
                    self.file.parent,
                    error.strerror,
                )
                return False
            return True

    def _taken(self, content: bytes) -> ConfigError:
        host, pid, since = [*content.decode(errors="replace").split(" ", 2), "", "", ""][:3]
        who = f"process {pid} on {host} since {since.strip()}" if pid.isdigit() else "another run"
        return ConfigError(
            f"a run must have its folder to itself, got {self.file.parent}, which {who} is "
            "using; give another --trial-name or --output, or wait for that run"
        )


def _umask() -> int:
    """The process's umask, which temporary files ignore."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
