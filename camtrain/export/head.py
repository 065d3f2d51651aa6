r"""The gradient of a head written out, for runtimes that cannot differentiate.

A head is the chain of modules between the layer and the logits, :math:`y = f_n \circ \dots \circ f_1(A)`. The gradient
of a score is handed back through it, :math:`g \leftarrow J_i^\top g`, which takes the values that went forward:

- linear layers and 1 x 1 convolutions: :math:`J^\top g = W^\top g`
- average pools, :math:`P_h X P_w^\top` with constant matrices: :math:`J^\top g = P_h^\top g P_w`
- ReLU: :math:`J = [x > 0]`; Hardswish: :math:`J = 0` below -3, 1 above 3, :math:`(2 x + 3) / 6` between
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camtrain.errors import UserError
from camtrain.networks.capture import Captured

MOST_LAYERS = 3
"""With weights: the last one and two hidden ones."""

_NOTHING = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Identity, nn.Flatten)
"""What does nothing in evaluation mode, but for what :class:`Linear` does by itself."""

SAME = 1e-4
"""By how much, of the largest logit, the chain may differ from the network."""


class Part(nn.Module):
    """One function of the chain, and its transposed Jacobian."""

    def forward(self, given: Tensor) -> Tensor:
        """What comes next."""
        raise NotImplementedError

    def back(self, gradient: Tensor, given: Tensor) -> Tensor:
        """The gradient with respect to what was given, from that with respect to what came of it."""
        raise NotImplementedError


class Linear(Part):
    """Of all that an image has: a grid is flattened."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, given: Tensor) -> Tensor:
        made: Tensor = self.layer(given.flatten(1))
        return made

    def back(self, gradient: Tensor, given: Tensor) -> Tensor:
        return (gradient @ self.layer.weight).reshape(-1, *given.shape[1:])


class PerCell(Part):
    """A 1 x 1 convolution."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, given: Tensor) -> Tensor:
        made: Tensor = self.layer(given)
        return made

    def back(self, gradient: Tensor, given: Tensor) -> Tensor:  # noqa: ARG002
        return torch.nn.functional.conv2d(gradient, self.layer.weight.transpose(0, 1))


class Rectified(Part):
    """ReLU."""

    def forward(self, given: Tensor) -> Tensor:
        return given.relu()

    def back(self, gradient: Tensor, given: Tensor) -> Tensor:
        return gradient * (given > 0)


class Hardswish(Part):
    r""":math:`x\,\min(\max(x + 3, 0), 6) / 6`."""

    def forward(self, given: Tensor) -> Tensor:
        return torch.nn.functional.hardswish(given)

    def back(self, gradient: Tensor, given: Tensor) -> Tensor:
        slope = torch.where(given > 3, 1.0, (2 * given + 3) / 6)
        return gradient * torch.where(given < -3, 0.0, slope)


class Mean(Part):
    """Global average pooling; its gradient is the same in every cell, and is handed on as one."""

    def forward(self, given: Tensor) -> Tensor:
        return given.mean((2, 3), keepdim=True)

    def back(self, gradient: Tensor, given: Tensor) -> Tensor:
        return gradient / (given.shape[2] * given.shape[3])


class Pool(Part):
    """Average pooling to several cells, as two matrices."""

    rows: Tensor
    columns: Tensor

    def __init__(self, layer: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        height, width = size
        rows, columns = (
            torch.eye(height)[:, :, None].repeat(1, 1, width),
            torch.eye(width)[:, None].repeat(1, height, 1),
        )
        self.register_buffer("rows", layer(rows)[:, :, 0].mT.contiguous())  # (cells behind it, cells before it)
        self.register_buffer("columns", layer(columns)[:, 0].mT.contiguous())

    def forward(self, given: Tensor) -> Tensor:
        return self.rows @ given @ self.columns.mT

    def back(self, gradient: Tensor, given: Tensor) -> Tensor:  # noqa: ARG002
        return self.rows.mT @ gradient @ self.columns


class Chain(nn.Module):
    """A head as a chain of parts.

    Args:
        parts: from the layer to the logits.
    """

    def __init__(self, parts: list[Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, grid: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (batch, classes), and what each part was given.

        Args:
            grid: the layer's activations, (batch, channels, height, width).
        """
        given = []
        value = grid
        for part in self.parts:
            given.append(value)
            value = part(value)
        return value.flatten(1), given

    def back(self, gradient: Tensor, given: list[Tensor]) -> Tensor:
        """Gradient on the activations, (maps, channels, height, width), or (..., 1, 1) where all cells have the same.

        Args:
            gradient: of each map's score on the logits, (maps, classes).
            given: what each part was given for each map.
        """
        if not isinstance(self.parts[-1], Linear):
            gradient = gradient[:, :, None, None]
        for part, value in zip(reversed(self.parts), reversed(given), strict=True):
            assert isinstance(part, Part)
            gradient = part.back(gradient, value)
        return gradient


class Passed(NamedTuple):
    """A module that the pass went through behind the layer."""

    name: str
    module: nn.Module
    given: Tensor
    made: Tensor


def written_out(network: Captured, images: Tensor) -> Chain:
    """The head of a network as a chain of parts whose gradients are known.

    Args:
        network: in evaluation mode.
        images: (batch, channels, height, width), 0..1.

    Raises:
        UserError: the head has another form, or more layers.
    """
    with torch.no_grad():
        passed, grid, logits = _pass(network, images)
        parts = [part for one in passed if (part := _part(one, network.layer)) is not None]
        layers = sum(isinstance(part, Linear | PerCell) for part in parts)
        if layers > MOST_LAYERS:
            raise _refused(network.layer, f"{layers} layers with weights follow, {MOST_LAYERS} at most can be written")
        # What networks often do beside their modules; DenseNet both.
        unseen: list[list[Part]] = [[], [Mean()], [Rectified(), Mean()]]
        for first in unseen:
            chain = Chain([*first, *parts]).eval()
            if _same(chain, grid, logits):
                return chain
    raise _refused(network.layer, "what follows is more than a chain of its modules")


def _same(chain: Chain, grid: Tensor, logits: Tensor) -> bool:
    """Whether the chain gives the network's logits."""
    try:
        difference = float((chain(grid)[0] - logits).abs().max())
    except (RuntimeError, IndexError):  # the parts do not fit together
        return False
    return difference <= SAME * max(1.0, float(logits.abs().max()))


def _refused(layer: str, why: str) -> UserError:
    return UserError(
        f"model.layer={layer}: {why}, so its map has no closed form to export; the head must be linear, or have up to"
        " two hidden layers with ReLU or Hardswish: export a run whose layer is the last one before such a head"
    )


def _pass(network: Captured, images: Tensor) -> tuple[list[Passed], Tensor, Tensor]:
    """The innermost modules that a pass goes through behind the layer, in order; the activations, the logits."""
    passed: list[Passed] = []
    given: dict[str, Tensor] = {}

    def before(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            given[name] = inputs[0].clone()  # what works in place would change it

        return hook

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, _inputs, output: passed.append(Passed(name, module, given[name], output.clone()))

    def begin(*_: Any) -> None:
        passed.clear()

    inner = {name: module for name, module in network.backbone.named_modules() if not [*module.children()]}
    hooks = [module.register_forward_pre_hook(before(name)) for name, module in inner.items()]
    hooks += [module.register_forward_hook(after(name)) for name, module in inner.items()]
    hooks.append(network.backbone.get_submodule(network.layer).register_forward_hook(begin))
    try:
        logits, grids = network.grids(network.normalised(images))
    finally:
        for hook in hooks:
            hook.remove()
    return passed, grids[network.layer], logits


def _part(passed: Passed, layer: str) -> Part | None:
    """What a module does; None where it does nothing."""
    name, module, given, made = passed
    if isinstance(module, nn.Linear):
        return Linear(module)
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) == module.stride and module.groups == 1:
        return PerCell(module)
    if isinstance(module, nn.ReLU):
        return Rectified()
    if isinstance(module, nn.Hardswish):
        return Hardswish()
    pooling = isinstance(module, nn.AdaptiveAvgPool2d | nn.AvgPool2d)
    if isinstance(module, _NOTHING) or (pooling and torch.equal(made, given)):
        return None
    if given.dim() == 4 and made.flatten(1).shape == given.shape[:2]:
        # Also pools of other packages; whatever else has such a shape does not give the mean.
        if torch.allclose(made.flatten(1), given.mean((2, 3)), atol=1e-6):
            return Mean()
    elif pooling:
        return Pool(module, (given.shape[2], given.shape[3]))
    raise _refused(layer, f"{type(module).__name__} ({name}) follows")
