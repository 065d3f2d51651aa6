"""A rank's forward pass as a part of the pass of the whole batch.

Two kinds of operations look at more than one image: those that draw random numbers, of which each image gets its own in
the order of the batch, and batch norm in training mode, which takes its statistics from all images. Within
:class:`AsOneBatch` both see the batch as a whole, so that every image passes the network as it would in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from camtrain.distributed.ranks import Ranks

RANDOM = {
    *(functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d),
    *(functional.alpha_dropout, functional.feature_alpha_dropout, functional.rrelu, functional.gumbel_softmax),
    *(torch.dropout, torch.bernoulli, torch.rand_like, torch.randn_like),
}
"""Functions of a tensor that draw for each of its values."""

RANDOM_IN_PLACE = {Tensor.bernoulli_, Tensor.uniform_, Tensor.normal_, Tensor.exponential_}
"""Methods that do so in place."""

RANDOM_OF_SIZE = {torch.rand, torch.randn}
"""Functions of a size."""


class AsOneBatch(TorchFunctionMode):
    """Within the block passes of a rank's rows are a part of the pass of the whole batch.

    Tensors count as rows of the batch by their first dimension: if there are as many as the rank has rows, or a
    multiple of that, as where images are cut into windows. What attention drops inside of a fused kernel is not seen:
    it is drawn as by a process alone, and differs from rank to rank in nothing but the images.

    Args:
        ranks: which process this is.
        rows: (rows,) int64, places of this rank's rows in the batch.
        whole: how many the batch has.
    """

    def __init__(self, ranks: Ranks, rows: Tensor, whole: int) -> None:
        super().__init__()
        self.ranks, self.rows, self.whole = ranks, rows, whole

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is functional.batch_norm:
            return batch_norm(self.ranks, args[0], Norm(*args[1:], **named))
        if func in RANDOM_OF_SIZE:
            return self._of_size(func, args, named)
        if (func in RANDOM or func in RANDOM_IN_PLACE) and args and isinstance(args[0], Tensor) and args[0].ndim:
            found = self._places(len(args[0]))
            if found is not None:
                return self._of_tensor(func, found, args, named)
        return func(*args, **named)

    def _places(self, count: int) -> tuple[Tensor, int] | None:
        """Places of so many rows in the whole, and how many that has; None if they are not rows of the batch."""
        each, rest = divmod(count, len(self.rows))
        if rest or not each:
            return None
        return (self.rows[:, None] * each + torch.arange(each)).flatten(), self.whole * each

    def _of_size(self, func: Callable[..., Tensor], args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        size = tuple(args[0]) if len(args) == 1 and not isinstance(args[0], int) else args
        found = self._places(size[0]) if size and isinstance(size[0], int) else None
        if found is None:
            return func(*args, **named)
        places, whole = found
        drawn = func(whole, *size[1:], **named)
        return drawn[places.to(drawn.device)]

    def _of_tensor(
        self, func: Callable[..., Any], found: tuple[Tensor, int], args: tuple[Any, ...], named: dict[str, Any]
    ) -> Tensor:
        (own, *others), (places, whole) = args, found
        places = places.to(own.device, non_blocking=True)
        rows = own.detach() if func in RANDOM_IN_PLACE else own
        # Numbers are drawn in the order of memory.
        last = rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last) and not rows.is_contiguous()
        empty = rows.new_zeros(whole, *rows.shape[1:])
        empty = empty.contiguous(memory_format=torch.channels_last) if last else empty
        batch = empty.index_copy_(0, places, rows)  # out of place it would be in another layout
        drawn: Tensor = func(batch, *others, **named)[places]
        return own.copy_(drawn) if func in RANDOM_IN_PLACE else drawn


class Norm(NamedTuple):
    """What batch norm is given beside images, as :func:`torch.nn.functional.batch_norm` is."""

    running_mean: Tensor | None  # (channels,), moved in place by the momentum towards the batch's
    running_var: Tensor | None  # the same, towards the unbiased variance
    weight: Tensor | None = None  # (channels,)
    bias: Tensor | None = None
    training: bool = False  # whether the statistics are those of the batch
    momentum: float = 0.1
    eps: float = 1e-5


def batch_norm(ranks: Ranks, images: Tensor, norm: Norm) -> Tensor:
    r"""Batch norm, in training with the statistics of all ranks' images.

    .. math::
        y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}\, w + b, \qquad
        \mu = \frac1n \sum_r \sum_{i \in r} x_i, \qquad \sigma^2 = \frac1n \sum_r \sum_{i \in r} (x_i - \mu)^2

    torch's own SyncBatchNorm works on GPUs alone.

    Args:
        ranks: which process this is.
        images: (batch, channels, ...).
        norm: everything else.
    """
    if not norm.training:
        return functional.batch_norm(images, *norm)
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    others = [dimension for dimension in range(images.ndim) if dimension != 1]
    per_channel = [1, -1] + [1] * (images.ndim - 2)
    count = wide.new_tensor([images.numel() / max(1, images.shape[1])])
    summed = ranks.total(torch.cat([wide.sum(others), count]))
    total = summed[-1].detach()
    mean = summed[:-1] / total
    centred = wide - mean.view(per_channel)
    variance = ranks.total(centred.square().sum(others)) / total
    with torch.no_grad():
        unbiased = variance * (total / (total - 1).clamp_min(1))
        for running, now in ((norm.running_mean, mean), (norm.running_var, unbiased)):
            if running is not None:
                running.lerp_(now.to(running.dtype), norm.momentum)
    result = centred * (variance + norm.eps).rsqrt().view(per_channel)
    if norm.weight is not None:
        result = result * norm.weight.view(per_channel)
    if norm.bias is not None:
        result = result + norm.bias.view(per_channel)
    return result.to(images.dtype)
