"""Many weight vectors of one torch module at once: vmap over the rows of their matrix.

The module runs with slices of the matrices in place of its parameters and buffers
(``functional_call``), so that BatchNorm moves a state for each row. The backward pass is the
plain one over the stacked operations: ``torch.func.grad`` inside of ``vmap`` costs more calls.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils.flop_counter import FlopCounterMode

from nnlo.model.manifest import Entry
from nnlo.model.row_arrays import Matrix, join, pieces
from nnlo.model.rows import BUSY, BUSY_ALONE
from nnlo.model.torch_adapter import TorchAdapter
from nnlo.model.torch_flat import tensor_of

FAILURES = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, UserWarning)
"""What torch raises where vmap cannot go: random numbers, decisions that depend on data..."""

Side = list[Tensor]


class TorchRows:
    """See ``Batched``: the rows of a module that draws no random numbers in training."""

    least = 2  # a single row is faster by the adapter

    def __init__(self, adapter: TorchAdapter) -> None:
        self._adapter = adapter
        entries = adapter.manifest.entries
        self._trainable = [one for one in entries if one.kind == "T"]
        self._state = [one for one in entries if one.kind == "S"]
        buffers = {name for name, _ in adapter.model.named_buffers()}
        self._moving = [one for one in self._state if one.name in buffers]
        counters = [one.name for one in adapter.counters]
        self._names = [f"module.{name}" for name in (*(one.name for one in entries), *counters)]
        moving = [f"module.{name}" for name in (*(one.name for one in self._moving), *counters)]
        self._whole = _Whole(adapter, moving)

    def hindrance(self, weights: Matrix, state: Matrix, x: Any, y: Any, *, shared: bool) -> str:
        """See ``Batched``."""
        sides = self._sides(x, y)
        if sides[0][0].device.type == "cpu" and self._work(*_taken(sides, 0, shared)) > BUSY:
            return BUSY_ALONE
        two = slice(0, 2)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "There is a performance drop")
                self._run(weights[two], state[two], *_taken(sides, two, shared), shared=shared)
        except FAILURES as error:
            return f"torch.vmap refuses an operation of its module: {str(error).splitlines()[0]}"
        return ""

    def gradients(
        self,
        weights: Matrix,
        state: Matrix,
        x: Any,
        y: Any,
        out: Matrix,
        seeds: Sequence[int] | NDArray[np.uint64],
        *,
        shared: bool,
    ) -> NDArray[np.float64]:
        """See ``Rows``."""
        sides = self._sides(x, y)
        n_samples = sides[0][0].shape[0 if shared else 1]
        sums = np.empty((len(weights), 1 + len(self._adapter.metric_names)))
        sums[:, 0] = n_samples
        moved: Side = []
        for part in pieces(len(weights), n_samples):
            own = _taken(sides, part, shared)
            leaves, (measured, moved) = self._run(weights[part], state[part], *own, shared=shared)
            total = measured[:, 0].mean(dim=1).sum()
            _write(torch.autograd.grad(total, leaves, allow_unused=True), leaves, out[part])
            self._keep(moved, state[part])
            sums[part, 1:] = measured.detach().cpu().numpy().sum(axis=2, dtype=np.float64)
        for counter, value in zip(self._adapter.counters, moved[len(self._moving) :], strict=True):
            counter.tensor.copy_(value[0])
        return sums

    def outputs(self, weights: Matrix, state: Matrix, x: Any) -> Any:
        """See ``Rows``."""
        side = self._sides(x, None)[0]
        results = []
        for part in pieces(len(weights), len(side[0])):
            _, found = self._run(weights[part], state[part], side, None, shared=True)
            results.append([one.cpu().numpy() for one in found])
        arrays: list[NDArray[Any]] = join(np.concatenate, results)
        return arrays if len(arrays) > 1 else arrays[0]

    def _sides(self, x: Any, y: Any) -> tuple[Side, Side | None]:
        if y is None:
            return self._adapter.tensors((x, []))[0], None
        return self._adapter.tensors((x, y))

    def _work(self, x: Side, y: Side | None) -> float:
        """Operations of a forward pass of one row, per sample and weight tensor."""
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            if y is None:
                self._adapter.run(x, training=False)
            else:
                self._adapter.measure(x, y, training=False)  # what does not fit is told here
        return float(counter.get_total_flops() / (len(x[0]) * len(self._trainable)))

    def _run(
        self, weights: Matrix, state: Matrix, x: Side, y: Side | None, *, shared: bool
    ) -> tuple[Side, Any]:
        """Return the tensors of T, shape (P, *shape), and what ``_Whole`` makes of the rows."""
        leaves = _cut(weights, self._trainable, x[0].device)
        # copies, since layers move them in place; of the counters one for each row
        others = [one.clone() for one in _cut(state, self._state, x[0].device)]
        counters = [one.tensor for one in self._adapter.counters]
        others += [one.expand(len(weights), *one.shape).clone() for one in counters]
        axis = None if shared else 0

        def call(leaves: Side, others: Side, x: Side, y: Side | None) -> Any:
            values = dict(zip(self._names, [*leaves, *others], strict=True))
            return functional_call(self._whole, values, (x, y))

        with torch.set_grad_enabled(y is not None):
            for one in leaves:
                one.requires_grad_(y is not None)
            return leaves, vmap(call, in_dims=(0, 0, axis, axis))(leaves, others, x, y)

    def _keep(self, moved: Side, state: Matrix) -> None:
        """Write the buffers of S after a step to their columns."""
        for entry, value in zip(self._moving, moved, strict=False):
            start = entry.offset - self._adapter.manifest.n_trainable
            columns = value.reshape(len(state), entry.size).cpu().numpy()
            state[:, start : start + entry.size] = columns


class _Whole(nn.Module):
    """A module with what the adapter does around it, for ``functional_call``.

    moving: names of buffers; their tensors after a training step are returned as well.
    """

    def __init__(self, adapter: TorchAdapter, moving: Sequence[str]) -> None:
        super().__init__()
        self.module = adapter.model
        self._adapter = adapter
        self._moving = moving

    def forward(self, x: Side, y: Side | None) -> Any:
        if y is None:
            return self._adapter.run(x, training=False)
        measured = self._adapter.measure(x, y, training=True)
        return measured, [self.get_buffer(name).detach() for name in self._moving]


def _taken(
    sides: tuple[Side, Side | None], rows: int | slice, shared: bool
) -> tuple[Side, Side | None]:
    """Return what some rows have of the sides."""
    x, y = sides
    if shared:
        return sides
    return [one[rows] for one in x], None if y is None else [one[rows] for one in y]


def _cut(matrix: Matrix, entries: Sequence[Entry], device: torch.device) -> Side:
    """Return a tensor (P, *shape) for each entry; on a CPU they are views of the matrix."""
    columns = torch.split(tensor_of(matrix).to(device), [one.size for one in entries], dim=1)
    return [
        one.view(len(matrix), *entry.shape) for one, entry in zip(columns, entries, strict=True)
    ]


def _write(gradients: Sequence[Tensor | None], leaves: Side, out: Matrix) -> None:
    """Write gradients of shape (P, *shape), None for zero, to the columns of ``out``."""
    target = torch.from_numpy(out)
    is_host = leaves[0].device.type == "cpu"
    buffer = target if is_host else torch.empty(out.shape, device=leaves[0].device)
    sizes = [one[0].numel() for one in leaves]
    for piece, gradient in zip(torch.split(buffer, sizes, dim=1), gradients, strict=True):
        if gradient is None:
            piece.zero_()
        else:
            piece.view(gradient.shape).copy_(gradient)
    if not is_host:
        target.copy_(buffer)
