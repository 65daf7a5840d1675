"""A model for searches that breaks at some widths; not a test.

``NNLO_BREAKS`` is a JSON object, width -> what happens: "raise", "hang" or "memory" in the
workers of blocks of two ranks, "raise first" and "hang first" in the leader, "nan", "build".
"""

import json
import os
import time

from torch import nn

BREAKS = json.loads(os.environ.get("NNLO_BREAKS", "{}"))
RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
IS_FIRST = RANK % 2 == 1


class Breakable(nn.Module):
    def __init__(self, width, pause):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10))
        self.what = BREAKS.get(str(width), "")
        self.pause = pause

    def forward(self, x):
        if self.training:
            time.sleep(self.pause)
        if self.what.endswith("first") == IS_FIRST:
            self.breaks(self.what.split(" ")[0])
        y = self.layers(x)
        return y * float("nan") if self.what == "nan" else y

    def breaks(self, what):
        if what == "raise":
            raise ValueError("it breaks")
        while what == "hang":
            time.sleep(1)
        if what == "memory":
            self.held = b"1" * 1_500_000_000


def get_model(width=32, pause=0.0):
    if BREAKS.get(str(width)) == "build" and not IS_FIRST:
        raise ValueError("it cannot be built")
    return Breakable(width, pause)


def get_loss():
    return "categorical_crossentropy"
