r"""The layers of a network that have a grid, and how each of them holds it.

Convolutions give (batch, channels, height, width), Swin (batch, height, width, channels), ViT a row of tokens, the
class token first: (batch, 1 + height x width, channels). Images are square, and so are grids: shapes tell which is
which. :mod:`camtrain.networks.fx_capture` brings all of them into the first form.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision import ops

from camtrain.errors import UserError, first_line

_WHOLE = tuple(kind for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, nn.Module))
"""What torchvision's tracer takes as a single operation: the blocks of torchvision.ops."""

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Flatten)


class Layout(enum.Enum):
    """Where a layer's output has its channels and cells."""

    channels_first = "channels first"
    channels_last = "channels last"
    tokens = "tokens"
    class_token = "tokens behind a class token"


class Layer(NamedTuple):
    """A layer's output as a grid."""

    channels: int
    height: int
    width: int
    layout: Layout

    @property
    def grid(self) -> tuple[int, int]:
        return self.height, self.width


def as_layer(shape: tuple[int, ...]) -> Layer | None:
    """How an output of this shape, the batch left out, holds a square grid; None where it holds none."""
    if len(shape) == 3:
        if shape[0] == shape[1] != shape[2]:
            return Layer(shape[2], shape[0], shape[1], Layout.channels_last)
        return Layer(shape[0], shape[1], shape[2], Layout.channels_first) if shape[1] == shape[2] else None
    if len(shape) == 2:
        for extra, layout in ((0, Layout.tokens), (1, Layout.class_token)):
            side = math.isqrt(max(shape[0] - extra, 0))
            if side > 1 and side * side == shape[0] - extra:
                return Layer(shape[1], side, side, layout)
    return None


def find(network: nn.Module, image_size: int) -> dict[str, Layer]:
    """Named modules whose output has a grid, in the order in which they finish.

    The head (the last child with weights, and pooling) is left out: what it gives is scores, not features. So are
    modules that are used more than once: their name does not say which output is meant.

    Raises:
        UserError: the network cannot take images of this size.
    """
    found: dict[str, Layer] = {}
    calls: dict[str, int] = {}
    head = [name for name, child in network.named_children() if any(True for _ in child.parameters())][-1]

    def record(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            layer = as_layer(tuple(output.shape[1:])) if isinstance(output, Tensor) and len(output) == 1 else None
            if layer is not None:
                found[name] = layer

        return hook

    handles = [
        module.register_forward_hook(record(name))
        for name, module in network.named_modules()
        if name and name.split(".")[0] != head and not isinstance(module, _POOLS) and not _hidden(network, name)
    ]
    _run(network, image_size, handles)
    return {name: layer for name, layer in found.items() if calls[name] == 1}


def _hidden(network: nn.Module, name: str) -> bool:
    """Whether a module lies in one that the tracer takes as a single operation, as the MLP of a transformer."""
    parts = name.split(".")
    above = [network.get_submodule(".".join(parts[:count])) for count in range(1, len(parts))]
    return any(isinstance(module, _WHOLE) for module in above)


def wrong_size(image_size: int, error: Exception) -> UserError:
    """What to say of images that a network cannot take."""
    reason = first_line(error)
    return UserError(f"dataset.image_size={image_size}: this network cannot take it ({reason}); use another size")


def outermost(layers: dict[str, Layer]) -> dict[str, Layer]:
    """The outermost blocks, or what is in them where there is only one (VGG's features)."""
    depth = 0 if sum("." not in name for name in layers) > 1 else 1
    return {name: layer for name, layer in layers.items() if name.count(".") <= depth}


def strides(network: nn.Module, image_size: int) -> list[list[str]]:
    """Layers of stride 2, convolutions or pools, of the first two levels, the later level first.

    A level is all that takes a grid of the same size: the branches of a block have to be widened together. The later
    level is the cheaper one to widen.
    """
    levels: dict[int, list[str]] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: levels.setdefault(inputs[0].shape[-1], []).append(name)

    handles = [
        module.register_forward_pre_hook(record(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and module.stride in (2, (2, 2))
    ]
    _run(network, image_size, handles)
    return list(levels.values())[:2][::-1]


def _run(network: nn.Module, image_size: int, handles: Sequence[RemovableHandle]) -> None:
    """One pass in evaluation mode, after which the hooks are gone.

    Raises:
        UserError: the network cannot take images of this size.
    """
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise wrong_size(image_size, error) from error
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
