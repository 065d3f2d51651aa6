r"""Where the cells of a layer lie in the image, from the geometry of the layers in front of it.

One pass of one image is followed, function by function: along an axis a cell o of a tensor depends on the pixels
:math:`[l + j\,o,\; h + j\,o]` (:class:`Span`). A convolution or pool of kernel k, dilation d, stride s and padding p
makes of it

.. math:: l \leftarrow l - j p, \quad h \leftarrow h + j\,(d (k - 1) - p), \quad j \leftarrow j s

(Araujo et al., 'Computing Receptive Fields of Convolutional Neural Networks', Distill 2019); branches that are added
or joined depend on the pixels of all of them. The cell's centre is the middle of its field. What has one value for the
whole image, such as the gate of squeeze-and-excitation, moves no centre. Tokens lie where the grid that they were made
of does.

Where a function moves cells in a way that is not followed, the centre is measured (:func:`measured`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from camtrain.cam.stretch import Axis, Placement

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
    found = {name: follower.of(grid) or follower.grids.get(_grid(grid.shape, (2, 3))) for name, grid in layers.items()}
    return {
        name: None if cells is None else Placement(*(span.axis() for span in cells.spans))
        for name, cells in found.items()
    }


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
    seen = measured(forward, images)
    if found is None:
        return seen
    apart = [
        abs(by_layers.offset(side, round(side / axis.step)) - axis.offset(side, round(side / axis.step))) / axis.step
        for by_layers, axis, side in zip(found, seen, images.shape[2:], strict=True)
    ]
    return found if max(apart) <= CONTRADICTED else seen


def measured(forward: Callable[[Tensor], Tensor], images: Tensor) -> Placement:
    r"""Where cells lie, from what those in the middle depend on.

    Cells are taken to be as far from each other as equal tiles; the centre of the middle ones is the centroid of
    :math:`\sum (\partial a / \partial x)^2` over channels and images, a a sum of the cell's activations with random
    signs. Near the edges of the image this would find what is left of the field inside it.

    Args:
        forward: from images to activations (batch, channels, height, width), in evaluation mode.
        images: (batch, channels, height, width), as the network takes them, of which :data:`LOOKED_AT` are used, as
            they are and mirrored, so that it does not count where they show something; where they are nothing but
            zeros, only a size that is, noise takes their place.
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
        (gradient,) = torch.autograd.grad(chosen.sum(), given)
    weight = gradient.double().square().sum((0, 1)).cpu()
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

    def windowed(self, *given: Sequence[float]) -> Cells:
        """Behind windows; by parameter of :meth:`Span.window` its value along both axes."""
        rows, columns = (span.window(*own) for span, own in zip(self.spans, zip(*given, strict=True), strict=True))
        return Cells(self.dims, (rows, columns))


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
    "lp_pool2d": "",
    "adaptive_max_pool2d": "adaptive_avg_pool2d",
    "_pad": "pad",
}

MOVING = re.compile(
    "permute|transpose|swapaxes|swapdims|movedim|moveaxis|reshape|view|flatten|unflatten|squeeze|unsqueeze|__getitem__"
    "|select|narrow|chunk|split|split_with_sizes|unbind|tensor_split|__get__"
)
"""Functions that may put cells elsewhere in the tensor, without changing their values."""

LOST = re.compile(
    "matmul|__matmul__|bmm|baddbmm|einsum|scaled_dot_product_attention|multi_head_attention_forward|roll|flip|fliplr"
    "|flipud|rot90|grid_sample|pixel_shuffle|pixel_unshuffle|unfold|fold|conv_transpose2d|conv1d|cumsum|sort|topk"
    "|gather|take_along_dim|index_select|lp_pool2d|fft2|rfft2|irfft2"
)
"""Functions behind which it is not known what cells depend on."""


class _Follower(TorchFunctionMode):
    """Keeps what the cells of every tensor of a pass depend on."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        whole = Span(0.0, 0.0, 1.0)
        self._known: dict[int, tuple[Tensor, Cells]] = {}
        self.grids: dict[Size, Cells] = {}
        """By height and width, the last tensor (batch, channels, height, width) of that grid."""
        self._keep(image, Cells((2, 3), (whole, whole)))

    def of(self, tensor: Tensor) -> Cells | None:
        found = self._known.get(id(tensor))
        return found[1] if found else None

    def _keep(self, tensor: Tensor, cells: Cells) -> None:
        self._known[id(tensor)] = tensor, cells  # with the tensor, whose number would be given away again
        if tensor.dim() == 4:
            self.grids[tensor.shape[cells.dims[0]], tensor.shape[cells.dims[1]]] = cells

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [(tensor, cells, tensor.shape) for tensor in _tensors((args, kwargs)) if (cells := self.of(tensor))]
        result = func(*args, **kwargs)
        if given:
            name = getattr(func, "__name__", "")
            for made in _tensors(result):
                cells = self._behind(ALIASES.get(name, name), func, (args, kwargs), given, made)
                if cells is not None:
                    self._keep(made, cells)
                elif self.of(made) is not None:
                    del self._known[id(made)]
        return result

    def _behind(
        self,
        name: str,
        func: Callable[..., Any],
        call: tuple[Sequence[Any], Mapping[str, Any]],
        given: Sequence[tuple[Tensor, Cells, torch.Size]],
        made: Tensor,
    ) -> Cells | None:
        tensor, cells, shape = given[0]
        if LOST.fullmatch(name):
            return None
        if MOVING.fullmatch(name):
            return _moved(func, call, tensor, cells) if made.is_floating_point() else None
        if name in ORDER:
            named = {**dict(zip(ORDER[name], call[0], strict=False)), **call[1]}
            if name == "linear":
                return cells if cells.dims[1] != tensor.dim() - 1 and cells.dims[0] != tensor.dim() - 1 else None
            return WINDOWS[name](cells, named, shape, made.shape)
        found: Cells | None = None
        for _, other, sizes in given:
            size, same = _grid(sizes, other.dims), len(sizes) == made.dim()
            if not same or size != _grid(made.shape, other.dims):
                if same and size == (1, 1):
                    continue  # one value for all
                return None
            found = other if found is None else _joined(found, other)
            if found is None:
                return None
        return found


def _grid(shape: Sequence[int], dims: Size) -> Size:
    return shape[dims[0]], shape[dims[1]]


def _joined(one: Cells, other: Cells) -> Cells | None:
    spans = [a.joined(b) for a, b in zip(one.spans, other.spans, strict=True)]
    if one.dims != other.dims or spans[0] is None or spans[1] is None:
        return None
    return Cells(one.dims, (spans[0], spans[1]))


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
    return Cells(cells.dims, (rows, columns))


def _interpolate(cells: Cells, named: Mapping[str, Any], before: Sequence[int], after: Sequence[int]) -> Cells | None:
    """Cell o lies at (o + 1/2) / f - 1/2 of the cells before."""
    if named.get("align_corners"):
        return None
    spread = 0.0 if str(named.get("mode", "nearest")).startswith("nearest") else 0.5
    rows, columns = (
        Span(span.low + shift - spread * span.step, span.high + shift + spread * span.step, step)
        for dim, span in zip(cells.dims, cells.spans, strict=True)
        for step in [span.step * before[dim] / after[dim]]
        for shift in [(step - span.step) / 2]
    )
    return Cells(cells.dims, (rows, columns))


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
    func: Callable[..., Any], call: tuple[Sequence[Any], Mapping[str, Any]], tensor: Tensor, cells: Cells
) -> Cells | None:
    """Where numbered cells come out: each axis along one dimension, evenly. None where they do not."""
    dims, spans = [], []
    for dim, span in zip(cells.dims, cells.spans, strict=True):
        shape = [1] * tensor.dim()
        shape[dim] = tensor.shape[dim]
        numbers = torch.arange(float(tensor.shape[dim])).reshape(shape).expand(tensor.shape).contiguous()
        args = [numbers if part is tensor else part for part in call[0]]
        out = func(*args, **{key: numbers if part is tensor else part for key, part in call[1].items()})
        if not isinstance(out, Tensor):
            out = next(iter(_tensors(out)), None)
        if out is None or out.numel() == 0 or out.dim() == 0:
            return None
        vary = [at for at in range(out.dim()) if out.shape[at] > 1 and bool((out.diff(dim=at) != 0).any())]
        if len(vary) != 1:
            return None
        (at,) = vary
        line = out.movedim(at, 0).flatten(1)[:, 0]
        step = float(line[1] - line[0])
        if step <= 0 or bool((line.diff() != step).any()):
            return None
        first = float(line[0])
        dims.append(at)
        spans.append(Span(span.low + first * span.step, span.high + first * span.step, span.step * step))
    return Cells((dims[0], dims[1]), (spans[0], spans[1])) if dims[0] != dims[1] else None
