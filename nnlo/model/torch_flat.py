"""Torch tensors as views of one flat vector, and a random state of their own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnlo.errors import ModelError
from nnlo.model.adapter import OnReady, Vector


class FlatTensors:
    """Moves float32 tensors into one buffer, so that reading and writing all is one copy.

    trainable, state: tensors on one device, in the order of the manifest; their ``data`` become
    views of the buffer.
    """

    def __init__(self, trainable: Sequence[Tensor], state: Sequence[Tensor]) -> None:
        tensors = [*trainable, *state]
        device = tensors[0].device if tensors else torch.device("cpu")
        self._trainable = list(trainable)
        self._n_trainable = sum(one.numel() for one in trainable)
        self._flat = torch.empty(sum(one.numel() for one in tensors), device=device)
        end = 0
        for one in tensors:
            view = self._flat[end : end + one.numel()].view(one.shape)
            end += one.numel()
            view.copy_(one.detach())
            one.data = view

    @property
    def device(self) -> torch.device:
        """Where the buffer is."""
        return self._flat.device

    @property
    def trainable(self) -> Tensor:
        """The part T of the buffer, shape (n_trainable,)."""
        return self._flat[: self._n_trainable]

    def read(self, out: Vector) -> None:
        """Copy the buffer into ``out``."""
        torch.from_numpy(out).copy_(self._flat)

    def write(self, vector: Vector) -> None:
        """Copy ``vector`` into the buffer."""
        self._flat.copy_(tensor_of(vector))

    def write_state(self, vector: Vector) -> None:
        """Copy the part S of ``vector``, shape (size,), into the buffer."""
        n = self._n_trainable
        self._flat[n:].copy_(tensor_of(vector[n:]))

    def cut(self, vector: Vector) -> list[Tensor]:
        """Return one tensor for each trainable one, in its shape: views of ``vector`` on a CPU."""
        flat = tensor_of(vector[: self._n_trainable]).to(self.device)
        parts = torch.split(flat, [one.numel() for one in self._trainable])
        return [part.view(one.shape) for part, one in zip(parts, self._trainable, strict=True)]

    def read_state(self, out: Vector) -> None:
        """Copy the part S of the buffer into that of ``out``, shape (size,)."""
        n = self._n_trainable
        torch.from_numpy(out[n:]).copy_(self._flat[n:])

    @contextmanager
    def gradients_to(self, out: Vector, on_ready: OnReady, *, adds: bool) -> Iterator[None]:
        """Have a backward pass in the block write each gradient to ``out``, or add it, at once.

        on_ready(start, stop): that part of ``out`` is complete; at the end of the block for
        tensors that the pass did not reach. Raise ModelError where it comes to a tensor twice.
        """
        # Not ``.grad`` as views of ``out``: torch would add to them, which takes zeros to begin
        # with and twice the memory traffic of this copy.
        target = torch.from_numpy(out[: self._n_trainable])
        ends = list(accumulate(one.numel() for one in self._trainable))
        left = dict(enumerate(pairwise([0, *ends])))

        def taker(index: int) -> Callable[[Tensor], None]:
            def take(tensor: Tensor) -> None:
                if index not in left:
                    raise ModelError(
                        f"a backward pass with overlap must come to each parameter once, got one "
                        f"of shape {tuple(tensor.shape)} twice; leave overlap out, or use "
                        "torch.utils.checkpoint with use_reentrant=False"
                    )
                start, stop = left.pop(index)
                part, gradient = target[start:stop].view(tensor.shape), tensor.grad
                tensor.grad = None
                assert gradient is not None  # torch calls this once it is there
                (part.add_ if adds else part.copy_)(gradient)
                on_ready(start, stop)

            return take

        hooks = [
            one.register_post_accumulate_grad_hook(taker(index))  # type: ignore[no-untyped-call]
            for index, one in enumerate(self._trainable)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        for start, stop in reversed(left.values()):
            if not adds:
                target[start:stop] = 0.0
            on_ready(start, stop)

    def take_gradients(self, out: Tensor) -> None:
        """Move ``.grad`` of the trainable tensors into ``out``, shape (n_trainable,)."""
        parts = [
            (torch.zeros_like(one) if one.grad is None else one.grad).reshape(-1)
            for one in self._trainable
        ]
        for one in self._trainable:
            one.grad = None  # the next backward hands its own tensors over without a sum
        if parts:
            torch.cat(parts, out=out)

    def read_gradients(self, out: Vector) -> None:
        """Write the gradients of T, then the state S, into ``out``; clears ``.grad``."""
        n = self._n_trainable
        target = torch.from_numpy(out)
        if self.device.type == "cpu":
            self.take_gradients(target[:n])
        else:
            buffer = torch.empty(n, device=self.device)
            self.take_gradients(buffer)
            target[:n].copy_(buffer)
        target[n:].copy_(self._flat[n:])


def tensor_of(array: NDArray[Any]) -> Tensor:
    """Return a tensor to read from, on the memory of ``array`` where torch takes it."""
    if not array.flags.writeable:  # torch.from_numpy warns although we only read
        array = array.copy()
    return torch.from_numpy(array)


class OwnRandomState:
    """Torch's global generators, switched to a state of one's own inside ``use``.

    Models in one process (virtual workers, a master that validates) then do not disturb each
    other's dropout, and a checkpoint can hold the state.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._states = self._present()

    def seed(self, seed: int) -> None:
        """Start from ``seed``; the global generators stay as they are."""
        with self.use():
            torch.manual_seed(seed)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Draw from the own state inside the block."""
        outside = self._present()
        self._switch_to(self._states)
        try:
            yield
        finally:
            self._states = self._present()
            self._switch_to(outside)

    def state(self) -> dict[str, NDArray[np.uint8]]:
        """Return copies of the generators' states."""
        return {f"random/{name}": one.numpy().copy() for name, one in self._states.items()}

    def load_state(self, state: dict[str, NDArray[np.uint8]]) -> None:
        """Put back what ``state`` returned; a generator that is not in it keeps its state."""
        for name in self._states:
            saved = state.get(f"random/{name}")
            if saved is not None:
                self._states[name] = torch.from_numpy(np.array(saved, np.uint8))

    def _present(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        return states

    def _switch_to(self, states: dict[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self._device)
