"""Log lines that say which rank wrote them."""

import logging
import sys
from pathlib import Path

from nnlo.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")


def set_up(role: str, level: str = "info", file: Path | None = None) -> logging.Logger:
    """Send the records of the package to the terminal and, if given, to ``file``.

    role: of this rank, for example "worker 2", put before each line. Called by the programs,
    never by the library. Raises ConfigError for an unknown level.
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
        handlers.append(logging.FileHandler(file, mode="a", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(form)
        logger.addHandler(handler)
    return logger
