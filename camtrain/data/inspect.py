"""What is in a data set, counted before anything is trained: classes, sizes, regions, and images that occur twice."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from camtrain.data.images import ImageSet, image_name, per_class
from camtrain.data.prefetch import prefetched
from camtrain.regions import VOID

DUPLICATES = "duplicates.csv"

CHUNK = 64  # images looked at at once


class Duplicate(NamedTuple):
    """Two images that are the same, or look it."""

    first: str
    second: str
    identical: bool  # every pixel is equal, else the fingerprints are
    same_class: bool


class Overview(NamedTuple):
    """Figures of one split."""

    per_class: dict[str, int]
    images: int
    without_class: int
    sizes: tuple[tuple[int, int], ...]  # the smallest, the middle and the largest image by area, width and height
    with_region: int
    empty_regions: int  # images with a region whose objects all lie outside the middle square
    skipped: int


class Survey(NamedTuple):
    """Of each image, in order."""

    digests: list[bytes]
    fingerprints: list[int | None]  # None for an image without any structure
    has_object: Tensor  # (images,) bool


def survey(image_set: ImageSet, threads: int) -> Survey:
    """Digests and fingerprints of every image. Both splits have to be squares of the same kind."""
    digests: list[bytes] = []
    fingerprints: list[int | None] = []
    has_object = []
    numbers = range(len(image_set.targets))
    chunks = [numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK)]
    with closing(prefetched(image_set.gather, chunks, threads, threads + 1)) as made:
        bar = tqdm(made, "looking", len(chunks), unit_scale=CHUNK, unit="picture", disable=None, leave=False)
        for _, (images, regions) in bar:
            digests += [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images]
            fingerprints += fingerprint(images)
            known = torch.zeros(len(images), dtype=torch.bool)
            has_object.append(known if regions is None else ((regions > 0) & (regions < VOID)).flatten(1).any(1))
    return Survey(digests, fingerprints, torch.cat(has_object))


def fingerprint(images: Tensor) -> list[int | None]:
    """64 bits of each image that survive a change of size, compression and brightness: whether each of 8 x 8 cells is
    brighter than its right neighbour (difference hash). None where no cell differs.

    Args:
        images: (batch, 3, side, side) uint8.
    """
    grey = images.float().mean(1, keepdim=True)
    small = interpolate(grey, (8, 9), mode="bilinear", antialias=True, align_corners=False)[:, 0]
    brighter = (small[:, :, 1:] > small[:, :, :-1]).flatten(1)
    flat = (small.amax((1, 2)) - small.amin((1, 2))) < 1
    bits = brighter.long().tolist()
    return [None if empty else int("".join(map(str, row)), 2) for row, empty in zip(bits, flat.tolist(), strict=True)]


def count(images: ImageSet, looks: Survey) -> Overview:
    """Figures of a split that was looked at."""
    single = images.targets.dim() == 1
    present = per_class(images.targets, len(images.classes))
    by_area = images.sizes[images.sizes.prod(1).argsort()].tolist()
    chosen = (by_area[0], by_area[len(by_area) // 2], by_area[-1])
    return Overview(
        dict(zip(images.classes, present, strict=True)),
        len(images.targets),
        0 if single else int((images.targets.sum(1) == 0).sum()),
        tuple((width, height) for width, height in chosen),
        images.with_region,
        max(0, images.with_region - int(looks.has_object.sum())),
        len(images.skipped),
    )


def duplicates(first: ImageSet, second: ImageSet, looks: tuple[Survey, Survey]) -> list[Duplicate]:
    """Images of the first split that are in the second as well; identical ones first."""
    found = []
    known: dict[bytes, int] = {}
    # Fingerprints that differ in no more bits than there are bands less one have a band in common.
    banded: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number in reversed(range(len(first.targets))):
        known[looks[0].digests[number]] = number
        mark = looks[0].fingerprints[number]
        if mark is not None:
            for band in bands(mark):
                banded.setdefault(band, []).append((mark, number))
    for number, (digest, mark) in enumerate(zip(*looks[1][:2], strict=True)):
        other = known.get(digest)
        if other is None and mark is not None:
            near = (((mark ^ seen).bit_count(), at) for band in bands(mark) for seen, at in banded.get(band, ()))
            distance, closest = min(near, default=(BANDS, -1))
            other = closest if distance < BANDS else None
        if other is not None:
            same = torch.equal(first.targets[other], second.targets[number])
            found.append(Duplicate(image_name(first, other), image_name(second, number), digest in known, same))
    return sorted(found, key=lambda twin: not twin.identical)


BANDS = 4


def bands(mark: int) -> list[tuple[int, int]]:
    """A fingerprint's 64 bits in parts, each with its number."""
    width = 64 // BANDS
    return [(band, mark >> width * band & (1 << width) - 1) for band in range(BANDS)]


def as_csv(same: Sequence[Duplicate]) -> str:
    """All of them, a line each."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["training", "validation", "identical", "same class"])
    rows.writerows([twin.first, twin.second, *("yes" if part else "no" for part in twin[2:])] for twin in same)
    return text.getvalue()


def table(parts: Mapping[str, Overview], same: list[Duplicate], shown: int = 5) -> str:
    """The figures of both splits in words."""
    names = list(next(iter(parts.values())).per_class)
    width = max(12, *(len(name) for name in names))
    lines = [f"{'':<{width}}" + "".join(f"  {split:>12}" for split in parts)]

    def row(label: str, cells: list[str]) -> None:
        lines.append(f"{label:<{width}}" + "".join(f"  {cell:>12}" for cell in cells))

    for name in names:
        row(name, [str(part.per_class[name]) for part in parts.values()])
    lines.append("")
    row("pictures", [str(part.images) for part in parts.values()])
    if any(part.without_class for part in parts.values()):
        row("no class", [str(part.without_class) for part in parts.values()])
    row("mask or box", [str(part.with_region) for part in parts.values()])
    if any(part.empty_regions for part in parts.values()):
        row("object cut off", [str(part.empty_regions) for part in parts.values()])
    if any(part.skipped for part in parts.values()):
        row("left out", [str(part.skipped) for part in parts.values()])
    for number, label in enumerate(("smallest", "middle", "largest")):
        row(label, ["x".join(map(str, part.sizes[number])) for part in parts.values()])
    lines.append("")
    first = next(iter(parts))
    missing = [name for name in names if not parts[first].per_class[name]]
    if missing:
        lines.append(f"classes that cannot be learnt, without a {first} image: {', '.join(missing)}")
    identical = sum(twin.identical for twin in same)
    lines.append(
        f"in both splits: {identical} identical image{'s' * (identical != 1)}, {len(same) - identical} that look alike"
    )
    for twin in same[:shown]:
        what = "identical" if twin.identical else "look alike"
        other = "" if twin.same_class else ", of different classes"
        lines.append(f"  {what}{other}: {twin.first} and {twin.second}")
    if len(same) > shown:
        lines.append(f"  and {len(same) - shown} more, listed in {DUPLICATES}")
    return "\n".join(lines)
