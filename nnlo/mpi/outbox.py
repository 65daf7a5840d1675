"""The weights that a master sends: one buffer for all children, copied only while it is read."""

from collections import deque
from typing import Protocol

import numpy as np

from nnlo.mpi.frame import Frame, Header, Kind


class Link(Protocol):
    """How a master's answers reach its children."""

    def reply(self, child: int, frame: Frame) -> None: ...

    def release(self, child: int) -> None: ...

    def reap(self) -> None:
        """Bring ``in_flight`` of the frames up to date."""


class Outbox:
    """Frames of ``size`` float32; ``current`` holds the weights that answers carry.

    A frame with sends in flight is never written: the weights move to another one. keeps_bases:
    whether ``base`` must know what each child was sent, at a vector a child.
    """

    def __init__(self, size: int, link: Link, keeps_bases: bool = False) -> None:
        self._size = size
        self._link = link
        # Two a child: a sub-master may pass on what is based on its last but one answer.
        self._bases: dict[int, deque[tuple[int, Frame]]] | None = {} if keeps_bases else None
        self._frames = [Frame(size)]
        self.current = self._frames[0]
        self._bare: list[Frame] = []

    @property
    def weights(self) -> np.ndarray:
        """The current vector, shape (size,)."""
        return self.current.vector

    def writable(self) -> Frame:
        """A frame that no send reads: the current one if that is free."""
        self._link.reap()
        return self._free(self.current, self._frames, self._size)

    def send(self, child: int, header: Header, attached: bytes = b"") -> None:
        """Answer ``child`` with ``header`` and, where its kind is WEIGHTS, the weights.

        attached: for this child only; goes with a header of flag GIFT.
        """
        if header.kind is not Kind.WEIGHTS:
            self._link.reap()
            frame = self._free(None, self._bare, 0)
            frame.header = header
            frame.attached = attached
            self._link.reply(child, frame)
            return
        if self.current.in_flight and (header, attached) != self._said():
            copy = self.writable()
            if copy is not self.current:
                copy.vector[:] = self.current.vector
                self.current = copy
        if not self.current.in_flight:
            self.current.header = header
            self.current.attached = attached
        self._keep(child, header.version)
        self._link.reply(child, self.current)

    def _said(self) -> tuple[Header, bytes]:
        return self.current.header, self.current.attached

    def base(self, child: int, version: int) -> np.ndarray | None:
        """The weights ``version`` that ``child`` was sent, or the nearest that are kept."""
        kept = self._bases.get(child) if self._bases is not None else None
        if not kept:
            return None
        return min(kept, key=lambda entry: abs(entry[0] - version))[1].vector

    def _keep(self, child: int, version: int) -> None:
        if self._bases is None:
            return
        kept = self._bases.setdefault(child, deque())
        self.current.in_flight += 1  # held like a send, so that it is not overwritten
        kept.append((version, self.current))
        if len(kept) > 2:
            kept.popleft()[1].in_flight -= 1

    @staticmethod
    def _free(preferred: Frame | None, frames: list[Frame], size: int) -> Frame:
        for frame in [preferred, *frames] if preferred is not None else frames:
            if not frame.in_flight:
                return frame
        frames.append(Frame(size))
        return frames[-1]
