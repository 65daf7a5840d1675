"""One progress bar on rank 0, or one line an epoch where there is no terminal."""

import logging
import os
import sys
from contextlib import ExitStack
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nnlo.cli.threads import TERMINAL
from nnlo.history import Record
from nnlo.mpi.master import Master
from nnlo.mpi.root import Root

log = logging.getLogger(__name__)


class Progress:
    """Listens to a run. n_samples: of an epoch. verbose: also a log line an update."""

    def __init__(self, n_epochs: int, verbose: bool = False) -> None:
        self._n_epochs = n_epochs
        self._verbose = verbose
        self._bar: Any = None
        self._shown = 0
        self._validation: Record = {}
        self._above = ExitStack()
        self._has_terminal = sys.stderr.isatty() or TERMINAL in os.environ

    def begin(self, root: Root, master: Master) -> None:
        self._n_samples = root.n_samples
        if self._has_terminal:
            # Log lines go above the bar instead of through it.
            loggers = [logging.getLogger("nnlo")]
            self._above.enter_context(logging_redirect_tqdm(loggers))

    def goes_on(self, root: Root, master: Master) -> None:
        """The next epoch closes the bar of the one that was not finished."""

    def epoch_began(self, epoch: int) -> None:
        self._close()
        self._shown = 0
        if self._has_terminal:
            self._bar = tqdm(
                total=self._n_samples,
                desc=f"epoch {epoch + 1}/{self._n_epochs}",
                unit=" samples",
                leave=False,
            )

    def updated(self, version: int, n_samples: int, logs: Record) -> None:
        if self._bar is not None:
            self._bar.update(n_samples - self._shown)
            shown = logs | self._validation
            self._bar.set_postfix({k: f"{v:.4f}" for k, v in shown.items()}, refresh=False)
        self._shown = n_samples
        if self._verbose:
            log.info("update %d, %d samples: %s", version, n_samples, _text(logs))

    def epoch_ended(self, epoch: int, record: Record) -> None:
        self._validation = {k: v for k, v in record.items() if k.startswith("val_")}
        line = "epoch %d/%d: %s, %.0f samples/s"
        metrics = {k: v for k, v in record.items() if k not in _NOT_METRICS}
        log.info(line, epoch + 1, self._n_epochs, _text(metrics), record["samples_per_s"])

    def end(self) -> None:
        self._close()
        self._above.close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


_NOT_METRICS = (
    "epoch",
    "samples",
    "time_s",
    "samples_per_s",
    "version",
    "learning_rate",
    "staleness",
)


def _text(metrics: Record) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
