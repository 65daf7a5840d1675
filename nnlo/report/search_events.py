"""The trials of a search for the table "HParams" of TensorBoard."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from nnlo.files import TEMPORARY, remove_leftovers
from nnlo.optimize.trials import Trial


def write_hparams(trials: Sequence[Trial], folder: Path) -> list[Path]:
    """Write parameters, merits and metrics of all finished trials that have no folder yet.

    One folder a trial, ``trial-0007``; those written now. Merits are ``merit`` or ``merit_1``
    ..., their curve by epochs ``merit_by_epoch``. Raises OSError where the disk does not take
    them; what is half written then is removed and written again next time.
    """
    written = []
    remove_leftovers(folder, "trial-")
    for trial in trials:
        target = folder / f"trial-{trial.number:04d}"
        if trial.state == "finished" and not target.exists():
            half = folder / f".trial-{trial.number:04d}.{secrets.token_hex(4)}{TEMPORARY}"
            _write(trial, half)
            half.rename(target)
            written.append(target)
    return written


def _write(trial: Trial, folder: Path) -> None:
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    results = dict(enumerate(trial.merits, 1)) if trial.merits else {0: trial.merit}
    numbers = {f"merit_{i}" if i else "merit": value for i, value in results.items()}
    numbers |= {
        f"metric/{name}": value
        for name, value in trial.metrics.items()
        if isinstance(value, int | float)
    }
    # TensorBoard has no None
    params = {name: "None" if one is None else one for name, one in trial.params.items()}
    with SummaryWriter(str(folder)) as writer:
        for summary in hparams(params, numbers):
            writer.file_writer.add_summary(summary)
        for name, value in numbers.items():
            writer.add_scalar(name, value, trial.epochs)
        for epoch, merit in trial.curve.items():
            writer.add_scalar("merit_by_epoch", merit, epoch)
