"""The metrics of every epoch as TensorBoard event files."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnlo.history import Record

log = logging.getLogger(__name__)


class TensorBoard:
    """Listens to a run and writes scalars to ``folder``, for ``tensorboard --logdir``.

    ``train/<metric>`` and ``validation/<metric>`` by epoch, ``run/samples_per_s`` and the like.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None  # None again once the disk does not take the events

    def begin(self, root: Any, master: Any) -> None:
        from tensorboardX import SummaryWriter

        with self._tolerant():
            self._writer = SummaryWriter(str(self._folder))

    def goes_on(self, root: Any, master: Any) -> None:
        """Into the same files."""

    def epoch_began(self, epoch: int) -> None:
        """Nothing to write yet."""

    def updated(self, version: int, n_samples: int, logs: Record) -> None:
        """Epochs are enough."""

    def epoch_ended(self, epoch: int, record: Record) -> None:
        if self._writer is not None:
            with self._tolerant():
                self._add(epoch, record)

    def _add(self, epoch: int, record: Record) -> None:
        for name, value in record.items():
            if name in ("epoch", "samples", "version"):
                continue
            if name in ("time_s", "samples_per_s", "learning_rate", "staleness"):
                label = f"run/{name}"
            elif name.startswith("val_"):
                label = f"validation/{name.removeprefix('val_')}"
            else:
                label = f"train/{name}"
            self._writer.add_scalar(label, value, epoch + 1)
        self._writer.flush()

    def end(self) -> None:
        if self._writer is not None:
            with self._tolerant():
                self._writer.close()

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        """A disk that is full ends the event files, not the run."""
        try:
            yield
        except OSError as error:
            self._writer = None  # to close it would wait for a thread that has died
            log.error("no more events to %s: %s; the run goes on", self._folder, error)  # noqa: TRY400
