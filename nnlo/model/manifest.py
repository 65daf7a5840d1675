"""The layout of a model's flat float32 vector ``[T | S]``; pure arithmetic, no backend."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ModelError


class Entry(NamedTuple):
    """One variable inside the vector."""

    network: str  # which network of the model; "model" where there is only one
    name: str  # for people; need not be unique
    shape: tuple[int, ...]
    kind: str  # "T" trainable, "S" float state
    offset: int  # of its first element, in float32 elements

    @property
    def size(self) -> int:
        """Number of float32 elements."""
        return prod(self.shape)

    def __str__(self) -> str:
        return f"{self.network}/{self.name} {self.shape} {self.kind}"


Variable = tuple[str, Sequence[int]]
"""``(name, shape)``."""


class Manifest:
    """Ordered entries that fill a vector without gaps, all of kind T before all of kind S."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Raise ModelError where the entries overlap, leave a gap or mix the kinds."""
        self.entries = tuple(entries)
        end, last = 0, "T"
        for entry in self.entries:
            if entry.kind not in ("T", "S") or entry.kind > last:
                raise ModelError(
                    f"entries must be of kind T, then S, got {entry}; "
                    "list the trainable variables first"
                )
            if entry.offset != end:
                raise ModelError(
                    f"entries must follow each other without gaps, got {entry} at "
                    f"{entry.offset}; place it at {end}"
                )
            end, last = end + entry.size, entry.kind
        self.size = end
        self.n_trainable = sum(entry.size for entry in self.entries if entry.kind == "T")
        self.n_state = self.size - self.n_trainable

    @classmethod
    def pack(
        cls, trainable: Iterable[Variable], state: Iterable[Variable], network: str = "model"
    ) -> "Manifest":
        """Lay out the variables of one network one after the other."""
        return cls.pack_networks({network: (trainable, state)})

    @classmethod
    def pack_networks(
        cls, networks: Mapping[str, tuple[Iterable[Variable], Iterable[Variable]]]
    ) -> "Manifest":
        """Lay out (trainable, state) of each network: T of all of them, then S of all."""
        entries: list[Entry] = []
        end = 0
        for index, kind in enumerate("TS"):
            for network, variables in networks.items():
                for name, shape in variables[index]:
                    entry = Entry(network, name, tuple(int(n) for n in shape), kind, end)
                    entries.append(entry)
                    end += entry.size
        return cls(entries)

    @cached_property
    def hash(self) -> str:
        """Hexadecimal SHA-256 over all entries: equal on two ranks if the layouts are."""
        text = json.dumps([list(entry) for entry in self.entries])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def hash32(self) -> int:
        """The first 32 bits of ``hash``, which fit a message header."""
        return int(self.hash[:8], 16)

    def split(self, vector: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return one view of ``vector``, shape ``(size,)``, per entry, in its own shape.

        Nothing is copied: writing to a view writes to ``vector``.
        """
        self.check(vector)
        return [
            vector[entry.offset : entry.offset + entry.size].reshape(entry.shape)
            for entry in self.entries
        ]

    def check(self, vector: NDArray[np.float32]) -> None:
        """Raise ModelError unless ``vector`` is contiguous float32 of shape ``(size,)``."""
        if vector.shape != (self.size,) or vector.dtype != np.float32:
            raise ModelError(
                f"the vector must be float32 of shape ({self.size},), got {vector.dtype} of "
                f"shape {vector.shape}; make it by np.empty(manifest.size, np.float32)"
            )
        if not vector.flags.c_contiguous:
            raise ModelError(
                "the vector must be contiguous, got a strided view; "
                "copy it by np.ascontiguousarray"
            )

    def describe_difference(self, other: "Manifest") -> str:
        """Return the first difference from ``other`` in words, "" where there is none."""
        for index, (mine, theirs) in enumerate(zip(self.entries, other.entries, strict=False)):
            if mine != theirs:
                return f"variable {index} is {mine} here and {theirs} there"
        n_mine, n_theirs = len(self.entries), len(other.entries)
        if n_mine == n_theirs:
            return ""
        longer, where = (self, "here") if n_mine > n_theirs else (other, "there")
        extra = longer.entries[min(n_mine, n_theirs)]
        return f"{n_mine} variables here and {n_theirs} there; {extra} is only {where}"
