"""A model for the fault injector: it notes what it trains on, and fails where it is told to.

Not a test. ``NNLO_TRACE`` names a folder for the numbers of the samples that each process has
trained on, which are the last feature. ``NNLO_FAULT`` is a JSON object: what to ``do`` (raise,
nan, slow), on which ``rank`` (None: all), from which ``batch`` of its own, how often (``count``).
"""

import json
import os
import time
from pathlib import Path

import h5py
from torch import nn

ORDER = json.loads(os.environ.get("NNLO_FAULT", "{}"))
RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
RESTARTS = int(os.environ.get("NNLO_RESTARTS", "0"))


class Victim(nn.Module):
    def __init__(self, pause, width, trace):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 10)
        )
        self.pause, self.trace = pause, trace
        self.n_batches = 0

    def forward(self, x):
        y = self.layers(x[:, :64])
        if not self.training:
            return y
        time.sleep(self.pause)
        if self.trace is not None:
            os.write(self.trace, x[:, 64].numpy().tobytes())
        self.n_batches += 1
        return self.obey(y)

    def obey(self, y):
        if not is_ordered("raise", "nan"):
            return y
        if not 0 <= self.n_batches - ORDER["batch"] < ORDER["count"]:
            return y
        if ORDER["do"] == "raise":
            raise ValueError("the injected fault")
        return y * float("nan")


def is_ordered(*what):
    is_me = ORDER.get("rank") in (None, RANK)
    return ORDER.get("do") in what and is_me and RESTARTS == 0


def delayed(function, seconds):
    def late(*args, **kwargs):
        time.sleep(seconds)
        return function(*args, **kwargs)

    return late


def get_model(pause=0.0, width=32):
    trace = None
    if folder := os.environ.get("NNLO_TRACE"):
        path = Path(folder) / f"{RESTARTS}-{RANK}-{os.getpid()}"
        trace = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return Victim(pause, width, trace)


def get_loss():
    return "categorical_crossentropy"


if is_ordered("slow"):
    os.fsync = delayed(os.fsync, ORDER["fsync_s"])
    h5py.Dataset.read_direct = delayed(h5py.Dataset.read_direct, ORDER["read_s"])
