"""Where cells lie: against what gradients depend on, for any chain of layers and for whole networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import get_model

import camtrain
from camtrain.cam.stretch import Placement, tiles, upsample
from camtrain.networks.geometry import followed, measured
from camtrain.networks.small_resnet import SmallResNet

SIZE = 48


class Same(nn.Module):
    """A convolution that pads itself as TensorFlow does: less in front than behind."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, kernel, 2)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.conv.kernel_size[0]
        more = [max((math.ceil(side / 2) - 1) * 2 + kernel - side, 0) for side in (x.shape[3], x.shape[2])]
        return self.conv(functional.pad(x, [part for by in more for part in (by // 2, by - by // 2)]))


class Branches(nn.Module):
    """Two ways with different centres, a gate, and channels that are last for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.line = nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 2, 2), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.one(x), self.other(x)], 1).sum(1, keepdim=True)
        gated = joined * (1 + joined.mean((2, 3), keepdim=True).sigmoid().detach())
        rows: Tensor = self.line(gated.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return rows


class Merged(nn.Module):
    """Four cells become one by slices, as in Swin."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return torch.cat(parts, 1).sum(1, keepdim=True)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "3 x 3": lambda: nn.Conv2d(1, 1, 3, padding=1),
    "3 x 3, stride 2": lambda: nn.Conv2d(1, 1, 3, 2, 1),
    "4 x 4, stride 2": lambda: nn.Conv2d(1, 1, 4, 2, 1),
    "5 x 3, stride 2 x 1": lambda: nn.Conv2d(1, 1, (5, 3), (2, 1), (2, 0)),
    "dilated": lambda: nn.Conv2d(1, 1, 3, padding="same", dilation=2),
    "average": lambda: nn.AvgPool2d(2),
    "half": lambda: nn.AdaptiveAvgPool2d((SIZE // 4, SIZE // 4)),
    "same, 3": lambda: Same(3),
    "same, 5": lambda: Same(5),
    "branches": Branches,
    "merged": Merged,
    "larger": lambda: nn.Upsample(scale_factor=2, mode="nearest"),
}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(sorted(set(LAYERS) - {"half"})), min_size=1, max_size=4))
def test_a_cell_depends_on_the_pixels_of_its_field(names: list[str]) -> None:
    trunk = nn.Sequential(*(LAYERS[name]() for name in names)).double()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.abs_()
    image = torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    try:
        grid = trunk(image)
    except RuntimeError:  # an odd number of cells
        reject()
    assume(min(grid.shape[2:]) >= 3)
    placed = geometry(trunk, image)
    row, column = grid.shape[2] // 2, grid.shape[3] // 2
    (gradient,) = torch.autograd.grad(grid[0, 0, row, column], image)
    seen = gradient[0, 0]
    for axis, at, pixels in zip(placed, (row, column), (seen.any(1), seen.any(0)), strict=True):
        centre, reach = axis.first + axis.step * at, (axis.field - 1) / 2
        first, last = (int(end) for end in pixels.nonzero().aminmax())
        if "larger" in names:  # whose cells lie between those below, so that the field is known to half a cell
            assert abs(centre - (first + last) / 2) <= axis.step * 2 ** names.count("larger") / 2
        else:
            assert [max(0.0, centre - reach), min(SIZE - 1.0, centre + reach)] == pytest.approx([first, last])


def geometry(trunk: nn.Module, image: Tensor) -> Placement:
    found = followed(lambda images: {"trunk": trunk(images)}, image.detach())["trunk"]
    assert found is not None
    return found


def test_equal_windows() -> None:
    cells = geometry(LAYERS["half"]().double(), torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64))
    assert cells.rows == (1.5, 4.0, 4.0)


NETWORKS = {  # the layer, the images' size, and how far the middle cells are from equal tiles, in cells
    "resnet18": ("layer4", 224, -0.484),
    "vgg11": ("features", 128, 0.0),
    "mobilenet_v3_small": ("features", 224, -0.484),
    "efficientnet_b0": ("features", 224, -0.484),
    "squeezenet1_0": ("features", 192, 0.094),
    "mnasnet0_5": ("layers", 224, -0.484),
    "regnet_y_400mf": ("trunk_output", 160, -0.484),
    "timm/tf_mobilenetv3_small_100": ("blocks", 224, 0.484),
    "timm/convnext_atto": ("norm_pre", 160, 0.0),
    "timm/vit_tiny_patch16_224": ("blocks", 64, 0.0),
    "swin_t": ("features.3", 64, 0.0),
    "small_resnet": ("layer3", 64, 0.0),
    "small_resnet of former versions": ("layer3", 64, -0.4375),
}


def network(name: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("small"):
        return SmallResNet(5, tiles="former" not in name)
    if name.startswith("timm/"):
        sized = {"img_size": size} if "vit" in name else {}
        made: nn.Module = pytest.importorskip("timm").create_model(name[5:], num_classes=5, **sized)
        return made
    return get_model(name, num_classes=5)


@pytest.mark.parametrize("name", NETWORKS)
def test_centres_are_those_of_input_gradients(name: str) -> None:
    layer, size, expected = NETWORKS[name]
    net = camtrain.capture(network(name, size).eval(), layer)
    image = torch.zeros(1, 3, size, size)
    followed, found = net.cells(image), measured(lambda images: net.grids(images)[1][layer], image)
    for ours, theirs in zip(followed, found, strict=True):
        cells = round(size / theirs.step)
        assert ours.offset(size, cells) / ours.step == pytest.approx(expected, abs=0.001)
        assert abs(ours.offset(size, cells) - theirs.offset(size, cells)) < 0.1 * ours.step
        assert math.isinf(ours.field) is ("vit" in name or "swin" in name), "attention looks everywhere"


@pytest.mark.parametrize("tiles", [True, False])
def test_the_peak_follows_a_dot(tiles: bool) -> None:
    at = torch.arange(16, 48)
    places = torch.stack([at, 16 + 5 * at % 32], 1)  # each place in a stride alike
    dot = 1 if tiles else 2  # so that none is as far from one cell as from the next
    images = torch.zeros(len(places), 3, 64, 64)
    for image, (row, column) in zip(images, places.tolist(), strict=True):
        image[:, row : row + dot, column : column + dot] = 1
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for seed in range(24):
        torch.manual_seed(seed)
        net = camtrain.capture(SmallResNet(5, tiles=tiles).eval(), "layer3")
        with torch.no_grad():
            change = (net(images).activations - net(images[:1] * 0).activations).norm(dim=1)
        for registered, errors in found.items():
            stretched = upsample(change, (64, 64), net.cells(images) if registered else None)
            highest = stretched > stretched.amax((1, 2), keepdim=True) * (1 - 1e-5)
            peaks = [
                (highest.any(2 - axis) * torch.arange(64)).sum(1) / highest.any(2 - axis).sum(1) for axis in (0, 1)
            ]
            errors.append((torch.stack(peaks, 1) - places - (dot - 1) / 2).mean(0))
    errors, drawn_in_tiles = (torch.stack(each).mean(0) for each in found.values())
    assert bool((errors.abs() < 0.5).all())
    assert bool((drawn_in_tiles > 3).all()) is not tiles


class Shift(torch.autograd.Function):
    """Moves rows down by two."""

    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        return x.roll(2, 2)

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        return gradient.roll(-2, 2)


def set_lower(x: Tensor) -> Tensor:
    """The same by assignment."""
    moved = torch.zeros_like(x)
    moved[:, :, 2:] = x[:, :, :-2]
    return moved


class Behind(nn.Module):
    """A network whose layer `last` is what a function makes of images."""

    def __init__(self, *trunk: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.trunk, self.last, self.head = trunk, nn.Identity(), nn.LazyLinear(3)
        self.layers = nn.ModuleList(part for part in trunk if isinstance(part, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.trunk:
            x = part(x)
        logits: Tensor = self.head(self.last(x).mean((2, 3)))
        return logits


def level(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """With equal weights, so that the middle of a field is also the centroid of gradients; its channels are odd."""
    nn.init.constant_(layer.weight, 0.1)
    return layer


def conv(kernel: int, stride: int, padding: int = 0, channels: int = 3) -> nn.Module:
    return level(nn.Conv2d(channels, 7, kernel, stride, padding))


BEFORE = torch.arange(16).roll(2)

UNKNOWN: dict[str, tuple[list[Callable[[Tensor], Tensor]], tuple[float, float], float]] = {
    "image rolled": ([lambda x: x.roll((3, -2), (2, 3)), conv(3, 1, 1)], (-3, 2), 1),
    "grid rolled": ([conv(4, 4), lambda x: x.roll(5, 2)], (1.5 - 20, 1.5), 4),
    "added to the grid": ([conv(4, 4), lambda x: 0.01 * x + x.roll(4, 2)], (1.5 - 16, 1.5), 4),
    "function of one's own": ([conv(4, 4), Shift.apply], (1.5 - 8, 1.5), 4),
    "assigned": ([conv(4, 4), lambda x: 0.01 * x + set_lower(x)], (1.5 - 8, 1.5), 4),
    "back to a former size": ([conv(3, 2, 1), conv(3, 2, 1, 7), level(nn.ConvTranspose2d(7, 7, 2, 2))], (-1, -1), 2),
    "taken by its own numbers": ([conv(4, 4), lambda x: x[:, :, (x[0, 0, :, 0] > 9) * 0 + BEFORE]], (1.5 - 8, 1.5), 4),
}
"""Trunks, with the centres of their first cells and their steps."""


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_followed_is_measured(name: str) -> None:
    torch.manual_seed(0)
    trunk, first, step = UNKNOWN[name]
    net = camtrain.capture(Behind(*trunk), "last")
    rows, columns = net.cells(torch.zeros(1, 3, 64, 64))
    assert (rows.step, columns.step, rows.field) == (step, step, math.inf)
    assert (rows.first, columns.first) == pytest.approx(first, abs=0.02)
    assert net.training
    net.registered = False
    assert net.placement(torch.zeros(1, 3, 64, 64)) is None


def test_where_gradients_say_nothing() -> None:
    table = torch.rand(256, 3)
    looked_up = camtrain.capture(
        Behind(lambda x: table[(x[:, 0] * 255).long()].permute(0, 3, 1, 2), conv(4, 4)), "last"
    )
    images = torch.rand(2, 3, 32, 32)
    assert looked_up.cells(images) == tiles((32, 32), (8, 8))
    assert camtrain.maps(looked_up, images, stretched=True).isfinite().all()

    images = torch.zeros(2, 3, 32, 32)
    images[:, :, 0, 0] = 2
    alive_in_a_corner = nn.Conv2d(3, 4, 81, stride=4, padding=40)
    with torch.no_grad():
        alive_in_a_corner.weight.zero_()[:, :, 40, 40] = 1
        assert alive_in_a_corner.bias is not None
        alive_in_a_corner.bias.fill_(-1)
    for known in (True, False):
        trunk = [alive_in_a_corner, nn.ReLU(), *([] if known else [lambda x: x.roll(0, 2)])]
        found = camtrain.capture(Behind(*trunk), "last").cells(images)
        assert found.rows == ((0, 4, 81) if known else (1.5, 4, math.inf))


def test_parts_lie_where_they_were() -> None:
    image = torch.rand(1, 1, 64, 64)
    for dim in (2, 3):
        parts = followed(
            lambda x, dim=dim: {  # type: ignore[misc]
                "halves": x.chunk(2, dim)[1],
                "other": x.tensor_split(2, dim=dim)[1],
                "first": x.split([10, 54], dim)[0],
                "rest": x.split([10, 54], dim)[1],
                "line": x.unbind(dim)[5],
            },
            image,
        )
        assert parts.pop("line") is None
        for name, cells in parts.items():
            assert cells is not None
            assert cells[dim - 2].first == {"halves": 32, "other": 32, "first": 0, "rest": 10}[name]
            assert cells[3 - dim].first == 0


@pytest.mark.parametrize(
    ("mode", "factor", "first"),
    [
        *[("nearest", 0.25, 0.0), ("nearest-exact", 0.25, 2.0), ("bilinear", 0.25, 1.5), ("nearest", 1 / 3, 0.0)],
        *[
            ("nearest-exact", 1 / 3, 1.0),
            ("nearest", 2 / 3, -0.25),
            ("nearest-exact", 2 / 3, 0.25),
            ("nearest", 2, -0.25),
        ],
    ],
)
def test_resized_grids_are_where_gradients_say(mode: str, factor: float, first: float) -> None:
    trunk = nn.Upsample(scale_factor=factor, mode=mode)
    image = torch.rand(2, 1, 96, 96)
    rows, columns = geometry(trunk, image[:1])
    assert rows[:2] == columns[:2] == pytest.approx((first, 1 / factor))
    seen = measured(trunk, image)
    assert rows[:2] == pytest.approx(seen.rows[:2])


def test_gradients_that_contradict_the_geometry_are_believed() -> None:
    off = nn.Conv2d(3, 4, 81, stride=4, padding=40)
    with torch.no_grad():
        off.weight.zero_()[:, :, 37, 40] = 1  # three rows above the middle of the kernel
    net = camtrain.capture(nn.Sequential(off, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), "0")
    found = net.cells(torch.rand(4, 3, 32, 32))
    assert (found.rows.first, found.columns.first) == pytest.approx((-3, 0), abs=0.01)
    off.weight.data[:, :, 40, 40] = 30
    assert camtrain.capture(net.backbone, "0").cells(torch.rand(4, 3, 32, 32)).rows == (0, 4, 81)
