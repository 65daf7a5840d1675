"""Log lines that say which rank wrote them."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnlo.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")


def set_up(
    role: str, level: str = "info", file: Path | None = None, shown: str | None = None
) -> logging.Logger:
    """Send the records of the package to the terminal and, if given, to ``file``.

    role: of this rank, for example "worker 2", put before each line. shown: lowest level on the
    terminal, None for ``level``. Called by the programs, never by the library. Raises
    ConfigError for an unknown level or a ``file`` that cannot be opened.
    """
    if level not in LEVELS:
        raise ConfigError(f"log level must be one of {', '.join(LEVELS)}, got {level!r}")
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel((shown or level).upper())
    logger = logging.getLogger("nnlo")
    logger.setLevel(level.upper())
    logger.propagate = False
    logger.handlers.clear()
    form = _form(role)
    handlers: list[logging.Handler] = [terminal]
    if file is not None:
        try:
            handlers.append(_LogFile(file, mode="a", encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"the log must be written to {file}, got {error}; name another --output"
            ) from error
    for handler in handlers:
        handler.setFormatter(form)
        logger.addHandler(handler)
    return logger


@contextmanager
def kept_in(file: Path, role: str) -> Iterator[None]:
    """Send the records of the package to ``file`` as well, as far as its disk takes them."""
    logger = logging.getLogger("nnlo")
    try:
        handler = _LogFile(file, mode="a", encoding="utf-8")
    except OSError as error:
        logger.warning("%s: %s; it is not written", file, error)
        yield
        return
    handler.setFormatter(_form(role))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def _form(role: str) -> logging.Formatter:
    return logging.Formatter(f"%(asctime)s [{role}] %(levelname)s %(message)s", "%H:%M:%S")


class _LogFile(logging.FileHandler):
    """A log file that says once on the terminal when its disk is full."""

    _is_told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_told:
            self._is_told = True
            sys.stderr.write(f"{self.baseFilename}: {error}; it lacks lines\n")
