r"""The layers of a network that have a grid, and how each of them holds it.

Convolutions give (batch, channels, height, width), Swin (batch, height, width, channels), ViT a row of tokens, a class
token and registers first: (batch, others + height x width, channels). A grid has the proportions of the image: shapes
tell which is which. :func:`to_grid` brings all of them into the first form.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision import ops

from camtrain.errors import UserError, first_line, out_of_memory

_WHOLE = tuple(kind for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, nn.Module))
"""What torchvision's tracer takes as a single operation: the blocks of torchvision.ops."""

MOST_OTHER_TOKENS = 8
"""Tokens that may stand in front of a grid's: class token, distillation token, registers."""

LARGE = 128
"""Pixels at which the layers of any network but pooled ones have more than one cell."""

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Flatten)


class Layout(enum.Enum):
    """Where a layer's output has its channels and cells."""

    channels_first = "channels first"
    channels_last = "channels last"
    tokens = "tokens"


class Layer(NamedTuple):
    """A layer's output as a grid."""

    channels: int
    height: int
    width: int
    layout: Layout

    @property
    def grid(self) -> tuple[int, int]:
        return self.height, self.width


def as_layer(shape: tuple[int, ...], image: tuple[int, int]) -> Layer | None:
    """How an output holds a grid; None where it holds none.

    Args:
        shape: of the output, the batch left out.
        image: height and width of the image, whose proportions a grid has but for the rounding of its edges.
    """
    if len(shape) == 3:
        first = Layer(shape[0], shape[1], shape[2], Layout.channels_first)
        last = Layer(shape[2], shape[0], shape[1], Layout.channels_last)
        layer = min(first, last, key=lambda layer: _distortion(layer.grid, image))
        return layer if _distortion(layer.grid, image) < math.log(2) else None
    if len(shape) == 2:
        for others in range(min(MOST_OTHER_TOKENS + 1, shape[0])):
            cells = shape[0] - others
            height = round(math.sqrt(cells * image[0] / image[1]))
            if height > 1 and cells % height == 0 and (width := cells // height) > 1 and _fits((height, width), image):
                return Layer(shape[1], height, width, Layout.tokens)
    return None


def _distortion(grid: tuple[int, int], image: tuple[int, int]) -> float:
    """How far a grid's aspect is from the image's: the absolute logarithm of their ratio."""
    return abs(math.log(grid[0] * image[1] / (grid[1] * image[0]))) if min(grid) > 0 else math.inf


def _is_regular(layer: Layer, image: tuple[int, int]) -> bool:
    """Whether the grid may come from steps of the same size in both directions, as those of nearly all networks do."""
    (height, width), (high, wide) = layer.grid, image
    if high == wide:
        return height == width
    finest, coarsest = (
        (high / (height + step) if height + step else math.inf, wide / (width + step) if width + step else math.inf)
        for step in (1, -1)
    )
    return max(finest) < min(coarsest)


def _fits(grid: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether the aspects are equal but for less than one cell."""
    (height, width), (high, wide) = grid, image
    return abs(height * wide - width * high) < max(high, wide)


def to_grid(output: Tensor, layout: str, height: int, width: int) -> Tensor:
    """A layer's output as (batch, channels, height, width); tokens in front that are no cells are left out."""
    if layout == Layout.channels_last.name:
        return output.permute(0, 3, 1, 2)
    if layout == Layout.tokens.name:
        cells = output[:, -height * width :]
        return cells.mT.reshape(len(cells), cells.shape[2], height, width)
    return output


def from_grid(grid: Tensor, output: Tensor, layout: str) -> Tensor:
    """The inverse of :func:`to_grid`; tokens in front are taken from `output`."""
    if layout == Layout.channels_last.name:
        return grid.permute(0, 2, 3, 1)
    if layout == Layout.tokens.name:
        cells = grid.flatten(2).mT
        others = output.shape[1] - cells.shape[1]
        return torch.cat([output[:, :others], cells], 1) if others else cells
    return grid


def find(network: nn.Module, shape: tuple[int, int, int]) -> dict[str, Layer]:
    """Named modules whose output has a grid, in the order in which they finish.

    The head is left out (:func:`head_of`, and what follows global pooling): what it gives is scores, not features. So
    are the parts of attention, whose outputs are queries and keys, and modules that are used more than once: their name
    does not say which output is meant.

    Args:
        network: any classifier.
        shape: channels, height and width of its images.

    Raises:
        UserError: the network cannot take such images.
    """
    found = _with_grid(network, shape)
    if any(layer.grid == (1, 1) for layer in found.values()):
        # One cell whatever the size of the image: it was pooled. Networks made for one size cannot be asked.
        with suppress(Exception):
            factor = max(2, math.ceil(LARGE / min(shape[1:])))
            larger = _with_grid(network, (shape[0], factor * shape[1], factor * shape[2]))
            found = {name: layer for name, layer in found.items() if name in larger and larger[name].grid != (1, 1)}
    return found


def _with_grid(network: nn.Module, shape: tuple[int, int, int]) -> dict[str, Layer]:
    """The modules of :func:`find`, those behind global pooling included."""
    found: dict[str, Layer] = {}
    calls: dict[str, int] = {}  # in the order in which modules first finish

    def record(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            tensor = first_tensor(output)
            layer = as_layer(tuple(tensor.shape[1:]), shape[1:]) if tensor is not None and len(tensor) == 1 else None
            if layer is not None and _is_regular(layer, shape[1:]):
                found[name] = layer

        return hook

    modules = dict(network.named_modules())
    run_once(network, shape, [module.register_forward_hook(record(name)) for name, module in modules.items() if name])
    head = head_of(network, list(calls))
    return {
        name: layer
        for name, layer in found.items()
        if calls[name] == 1
        and not f"{name}.".startswith(f"{head}.")
        and not isinstance(modules[name], _POOLS)
        and not _hidden(network, name)
    }


def head_of(network: nn.Module, order: Sequence[str]) -> str | None:
    """Name of the head: the child with weights that finishes last, within the only one with weights if it is one.

    Args:
        network: any classifier.
        order: names of its modules as they finish.
    """
    name, place = None, {module: number for number, module in enumerate(order)}
    while children := [key for key, child in network.named_children() if any(True for _ in child.parameters())]:
        start = f"{name}." if name else ""
        last = max(children, key=lambda child, start=start: place.get(f"{start}{child}", -1))  # type: ignore[misc]
        network, name = network.get_submodule(last), f"{start}{last}"
        if len(children) > 1:
            break
    return name


def first_tensor(output: object) -> Tensor | None:
    """A module's output, or the first tensor of a tuple or of a mapping (the outputs of Hugging Face's models)."""
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else [output]
    return next((part for part in parts if isinstance(part, Tensor)), None)


def _hidden(network: nn.Module, name: str) -> bool:
    """Whether a module lies in one that counts as a single operation: the MLP of torchvision's transformers, which its
    tracer takes as one, and attention."""
    parts = name.split(".")
    above = [network.get_submodule(".".join(parts[:count])) for count in range(1, len(parts))]
    return any(isinstance(module, _WHOLE) or "Attention" in type(module).__name__ for module in above)


def size_text(size: tuple[int, int]) -> str:
    """A size as `dataset.image_size` takes it: one number for a square."""
    return f"{size[0]}" if size[0] == size[1] else f"[{size[0]},{size[1]}]"


def wrong_size(size: tuple[int, int], error: Exception) -> UserError:
    """What to say of images that a network cannot take."""
    reason = first_line(error)
    return UserError(
        f"dataset.image_size={size_text(size)}: this network cannot take it ({reason}); use another size"
        + (" or dataset.channels" if "channel" in reason else "")
    )


def outermost(layers: dict[str, Layer]) -> dict[str, Layer]:
    """The outermost blocks, or what is in them where there is only one (VGG's features)."""
    depth = 0 if sum("." not in name for name in layers) > 1 else 1
    return {name: layer for name, layer in layers.items() if name.count(".") <= depth}


def strides(network: nn.Module, shape: tuple[int, int, int]) -> list[list[str]]:
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
    run_once(network, shape, handles)
    return list(levels.values())[:2][::-1]


def run_once(network: nn.Module, shape: tuple[int, int, int], handles: Sequence[RemovableHandle] = ()) -> object:
    """What one pass in evaluation mode gives, after which the hooks are gone.

    Raises:
        UserError: the network cannot take images of this size.
    """
    like = next(network.parameters(), torch.empty(0))
    try:
        with evaluating(network), torch.no_grad():
            return network(torch.zeros(1, *shape, device=like.device, dtype=like.dtype))
    except (RuntimeError, ValueError, AssertionError) as error:
        if out_of_memory(error):
            raise
        raise wrong_size(shape[1:], error) from error
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode for as long as it lasts; then each module is in its own again."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
