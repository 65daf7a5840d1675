"""Keras callbacks on the master: they see the run as if it were a Keras model being fitted.

Unmodified EarlyStopping, ReduceLROnPlateau, LearningRateScheduler, ModelCheckpoint, CSVLogger
and the like work, for native torch models too. ``on_epoch_end`` comes when the epoch's
validation is in, which may be a little after the next epoch has begun; weights that a callback
reads there are those that were validated. A callback with a ``monitor`` hears only of epochs
that have it: without that, Keras would warn at each epoch that is not validated.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnlo.history import Record
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi.master import Master
from nnlo.mpi.stopping import larger_is_better, metric_name

if TYPE_CHECKING:
    from nnlo.mpi.root import Root


class _Optimizer:
    """What callbacks know of an optimizer: its learning rate.

    The master's rate is ``learning_rate`` times ``scale``: a warm-up moves the scale, so that it
    goes together with whoever sets the rate.
    """

    def __init__(self, master: Master) -> None:
        self._master = master
        self._rate = master.half.learning_rate
        self._scale = 1.0

    @property
    def base_learning_rate(self) -> float:
        """The algorithm's own, also in a restored run."""
        return self._master.base_learning_rate

    @property
    def learning_rate(self) -> float:
        return self._rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self._rate = float(np.asarray(value))
        self._master.half.learning_rate = self._rate * self._scale

    def go_on(self, master: Master) -> None:
        """Set the rate of ``master`` from now on, which has that of the one before."""
        self._master = master

    @property
    def scale(self) -> float:
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale = value
        self._master.half.learning_rate = self._rate * self._scale


class TrainedModel:
    """The model as callbacks see it."""

    def __init__(self, root: "Root", master: Master, adapter: ModelAdapter) -> None:
        self.stop_training = False
        self.optimizer = _Optimizer(master)
        self._root = root
        self._master = master
        self._adapter = adapter

    @property
    def version(self) -> int:
        """Updates applied since the start of the run, also before a restore."""
        return self._master.version

    @property
    def progress(self) -> float:
        """Epochs trained since the start of the run, counted in samples."""
        return self._root.progress

    def get_weights(self) -> list[NDArray[np.float32]]:
        """Copies, one array a variable, in the order of the manifest."""
        return [part.copy() for part in self._adapter.manifest.split(self._weights())]

    def set_weights(self, weights: Sequence[NDArray[np.float32]]) -> None:
        """The master and, with their next answers, all workers go on from these."""
        flat = np.concatenate([np.asarray(w, np.float32).ravel() for w in weights])
        self._master.replace_weights(flat)

    def save(self, filepath: str, **_options: Any) -> None:
        self._write(lambda: self._adapter.save(Path(filepath)))

    def save_weights(self, filepath: str, **_options: Any) -> None:
        """The weights alone: by Keras where the model is Keras', else as ``save``."""
        model = getattr(self._adapter, "model", None)
        keras_writes = getattr(model, "save_weights", None)
        if keras_writes is not None:
            self._write(lambda: keras_writes(filepath))
        else:
            self._write(lambda: self._adapter.save(Path(filepath)))

    def go_on(self, root: "Root", master: Master) -> None:
        """Show these from now on; what callbacks have set stays."""
        self._root, self._master = root, master
        self.optimizer.go_on(master)

    def _write(self, write: Callable[[], Any]) -> None:
        """Let ``write`` save the model in turn with a validation that may be under way."""
        weights = self._weights().copy()

        def write_these() -> None:
            self._adapter.set_flat(weights)
            write()

        self._root.background.submit(write_these).result()

    def _weights(self) -> NDArray[np.float32]:
        snapshot = self._root.snapshot
        return self._master.weights if snapshot is None else snapshot


class KerasCallbacks:
    """Passes the events of a run on to ``callbacks``."""

    def __init__(self, callbacks: Sequence[Any], adapter: ModelAdapter, n_epochs: int) -> None:
        self._callbacks = list(callbacks)
        self._adapter = adapter
        self._n_epochs = n_epochs
        self._model: TrainedModel | None = None
        self._step = 0

    def begin(self, root: "Root", master: Master) -> None:
        self._root, self._master = root, master
        self._model = TrainedModel(root, master, self._adapter)
        if not any(map(_is_users, self._callbacks)):  # else they may add metrics to the logs
            self._settle_monitors(root.metric_names)
        for callback in self._callbacks:
            if getattr(callback, "mode", None) == "auto":
                # Keras would ask the metrics of a compiled model, which is not there.
                callback.mode = "max" if larger_is_better(callback.monitor) else "min"
            callback.set_params({"epochs": self._n_epochs, "verbose": 0, "steps": None})
            callback.set_model(self._model)
        self._call("on_train_begin", {})

    def goes_on(self, root: "Root", master: Master) -> None:
        assert self._model is not None
        self._root, self._master = root, master
        self._model.go_on(root, master)

    def epoch_began(self, epoch: int) -> None:
        self._step = 0
        self._call("on_epoch_begin", epoch, {})

    def updated(self, version: int, n_samples: int, logs: Record) -> None:
        # The update is over when we hear of it: begin and end come together.
        self._call("on_train_batch_begin", self._step, {})
        self._call("on_train_batch_end", self._step, dict(logs))
        self._step += 1

    def epoch_ended(self, epoch: int, record: Record) -> None:
        # Keras hands the epoch over by itself; some callbacks fail on a second one.
        logs = {name: value for name, value in record.items() if name != "epoch"}
        is_whole = set(self._root.metric_names) <= set(logs)
        for callback in self._callbacks:
            monitor = _monitor(callback)
            if is_whole and monitor is not None:
                callback.monitor = monitor = metric_name(monitor, list(logs))
            if monitor is None or monitor in logs:
                callback.on_epoch_end(epoch, logs)
        self._heed()

    def end(self) -> None:
        self._call("on_train_end", {})

    def _settle_monitors(self, known: Sequence[str]) -> None:
        """Raises ConfigError where a callback monitors none of the ``known`` metrics."""
        for callback in self._callbacks:
            monitor = _monitor(callback)
            if monitor is not None:
                callback.monitor = metric_name(monitor, known)

    def _call(self, name: str, *args: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, name)(*args)
        self._heed()

    def _heed(self) -> None:
        """Stop the run where a callback has asked for it."""
        if self._model is not None and self._model.stop_training:
            self._root.stop(self._master, "a callback")


def _is_users(callback: Any) -> bool:
    """Whether this is code of the user's own."""
    kind = type(callback)
    is_ready_made = kind.__module__.startswith(("keras.", "nnlo."))
    return not is_ready_made or kind.__name__ == "LambdaCallback"


def _monitor(callback: Any) -> str | None:
    """The metric without which ``callback`` cannot do its work at the end of an epoch."""
    needs_it = getattr(callback, "save_best_only", True)  # of a ModelCheckpoint
    return getattr(callback, "monitor", None) if needs_it else None
