r"""Where the cells of a layer lie in the image, from the geometry of the layers in front of it.

One pass of one image is followed, function by function: along an axis a cell o of a tensor depends on the pixels
:math:`[l + j\,o,\; h + j\,o]` (:class:`Span`). A convolution or pool of kernel k, dilation d, stride s and padding p
makes of it

.. math:: l \leftarrow l - j p, \quad h \leftarrow h + j\,(d (k - 1) - p), \quad j \leftarrow j s

(Araujo et al., 'Computing Receptive Fields of Convolutional Neural Networks', Distill 2019); branches that are added
or joined depend on the pixels of all of them. The cell's centre is the middle of its field. What has one value for the
whole image, such as the gate of squeeze-and-excitation, moves no centre. Tokens lie where the grid that they were made
of does. Attention gives every cell an infinite field, and moves no centre.

Where a function moves cells in a way that is not followed, the centre is measured (:func:`measured`).
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.overrides import TorchFunctionMode

from camtrain.cam.stretch import Axis, Placement, tiles

Size = tuple[int, int]

Forward = Callable[[Tensor], Mapping[str, Tensor]]
"""From images (batch, channels, height, width) to layers' activations in that order, by name."""

LOOKED_AT = 8
"""Images by which a centre is measured."""

LARGE = 2
"""Fields of more than so many times the image's side are looked at twice."""

CONTRADICTED = 0.25
"""Cells by which gradients have to deviate from the geometry to be believed rather than it."""


def followed(forward: Forward, image: Tensor) -> dict[str, Placement | None]:
    """Where the cells of layers lie; None of those that could not be followed.

    Args:
        forward: a network's pass in evaluation mode.
        image: (1, channels, height, width), as the network takes it.
    """
    follower = _Follower(image)
    with torch.no_grad(), follower:
        layers = forward(image)
    found = {name: follower.of(grid) for name, grid in layers.items()}
    return {name: cells and cells.placement() for name, cells in found.items()}


def placed(forward: Callable[[Tensor], Tensor], images: Tensor) -> Placement:
    """Where the cells of a layer lie: by the geometry of the layers, unless the network's gradients contradict it.

    A field that is much larger than the image has no geometry to speak of: what the padding cuts off is missing on one
    side, and training makes up for the rest. EfficientNet-Lite0 as pretrained sees what is half a cell beside its
    geometry. Smaller fields are believed, which images of little content would mislead gradients about.

    Args:
        forward: from images to activations (batch, channels, height, width), in evaluation mode.
        images: as for :func:`measured`.
    """
    found = followed(lambda image: {"": forward(image)}, images[:1])[""]
    if found is not None and all(
        axis.field <= LARGE * side for axis, side in zip(found, images.shape[2:], strict=True)
    ):
        return found
    seen = measured(forward, images, found)
    if found is None:
        return seen
    apart = [
        abs(by_layers.offset(side, round(side / axis.step)) - axis.offset(side, round(side / axis.step))) / axis.step
        for by_layers, axis, side in zip(found, seen, images.shape[2:], strict=True)
    ]
    return found if max(apart) <= CONTRADICTED else seen


def measured(forward: Callable[[Tensor], Tensor], images: Tensor, otherwise: Placement | None = None) -> Placement:
    r"""Where cells lie, from what those in the middle depend on.

    Cells are taken to be as far from each other as equal tiles; the centre of the middle ones is the centroid of
    :math:`\sum (\partial a / \partial x)^2` over channels and images, a a sum of the cell's activations with random
    signs. Near the edges of the image this would find what is left of the field inside it.

    Args:
        forward: from images to activations (batch, channels, height, width), in evaluation mode.
        images: (batch, channels, height, width), as the network takes them, of which :data:`LOOKED_AT` are used, as
            they are and mirrored, so that it does not count where they show something; where they are nothing but
            zeros, only a size that is, noise takes their place.
        otherwise: the answer where the middle cells depend on nothing, as behind a ReLU; None: equal tiles.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        noise = torch.randn(LOOKED_AT, *images.shape[1:], generator=generator)
        some = images[:LOOKED_AT].detach()
        ways = [some, some.flip(2), some.flip(3), some.flip(2, 3)] if bool(images.any()) else [noise.to(images)]
        given = torch.cat(ways).requires_grad_()
        grid = forward(given)
        signs = torch.randint(0, 2, grid.shape[:2], generator=generator).to(grid) * 2 - 1
        middle = [sorted({(side - 1) // 2, side // 2}) for side in grid.shape[2:]]
        chosen = grid[:, :, middle[0]][..., middle[1]] * signs[:, :, None, None]
        (gradient,) = torch.autograd.grad(chosen.sum(), given, materialize_grads=True)
    weight = gradient.double().square().sum((0, 1)).cpu()
    if not 0 < float(weight.sum()) < math.inf:
        height, width = images.shape[2:]
        return otherwise or tiles((height, width), (grid.shape[2], grid.shape[3]))
    axes = []
    for at, (side, cells) in enumerate(zip(images.shape[2:], grid.shape[2:], strict=True)):
        profile = weight.sum(1 - at)
        centre = float((profile * torch.arange(side)).sum() / profile.sum())
        step = side / cells
        axes.append(Axis(centre - step * (cells - 1) / 2, step, math.inf))
    return Placement(*axes)


class Span(NamedTuple):
    """Pixels along one axis that cell o depends on: from `low + step * o` to `high + step * o`."""

    low: float
    high: float
    step: float

    def window(self, kernel: float, stride: float, padding: float, dilation: float = 1) -> Span:
        """Of a convolution or pool."""
        before, after = self.step * padding, self.step * (dilation * (kernel - 1) - padding)
        return Span(self.low - before, self.high + after, self.step * stride)

    def joined(self, other: Span) -> Span | None:
        """Of what depends on both; None where they have different steps."""
        if not math.isclose(self.step, other.step):
            return None
        return Span(min(self.low, other.low), max(self.high, other.high), self.step)

    def axis(self) -> Axis:
        return Axis((self.low + self.high) / 2, self.step, self.high - self.low + 1)


class Cells(NamedTuple):
    """Which dimensions of a tensor are rows and columns of cells, and what these depend on."""

    dims: Size
    spans: tuple[Span, Span]
    mixed: bool = False  # with those of the whole image

    def placement(self) -> Placement:
        axes = (span.axis() for span in self.spans)
        return Placement(*(axis._replace(field=math.inf) if self.mixed else axis for axis in axes))

    def windowed(self, *given: Sequence[float]) -> Cells:
        """Behind windows; by parameter of :meth:`Span.window` its value along both axes."""
        rows, columns = (span.window(*own) for span, own in zip(self.spans, zip(*given, strict=True), strict=True))
        return self._replace(spans=(rows, columns))


class Unplaced(enum.Enum):
    """What depends on the image, but not as cells with a known place."""

    tokens = "cells in another order, or mixed by attention, which are taken to come back to a grid as they left it"
    lost = "anything else"


ORDER = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation"),
    "avg_pool2d": ("input", "kernel_size", "stride", "padding"),
    "adaptive_avg_pool2d": ("input", "output_size"),
    "pad": ("input", "pad"),
    "interpolate": ("input", "size", "scale_factor", "mode", "align_corners"),
    "linear": ("input", "weight"),
}
"""Names of the arguments in the order in which functions take them."""

ALIASES = {
    "max_pool2d_with_indices": "max_pool2d",
    "_max_pool2d": "max_pool2d",
    "adaptive_max_pool2d": "adaptive_avg_pool2d",
    "_pad": "pad",
}

MOVING = re.compile(
    "permute|transpose|swapaxes|swapdims|movedim|moveaxis|reshape|view|flatten|unflatten|squeeze|unsqueeze|__getitem__"
    "|select|narrow|chunk|split|split_with_sizes|unbind|tensor_split|__get__"
)
"""Functions that may put cells elsewhere in the tensor, without changing their values."""

MIXING = re.compile("matmul|__matmul__|bmm|baddbmm|einsum|scaled_dot_product_attention|multi_head_attention_forward")
"""Functions that are parts of attention where two operands depend on the image; else it is not known what they do."""

LOST = re.compile(
    "roll|flip|fliplr|flipud|rot90|grid_sample|pixel_shuffle|pixel_unshuffle|unfold|fold|conv_transpose2d|conv1d"
    "|deform_conv2d|cumsum|sort|topk|gather|take_along_dim|index_select|lp_pool2d|fft2|rfft2|irfft2|__setitem__"
)
"""Functions behind which it is not known what cells depend on."""

NEW = re.compile(r"new_\w+|\w+_like")
"""Functions that take nothing of a tensor but its shape and type."""


class _Follower(TorchFunctionMode):
    """Keeps what the cells of every tensor of a pass depend on."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        whole = Span(0.0, 0.0, 1.0)
        self._known: dict[int, tuple[Tensor, Cells | Unplaced]] = {}  # with the tensor: else its number is given away
        self._grids: dict[Size, Cells] = {}
        """By height and width, the last tensor of four dimensions with that grid."""
        self._keep(image, Cells((2, 3), (whole, whole)))

    def of(self, tensor: Tensor) -> Cells | None:
        """Its cells; those of tokens (batch, channels, height, width) are the last ones in such a grid."""
        _, found = self._known.get(id(tensor), (tensor, Unplaced.lost))
        if found is Unplaced.tokens and tensor.dim() == 4:
            cells = self._grids.get(_grid(tensor.shape, (2, 3)))
            return cells and cells._replace(dims=(2, 3), mixed=True)
        return found if isinstance(found, Cells) else None

    def _keep(self, tensor: Tensor, found: Cells | Unplaced) -> None:
        self._known[id(tensor)] = tensor, found
        if isinstance(found, Cells) and tensor.dim() == 4:
            self._grids[_grid(tensor.shape, found.dims)] = found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        known = [tensor for tensor in _tensors((args, kwargs)) if id(tensor) in self._known]
        given = [(tensor, self._known[id(tensor)][1], tensor.shape) for tensor in known]
        result, name = func(*args, **kwargs), getattr(func, "__name__", "")
        if given and not NEW.fullmatch(name):
            for number, made in enumerate(_tensors(args[:1] if name == "__setitem__" else result)):
                self._keep(made, self._behind(ALIASES.get(name, name), func, (args, kwargs), given, made, number))
        return result

    def _behind(
        self,
        name: str,
        func: Callable[..., Any],
        call: tuple[Sequence[Any], Mapping[str, Any]],
        given: Sequence[tuple[Tensor, Cells | Unplaced, torch.Size]],
        made: Tensor,
        number: int,
    ) -> Cells | Unplaced:
        """What one of a function's results depends on."""
        if all(found is Unplaced.tokens for _, found, _ in given) and name not in WINDOWS:
            return Unplaced.tokens
        if MIXING.fullmatch(name):
            return Unplaced.tokens if len(given) > 1 else Unplaced.lost
        if LOST.fullmatch(name):
            return Unplaced.lost
        if not MOVING.fullmatch(name) and name not in ORDER:
            return _together([(found, shape) for _, found, shape in given], made.shape)
        tensor, _, shape = given[0]
        named = {**dict(zip(ORDER.get(name, ("input",)), call[0], strict=False)), **call[1]}
        cells = self.of(tensor)
        if cells is None or named.get("input") is not tensor:
            return Unplaced.lost
        if name in WINDOWS:
            return WINDOWS[name](cells, named, shape, made.shape) or Unplaced.lost
        if name == "linear":
            return Unplaced.lost if tensor.dim() - 1 in cells.dims else cells
        return _moved(func, call, tensor, cells, number)


def _grid(shape: Sequence[int], dims: Size) -> Size:
    return shape[dims[0]], shape[dims[1]]


def _together(given: Sequence[tuple[Cells | Unplaced, Sequence[int]]], made: Sequence[int]) -> Cells | Unplaced:
    """Behind a function that takes cells of the same place: what all operands of these shapes depend on."""
    cells = [found for found, _ in given if isinstance(found, Cells)]
    if not cells or max(cells[0].dims) >= len(made):
        return Unplaced.lost
    dims, whole, together, mixed = cells[0].dims, _grid(made, cells[0].dims), None, False
    for found, shape in given:
        size = _grid([1] * (len(made) - len(shape)) + [*shape], dims)
        if size == (1, 1) != whole:
            continue  # one value for all
        if found is Unplaced.tokens:
            mixed = True
            continue
        if found is Unplaced.lost or (found.dims, len(shape), size) != (dims, len(made), whole):
            return Unplaced.lost
        together = found if together is None else _joined(together, found)
        if together is None:
            return Unplaced.lost
    return Unplaced.lost if together is None else together._replace(mixed=together.mixed or mixed)


def _joined(one: Cells, other: Cells) -> Cells | None:
    spans = [a.joined(b) for a, b in zip(one.spans, other.spans, strict=True)]
    if one.dims != other.dims or spans[0] is None or spans[1] is None:
        return None
    return Cells(one.dims, (spans[0], spans[1]), one.mixed or other.mixed)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _pair(value: Any, otherwise: Any = None) -> tuple[Any, Any]:
    """Of both axes."""
    value = otherwise if value is None or value == [] or value == () else value
    if isinstance(value, int | float):
        return value, value
    values = tuple(value)
    return values * 2 if len(values) == 1 else values


def _conv(cells: Cells, named: Mapping[str, Any], _: Sequence[int], __: Sequence[int]) -> Cells | None:
    kernel, dilation = tuple(named["weight"].shape[2:]), _pair(named.get("dilation", 1))
    padding = named.get("padding", 0)
    if padding == "same":  # the odd pixel is behind
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    return cells.windowed(kernel, _pair(named.get("stride", 1)), _pair(0 if padding == "valid" else padding), dilation)


def _pool(cells: Cells, named: Mapping[str, Any], _: Sequence[int], __: Sequence[int]) -> Cells | None:
    kernel = _pair(named["kernel_size"])
    return cells.windowed(
        kernel, _pair(named.get("stride"), kernel), _pair(named.get("padding", 0)), _pair(named.get("dilation", 1))
    )


def _adaptive(cells: Cells, _: Mapping[str, Any], before: Sequence[int], after: Sequence[int]) -> Cells | None:
    """Equal windows; where the sizes are no multiples, on average."""
    ratio = [b / a for b, a in zip(_grid(before, cells.dims), _grid(after, cells.dims), strict=True)]
    return cells.windowed(ratio, ratio, (0, 0))


def _pad(cells: Cells, named: Mapping[str, Any], before: Sequence[int], _: Sequence[int]) -> Cells | None:
    amounts = [*named["pad"], *[0] * 2 * len(before)]  # before and behind, from the last dimension on
    rows, columns = (
        Span(span.low - by, span.high - by, span.step)
        for dim, span in zip(cells.dims, cells.spans, strict=True)
        for by in [span.step * amounts[2 * (len(before) - 1 - dim)]]
    )
    return cells._replace(spans=(rows, columns))


def _interpolate(cells: Cells, named: Mapping[str, Any], before: Sequence[int], after: Sequence[int]) -> Cells | None:
    """Cell o lies at (o + 1/2) / f - 1/2 of the cells before; of nearest ones, at the mean of those that are taken."""
    if named.get("align_corners"):
        return None
    mode, spans = str(named.get("mode", "nearest")), []
    for dim, span in zip(cells.dims, cells.spans, strict=True):
        ratio = before[dim] / after[dim]
        first, spread = (ratio - 1) / 2, 0.5
        if mode.startswith("nearest"):
            taken = interpolate(torch.arange(float(before[dim]))[None, None], after[dim], mode=mode)[0, 0]
            first, spread = float((taken - ratio * torch.arange(after[dim])).mean()), 0.0
        low, high = span.low + (first - spread) * span.step, span.high + (first + spread) * span.step
        spans.append(Span(low, high, span.step * ratio))
    return cells._replace(spans=(spans[0], spans[1]))


WINDOWS: dict[str, Callable[[Cells, Mapping[str, Any], Sequence[int], Sequence[int]], Cells | None]] = {
    "conv2d": _conv,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "adaptive_avg_pool2d": _adaptive,
    "pad": _pad,
    "interpolate": _interpolate,
}
"""From the cells before a function, its arguments, and the shapes before and after it to the cells behind it."""


def _moved(
    func: Callable[..., Any], call: tuple[Sequence[Any], Mapping[str, Any]], tensor: Tensor, cells: Cells, number: int
) -> Cells | Unplaced:
    """Where numbered cells come out in one of the results: each axis along one dimension, evenly.

    Tokens where both axes share a dimension or one takes several; lost where a part of them is left, or not evenly.
    """
    outs, places = [], []
    for dim in cells.dims:
        shape = [1] * tensor.dim()
        shape[dim] = tensor.shape[dim]
        line = torch.arange(float(tensor.shape[dim]), device=tensor.device)
        numbers = line.reshape(shape).expand(tensor.shape).contiguous()
        args = [numbers if part is tensor else part for part in call[0]]
        try:
            made = func(*args, **{key: numbers if part is tensor else part for key, part in call[1].items()})
        except Exception:  # whatever it may need that numbers are not
            return Unplaced.lost
        outs.append(list(_tensors(made))[number])
        places.append([at for at in range(outs[-1].dim()) if bool((outs[-1].diff(dim=at) != 0).any())])
    if not all(places):
        return Unplaced.lost
    if len(places[0]) > 1 or len(places[1]) > 1 or places[0] == places[1]:
        return Unplaced.tokens
    dims, spans = (places[0][0], places[1][0]), []
    for at, out, span in zip(dims, outs, cells.spans, strict=True):
        line = out.movedim(at, 0).flatten(1)[:, 0]
        first, step = float(line[0]), float(line[1] - line[0])
        if step <= 0 or bool((line.diff() != step).any()):
            return Unplaced.lost
        spans.append(Span(span.low + first * span.step, span.high + first * span.step, span.step * step))
    return cells._replace(dims=dims, spans=(spans[0], spans[1]))
