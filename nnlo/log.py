"""Log lines that say which rank wrote them."""

import logging
import sys
from pathlib import Path

from nnlo.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")


def set_up(role: str, level: str = "info", file: Path | None = None) -> logging.Logger:
    """Send the records of the package to the terminal and, if given, to ``file``.

    role: of this rank, for example "worker 2", put before each line. Called by the programs,
    never by the library. Raises ConfigError for an unknown level or a ``file`` that
    cannot be opened.
    """
    if level not in LEVELS:
        raise ConfigError(f"log level must be one of {', '.join(LEVELS)}, got {level!r}")
    logger = logging.getLogger("nnlo")
    logger.setLevel(level.upper())
    logger.propagate = False
    logger.handlers.clear()
    form = logging.Formatter(f"%(asctime)s [{role}] %(levelname)s %(message)s", "%H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
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
