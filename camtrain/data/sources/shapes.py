"""Generated images of geometric objects in clutter, with exact masks: the embedded default data set.

Each image shows one object of one of eight classes, small, rotated, in any colour, on a textured ground among
distractors: fragments (bars, blobs, elbows) that belong to no class and are drawn like the objects. The class must be
read from the outline alone, because ground, colour, size, place, angle and distractors are drawn independently of it.
With `objects` above 1 an image shows several, each in a quarter of its own: a multi-label set.

Everything is a function of the seed and the numbers of images, channels and pixels; nothing is downloaded or stored.
"""

from __future__ import annotations

import math
from contextlib import closing

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camtrain.config.schema import ShapesConfig
from camtrain.config.validate import image_shape
from camtrain.data.images import StoredImages, in_memory
from camtrain.data.prefetch import prefetched

CLASSES = ("disc", "ring", "square", "triangle", "star", "cross", "crescent", "heart")

Size = tuple[int, int]
"""Height and width in pixels."""

_CHUNK = 250  # images drawn at once by a thread: part of what defines an image

_AT_ONCE = 2**27  # values of images drawn at once: bounds the memory, which takes some 30 bytes for each


def splits(config: ShapesConfig, seed: int, /) -> tuple[StoredImages, StoredImages]:
    """Training and validation images."""
    drawn = generate(config.train, image_shape(config), seed, 0, config.objects)
    return in_memory(CLASSES, *drawn), validation(config, seed)


def validation(config: ShapesConfig, seed: int, /) -> StoredImages:
    """The validation images alone, the same as beside training images."""
    return in_memory(CLASSES, *generate(config.val, image_shape(config), seed, 1, config.objects))


def _outline(kind: str, u: Tensor, v: Tensor) -> Tensor:
    """Positive inside a shape of unit radius at (u, v), negative outside; near the edge about the distance from it."""
    if kind == "disc":
        return 0.85 - torch.hypot(u, v)
    if kind == "ring":
        return 0.2 - (torch.hypot(u, v) - 0.72).abs()
    if kind == "square":
        return 0.76 - torch.maximum(u.abs(), v.abs())
    if kind == "triangle":
        side = math.sqrt(3) / 2
        return 0.5 - torch.maximum(torch.maximum(side * u - 0.5 * v, -side * u - 0.5 * v), v)
    if kind == "star":
        # Distance inwards from the edge between a tip (radius 1) and the next notch (radius 0.42).
        half = math.pi / 5
        radius, angle = torch.hypot(u, v), torch.atan2(v, u)
        beta = (torch.remainder(angle, 2 * half) - half).abs()  # 0 at a notch, half a sector at a tip
        x, y = radius * torch.cos(beta), radius * torch.sin(beta)
        tip_x, tip_y, notch = math.cos(half), math.sin(half), 0.42
        edge_x, edge_y = tip_x - notch, tip_y
        length = math.hypot(edge_x, edge_y)
        return (edge_x * y - edge_y * (x - notch)) / length
    if kind == "cross":
        return torch.maximum(
            torch.minimum(0.28 - u.abs(), 0.92 - v.abs()), torch.minimum(0.28 - v.abs(), 0.92 - u.abs())
        )
    if kind == "crescent":
        return torch.minimum(0.92 - torch.hypot(u, v), torch.hypot(u - 0.45, v) - 0.68)
    if kind == "heart":
        x, y = u * 1.15, v * 1.15 + 0.1
        lobes = (x * x + y * y - 0.6) ** 3 - x * x * y * y * y
        return torch.where(lobes < 0, (-lobes).clamp_min(0).pow(1 / 3), -lobes.clamp_min(0).pow(1 / 3)) * 0.5
    if kind == "bar":
        return torch.minimum(0.95 - u.abs(), 0.22 - v.abs())
    if kind == "blob":
        angle = torch.atan2(v, u)
        return 0.5 + 0.2 * torch.sin(2 * angle) - torch.hypot(u, v)
    if kind == "elbow":
        return torch.maximum(
            torch.minimum(0.22 - (u + 0.5).abs(), 0.8 - v.abs()), torch.minimum(0.22 - (v + 0.6).abs(), 0.7 - u.abs())
        )
    raise ValueError(f"no outline called {kind}")


_DISTRACTORS = ("bar", "blob", "elbow")


def _coverage(kinds: tuple[str, ...], kind: Tensor, centre: Tensor, radius: Tensor, turn: Tensor, size: Size) -> Tensor:
    """Share of each pixel that the shape covers, (batch, *size) in 0..1, with a one-pixel soft edge."""
    rows, columns = (torch.arange(edge, dtype=torch.float32) + 0.5 for edge in size)
    dx = columns[None, None, :] - centre[:, 0, None, None]
    dy = rows[None, :, None] - centre[:, 1, None, None]
    cos, sin, r = turn.cos()[:, None, None], turn.sin()[:, None, None], radius[:, None, None]
    u, v = (cos * dx + sin * dy) / r, (cos * dy - sin * dx) / r
    inside = torch.empty_like(u)
    for number, name in enumerate(kinds):
        rows = (kind == number).nonzero(as_tuple=True)[0]
        if len(rows):
            inside[rows] = _outline(name, u[rows], v[rows])
    return (inside * r + 0.5).clamp(0, 1)


def _half_plane(through: Tensor, normal: Tensor, size: Size) -> Tensor:
    """Coverage of the plane on one side of a line: a second ground with a long straight edge.

    Args:
        through: (batch, 2) a point of the line, in shorter edges of the image.
        normal: (batch,) the direction of the plane, in radians.
        size: of the image.
    """
    short = min(size)
    rows, columns = ((torch.arange(edge, dtype=torch.float32) + 0.5) / short for edge in size)
    dx = columns[None, None, :] - through[:, 0, None, None]
    dy = rows[None, :, None] - through[:, 1, None, None]
    return (short * (dx * normal.cos()[:, None, None] + dy * normal.sin()[:, None, None]) + 0.5).clamp(0, 1)


def _texture(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Coloured noise of three scales, (count, *shape), zero mean."""
    channels, *size = shape
    short = min(size)
    ground = torch.zeros(count, *shape)
    for cells, strength in ((4, 0.10), (max(4, short // 5), 0.07), (short, 0.03)):
        grid = [round(cells * edge / short) for edge in size]
        noise = torch.randn(count, channels, *grid, generator=generator)
        ground += strength * interpolate(noise, size, mode="bilinear", align_corners=False)
    return ground


def _draw(target: Tensor, shape: tuple[int, int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images and masks of targets (batch,), one object each, or (batch, classes) of 0 and 1, one of each class."""
    count, channels, size = len(target), shape[0], shape[1:]
    short, extent = min(size), torch.tensor([size[1], size[0]])

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    ground = uniform(count, 1, 1, 1, low=0.15, high=0.45) + 0.15 * (uniform(count, channels, 1, 1) - 0.5)
    grain = _texture(count, shape, generator)
    mirrored = 0.5 * grain.flip(2, 3)
    image = ground + grain

    def paint(cover: Tensor) -> None:
        # Lighter than the ground by a random amount in each channel, of any hue; the grain is the ground's, mirrored.
        lighter = uniform(count, 1, 1, 1, low=0.2, high=0.5) * (0.4 + 1.2 * uniform(count, channels, 1, 1))
        image.lerp_(ground + lighter + mirrored, cover[:, None])

    plane = _half_plane(uniform(count, 2) * (extent / short), uniform(count, high=2 * math.pi), size)
    image += 0.3 * (uniform(count, channels, 1, 1) - 0.5) * plane[:, None]
    for _ in range(6):
        present = (uniform(count) < 0.8).float()
        cover = _coverage(
            _DISTRACTORS,
            torch.randint(len(_DISTRACTORS), (count,), generator=generator),
            uniform(count, 2) * extent,
            uniform(count, low=0.08, high=0.16) * short,
            uniform(count, high=2 * math.pi),
            size,
        )
        paint(cover * present[:, None, None])

    if target.dim() == 1:
        radius = uniform(count, low=0.11, high=0.20) * short
        centre = radius[:, None] + uniform(count, 2) * (extent - 2 * radius[:, None])
        cover = _coverage(CLASSES, target, centre, radius, uniform(count, high=2 * math.pi), size)
        paint(cover)
        mask = (cover >= 0.5).to(torch.uint8)
    else:
        mask = torch.zeros(count, *size, dtype=torch.uint8)
        quarters = uniform(count, 4).argsort(1)  # each object has a quarter of the image to itself
        for number in range(int(target.sum(1).max())):
            present = target.sum(1) > number
            kind = (target.cumsum(1) <= number).sum(1).clamp_max(len(CLASSES) - 1)
            radius = uniform(count, low=0.11, high=0.20) * short
            corner = torch.stack([quarters[:, number] % 2, quarters[:, number] // 2], 1) * (extent / 2)
            centre = corner + radius[:, None] + uniform(count, 2) * (extent / 2 - 2 * radius[:, None])
            cover = _coverage(CLASSES, kind, centre, radius, uniform(count, high=2 * math.pi), size)
            cover = cover * present[:, None, None]
            paint(cover)
            mask = torch.where(cover >= 0.5, (kind + 1)[:, None, None].to(torch.uint8), mask)
    image += 0.05 * torch.randn(image.shape, generator=generator)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8), mask


def _several(count: int, objects: int, generator: torch.Generator) -> Tensor:
    """Targets (count, classes) int64 of 0 and 1: from 1 to `objects` different classes in each image."""
    wanted = torch.randint(1, objects + 1, (count, 1), generator=generator)
    rank = torch.rand(count, len(CLASSES), generator=generator).argsort(1).argsort(1)
    return (rank < wanted).long()


def generate(
    count: int, shape: tuple[int, int, int], seed: int, split: int, objects: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw `count` images: one object each, classes in turn, or 1 to `objects` of different classes.

    Args:
        count: number of images.
        shape: channels, height and width of each.
        seed: of everything that is drawn.
        split: 0 training, 1 validation: different images of the same seed.
        objects: most objects in an image.

    Returns:
        Images (count, *shape) uint8; targets (count,) int64, or (count, classes) of 0 and 1 where there may be
        several; masks (count, height, width) uint8, 1 on the object, or its class number plus 1.
    """
    stream = (seed * 2 + split) * 1_000_003
    target = torch.arange(count) % len(CLASSES)
    if objects > 1:
        target = _several(count, objects, torch.Generator().manual_seed(stream + 1))
    images = torch.empty(count, *shape, dtype=torch.uint8)
    masks = torch.empty(count, *shape[1:], dtype=torch.uint8)

    def draw(start: int) -> None:
        rows = slice(start, min(start + _CHUNK, count))
        generator = torch.Generator().manual_seed(stream + start)
        images[rows], masks[rows] = _draw(target[rows], shape, generator)

    # Chunks side by side, each in one thread, are faster than one after the other in several.
    threads = max(1, min(torch.get_num_threads(), _AT_ONCE // (_CHUNK * math.prod(shape))))
    with closing(prefetched(draw, range(0, count, _CHUNK), threads, threads)) as drawn:
        for _ in drawn:
            pass
    return images, target, masks
