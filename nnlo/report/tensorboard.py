"""The metrics of every epoch as TensorBoard event files."""

from pathlib import Path
from typing import Any

from nnlo.history import Record


class TensorBoard:
    """Listens to a run and writes scalars to ``folder``, for ``tensorboard --logdir``.

    ``train/<metric>`` and ``validation/<metric>`` by epoch, ``run/samples_per_s`` and the like.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def begin(self, root: Any, master: Any) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(self._folder))

    def epoch_began(self, epoch: int) -> None:
        """Nothing to write yet."""

    def updated(self, version: int, n_samples: int, logs: Record) -> None:
        """Epochs are enough."""

    def epoch_ended(self, epoch: int, record: Record) -> None:
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
        self._writer.close()
