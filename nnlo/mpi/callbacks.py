"""Keras callbacks on the master: they see the run as if it were a Keras model being fitted.

Unmodified EarlyStopping, ReduceLROnPlateau, LearningRateScheduler, ModelCheckpoint, CSVLogger
and the like work, for native torch models too. ``on_epoch_end`` comes when the epoch's
validation is in, which may be a little after the next epoch has begun; weights that a callback
reads there are those that were validated.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnlo.history import Record
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi.master import Master
from nnlo.mpi.stopping import larger_is_better

if TYPE_CHECKING:
    from nnlo.mpi.root import Root


class _Optimizer:
    """What callbacks know of an optimizer: its learning rate."""

    def __init__(self, master: Master) -> None:
        self._master = master

    @property
    def learning_rate(self) -> float:
        return self._master.half.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self._master.half.learning_rate = float(np.asarray(value))


class TrainedModel:
    """The model as callbacks see it."""

    def __init__(self, root: "Root", master: Master, adapter: ModelAdapter) -> None:
        self.stop_training = False
        self.optimizer = _Optimizer(master)
        self._root = root
        self._master = master
        self._adapter = adapter

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

    def _write(self, write: Callable[[], None]) -> None:
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
        for callback in self._callbacks:
            if getattr(callback, "mode", None) == "auto":
                # Keras would ask the metrics of a compiled model, which is not there.
                callback.mode = "max" if larger_is_better(callback.monitor) else "min"
            callback.set_params({"epochs": self._n_epochs, "verbose": 0, "steps": None})
            callback.set_model(self._model)
        self._call("on_train_begin", {})

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
        self._call("on_epoch_end", epoch, logs)

    def end(self) -> None:
        self._call("on_train_end", {})

    def _call(self, name: str, *args: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, name)(*args)
        if self._model is not None and self._model.stop_training:
            self._root.stop(self._master, "a callback")
