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
from camtrain.cam.stretch import Placement, upsample
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


class Rolled(nn.Module):
    """Moves its image in a way that is not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x.roll((3, -2), (2, 3))).mean((2, 3)))
        return logits


def test_what_cannot_be_followed_is_measured() -> None:
    torch.manual_seed(0)
    net = camtrain.capture(Rolled(), "conv")
    rows, columns = net.cells(torch.zeros(1, 3, 32, 32))
    assert rows.field == math.inf
    assert (rows.step, columns.step) == (4, 4)
    assert [rows.first, columns.first] == pytest.approx([1.5 - 3, 1.5 + 2], abs=0.3)
    assert net.training
    net.registered = False
    assert net.placement(torch.zeros(1, 3, 32, 32)) is None


def test_gradients_that_contradict_the_geometry_are_believed() -> None:
    off = nn.Conv2d(3, 4, 81, stride=4, padding=40)
    with torch.no_grad():
        off.weight.zero_()[:, :, 37, 40] = 1  # three rows above the middle of the kernel
    net = camtrain.capture(nn.Sequential(off, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), "0")
    found = net.cells(torch.rand(4, 3, 32, 32))
    assert (found.rows.first, found.columns.first) == pytest.approx((-3, 0), abs=0.01)
    off.weight.data[:, :, 40, 40] = 30
    assert camtrain.capture(net.backbone, "0").cells(torch.rand(4, 3, 32, 32)).rows == (0, 4, 81)
