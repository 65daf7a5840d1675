"""Local copies of remote or slow files, made by a command of the user's choice."""

import hashlib
import os
import re
import shlex
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path

from nnlo.errors import ConfigError, DataError


class FileCache:
    """Copies files into ``folder`` when they are first asked for.

    command: source and destination stand where its two ``{}`` are, as in ``cp {} {}``,
    ``xrdcp {} {}`` or ``s3cmd get {} {}``; it runs without a shell. Ranks of one node may
    share the folder.
    """

    def __init__(self, folder: str | Path, command: str = "cp {} {}") -> None:
        if command.count("{}") != 2:
            raise ConfigError(
                "copy command must hold {} twice, for source and destination, "
                f"got {command!r}; try 'cp {{}} {{}}'"
            )
        self.folder = Path(folder)
        self.command = command
        self._copied: set[Path] = set()

    def fetch(self, file: str) -> str:
        """Return the path of the local copy of ``file``; raises DataError if there is none."""
        copy = self.folder / _copy_name(file)
        if not copy.exists():
            self._copy(file, copy)
            self._copied.add(copy)
        return str(copy)

    def close(self) -> None:
        """Remove the copies that this object made."""
        while self._copied:
            self._copied.pop().unlink(missing_ok=True)

    def _copy(self, file: str, copy: Path) -> None:
        # Two ranks may copy the same file at once: each into its own name, the last one stays.
        part = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            arguments = _filled(self.command, file, str(part))
            done = subprocess.run(
                arguments, capture_output=True, text=True, errors="replace", check=False
            )
            done.check_returncode()
            part.replace(copy)
        except subprocess.CalledProcessError as error:
            raise DataError(
                f"copy command must succeed, got exit code {error.returncode} from "
                f"{shlex.join(error.cmd)}: {error.stderr.strip()}; "
                "check the file, the command and the room in the cache folder"
            ) from error
        except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
            raise DataError(
                f"copy command must run and leave a file in the cache folder, got {error} from "
                f"{self.command!r} for {file}; check the command and the folder {self.folder}"
            ) from error
        finally:
            with suppress(OSError):
                part.unlink()


def _copy_name(file: str) -> str:
    """Name of a copy: equal names in two folders differ, and so do two states of one file."""
    key = file if "://" in file else str(Path(file).absolute())
    try:
        status = os.stat(file)
        key += f":{status.st_mtime_ns}:{status.st_size}"
    except (OSError, ValueError):
        pass  # not a local file: the command knows what the name means
    end = re.sub(rb"[^ -~]", b"_", os.fsencode(Path(file).name)[-100:]).decode()
    return f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:24]}-{end}"


def _filled(command: str, source: str, target: str) -> list[str]:
    """Words of ``command`` with the names put in after splitting, so that any name is safe."""
    names = iter((source, target))
    words = []
    for word in shlex.split(command):
        first, *rest = word.split("{}")
        words.append(first + "".join(next(names) + part for part in rest))
    return words
