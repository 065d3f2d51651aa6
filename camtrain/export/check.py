"""Whether an exported network computes what the network does."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.head import Head
from camtrain.cam.make import ClassMaps
from camtrain.cam.routes import GradientRoute
from camtrain.export.formats import Runner
from camtrain.export.network import MapKind
from camtrain.networks.capture import Captured

TOLERANCE = 1e-4


class Difference(NamedTuple):
    """Of an exported network from the network; largest over images."""

    logits: float  # in parts of the largest logit, or of 1 if that is more
    maps: float  # in parts of the largest absolute value of the map before ReLU

    @property
    def small(self) -> bool:
        """Whether both are within :data:`TOLERANCE`; nan is not."""
        return self.logits <= TOLERANCE and self.maps <= TOLERANCE


def eager_maps(network: Captured, images: Tensor, numbers: Tensor, kind: MapKind) -> tuple[Tensor, Tensor]:
    """Logits, and the map of one class of each image before ReLU, by torch's own differentiation.

    Args:
        network: in evaluation mode.
        images: (batch, channels, height, width), 0..1.
        numbers: (batch,) int64, of the classes.
        kind: which maps.
    """
    with torch.enable_grad():
        logits, grids = network.grids(network.normalised(images))
        made = ClassMaps(logits, grids[network.layer], numbers, kind.score, Head(GradientRoute.autograd))
        maps = made.map(kind.method)
    return logits.detach(), maps.detach()


def difference(network: Captured, run: Runner, images: Tensor, kind: MapKind) -> Difference:
    """How far a file is from the network.

    Args:
        network: in evaluation mode, in float32.
        run: the file; takes bytes if it was made for them.
        images: (batch, channels, height, width), as the file takes them: uint8, or float32 of 0..1.
        kind: which maps. A map of the predicted class is compared with that of the class which the file predicts.
    """
    logits, _, maps = run(images)
    pixels = images.float() / 255 if images.dtype is torch.uint8 else images
    classes = logits.shape[1]
    if kind.all_classes:
        pairs = [(maps[:, number], torch.full((len(images),), number)) for number in range(classes)]
    else:
        own = logits.argmax(1) if kind.number is None else torch.full((len(images),), kind.number)
        pairs = [(maps, own)]
    found = []
    for theirs, numbers in pairs:
        exact, whole = eager_maps(network, pixels, numbers, kind)
        peak = whole.abs().amax((1, 2)).clamp_min(torch.finfo(whole.dtype).tiny)
        found.append(
            (
                (logits - exact).abs().max() / exact.abs().max().clamp_min(1),
                ((theirs - whole.relu()).abs().amax((1, 2)) / peak).max(),
            )
        )
    return Difference(*(float(torch.stack(parts).max()) for parts in zip(*found, strict=True)))


def noise(shape: tuple[int, int, int], count: int) -> Tensor:
    """Images of noise at every scale, (count, *shape) uint8: smooth ones reach deeper than fine noise alone."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(count, *shape)
    for cells in (1, 2, 4, 8, 16, 64):
        drawn = torch.rand(count, shape[0], cells, cells, generator=generator) - 0.5
        total += torch.nn.functional.interpolate(drawn, shape[1:], mode="bilinear", align_corners=False)
    return ((total / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8)
