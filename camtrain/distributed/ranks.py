r"""The processes that train one batch together, and what they have in common.

Every rank holds some rows of the batch, and its loss is its part of the batch's:

.. math:: \mathcal L = \sum_r \mathcal L_r, \qquad \mathcal L_r = \frac1n \sum_{i \in r} \ell_i

with :math:`n` counted over all ranks. The gradients of all parts, added up, are then those of the batch: nothing is a
mean of means, and a rank whose rows hold nothing that counts adds 0. What is measured is added up in the same way.

A process that trains alone is rank 0 of 1; nothing is computed differently there, to the last bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from camtrain.distributed.environment import local_rank
from camtrain.errors import MachineError

Part = TypeVar("Part")

_NOTHING: Any = object()


class Lost(MachineError):
    """Another process of the training has ended, so that this one cannot go on."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many.

    Args:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        return self.size == 1

    def rows(self, count: int) -> range:
        """The rows of a batch that are this rank's: every one of `size`, so that all have as many, or one less."""
        return range(self.rank, count, self.size)

    def total(self, value: Tensor) -> Tensor:
        """Sum over ranks, with a gradient."""
        return value if self.alone else _Total.apply(value)

    @torch.no_grad()
    def sum(self, value: Tensor) -> Tensor:
        """Sum over ranks, without a gradient."""
        return value if self.alone else _added(value)

    def mean(self, values: Tensor) -> Tensor:
        """This rank's part of the mean over all ranks' values, a scalar; the parts add up to it."""
        if self.alone:
            return values.mean()
        return values.sum() / self.sum(values.new_tensor(values.numel())).clamp_min(1)

    def norm(self, value: Tensor) -> Tensor:
        """Norm of what all ranks together hold, given this one's, elementwise."""
        return value if self.alone else self.sum(value.square()).sqrt()

    @torch.no_grad()
    def whole(self, values: Tensor, rows: Tensor, count: int) -> Tensor:
        """What all ranks hold, in the order of the batch, (count, ...), without a gradient.

        Args:
            values: (rows, ...), of this rank.
            rows: their places in the batch.
            count: rows of the batch.
        """
        if self.alone:
            return values
        found = values.new_zeros(count, *values.shape[1:])
        return _added(found.index_copy_(0, rows.to(values.device, non_blocking=True), values))

    def gathered(self, values: Tensor) -> Tensor:
        """What all ranks hold, one behind the other, with a gradient; waits for the device."""
        if self.alone:
            return values
        counts = values.new_zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(values)
        ends = self.sum(counts).cumsum(0).tolist()
        found = values.new_zeros(ends[-1], *values.shape[1:])
        at = torch.arange(ends[self.rank] - len(values), ends[self.rank], device=values.device)
        return self.total(found.index_copy(0, at, values))

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Let each tensor be its sum over ranks, in place."""
        if self.alone:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            own = [tensor for tensor in tensors if tensor.dtype is dtype]
            added = _added(torch.cat([tensor.flatten() for tensor in own]))
            for tensor, part in zip(own, added.split_with_sizes([each.numel() for each in own]), strict=True):
                tensor.copy_(part.view_as(tensor))

    @contextlib.contextmanager
    def after_first_here(self) -> Iterator[None]:
        """Within the block one process of each machine does what the others then find done, such as a download."""
        if local_rank() > 0:
            self.sum(torch.zeros(()))
        yield
        if local_rank() == 0:
            self.sum(torch.zeros(()))

    def in_turn(self, parts: list[Part]) -> list[Part]:
        """What all ranks hold, of each in turn: the list of which every rank has those of its :meth:`rows`."""
        if self.alone:
            return parts
        of_all: list[list[Part]] = [[]] * self.size
        _or_lost(lambda: dist.all_gather_object(of_all, _on_cpu(parts)))
        return [part for part in chain(*zip_longest(*of_all, fillvalue=_NOTHING)) if part is not _NOTHING]

    def from_first(self, value: Part) -> Part:
        """What rank 0 gives."""
        if self.alone:
            return value
        given = [value]
        _or_lost(lambda: dist.broadcast_object_list(given, src=0))
        return given[0]


ALONE = Ranks()


class _Total(torch.autograd.Function):
    """A sum over ranks. Every rank's loss depends on it, so that its gradient is a sum over ranks too."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        return _added(value)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.apply(gradient)  # type: ignore[no-any-return]


def _on_cpu(value: Any) -> Any:
    """The same with all tensors on the CPU, which every rank has."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_on_cpu, value))
    return [_on_cpu(part) for part in value] if isinstance(value, list) else value


def _added(value: Tensor) -> Tensor:
    found = value.detach().clone(memory_format=torch.contiguous_format)
    _or_lost(lambda: dist.all_reduce(found))
    return found


def _or_lost(communicate: Any) -> None:
    """Communicate with the other ranks.

    Raises:
        Lost: one of them is not there any more.
    """
    try:
        communicate()
    except RuntimeError as error:
        raise Lost("another process of the training has ended") from error
