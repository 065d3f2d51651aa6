#!/usr/bin/env python3
"""Draw docs/registration.png: what layers see of a dot, in equal tiles and where their cells lie.

    scripts/registration.py [FILE]

Networks are untrained, and images have 448 pixels. A map is how much a dot changes the layer's activations, the norm
over channels, of several dots one by one, as the mean over networks of different seeds. Printed is how far the maps'
centroids lie from the dots on average.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torchvision.models import get_model

import camtrain
from camtrain.cam.stretch import Placement, upsample

NETWORKS = {
    "ResNet-18": ("resnet18", "layer4"),
    "VGG-11": ("vgg11", "features"),
    "MobileNetV3 small": ("mobilenet_v3_small", "features"),
    "EfficientNet-Lite0 (timm)": ("timm/tf_efficientnet_lite0", "bn2"),
    "ViT-tiny (timm)": ("timm/vit_tiny_patch16_224", "blocks"),
}
SIZE, SEEDS = 448, 3
PLACES = [(row, column) for row in range(176, 272, 32) for column in range(176, 272, 32)]
SHOWN = 3  # which of these
DOT = 16


def main() -> None:
    torch.set_grad_enabled(False)
    figure, axes = plt.subplots(2, len(NETWORKS), figsize=(2.3 * len(NETWORKS), 5.2), layout="constrained")
    for (title, (name, layer)), (above, below) in zip(NETWORKS.items(), axes.T, strict=True):
        changes, cells = response(name, layer)
        found = {"equal tiles": (above, None), "registered": (below, cells)}
        for drawn, (axis, placement) in found.items():
            stretched = upsample(changes, (SIZE, SIZE), placement)
            down, right = apart(stretched)
            print(f"{title:28s}{drawn:12s} {down:+6.1f} px down {right:+6.1f} px right of the dots")
            axis.imshow(stretched[SHOWN], cmap="inferno")
            axis.plot(PLACES[SHOWN][1], PLACES[SHOWN][0], "o", color="cyan", markerfacecolor="none", markersize=9)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(f"{title}\n{drawn}", fontsize=8)
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "registration.png"
    figure.savefig(place, dpi=110)


def response(name: str, layer: str) -> tuple[Tensor, Placement]:
    """Maps of every dot, (dots, height, width), and where their cells lie."""
    images = torch.zeros(len(PLACES), 3, SIZE, SIZE)
    for image, (row, column) in zip(images, PLACES, strict=True):
        image[:, row - DOT // 2 : row + DOT // 2 + 1, column - DOT // 2 : column + DOT // 2 + 1] = 2
    changes = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        net = camtrain.capture(made(name).eval(), layer)
        empty = net.grids(images[:1] * 0)[1][layer]
        changes.append((net.grids(images)[1][layer] - empty).norm(dim=1))
    relative = [change / change.amax((1, 2), keepdim=True) for change in changes]
    mean = torch.stack(relative).mean(0)
    return mean - mean.amin((1, 2), keepdim=True), net.cells(images)


def made(name: str) -> Any:
    if not name.startswith("timm/"):
        return get_model(name)
    import timm

    sized = {"img_size": SIZE} if "vit_" in name else {}
    return timm.create_model(name.removeprefix("timm/"), **sized)


def apart(stretched: Tensor) -> tuple[float, float]:
    """How far the centroid of the upper half of each map lies from its dot, on average, down and right."""
    mass = (stretched - stretched.amax((1, 2), keepdim=True) / 2).relu()
    at = torch.arange(SIZE).float()
    down, right = ((mass.sum(axis) * at).sum(1) / mass.sum((1, 2)) for axis in (2, 1))
    places = torch.tensor(PLACES).float()
    return float((down - places[:, 0]).mean()), float((right - places[:, 1]).mean())


if __name__ == "__main__":
    mpl.use("agg")
    main()
