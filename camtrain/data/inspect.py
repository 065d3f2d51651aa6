"""What is in a data set, counted before anything is trained: classes, sizes, regions, and images that occur twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from camtrain.data.images import ImageSet, image_name, per_class
from camtrain.data.prefetch import prefetched
from camtrain.regions import has_object

DUPLICATES = "duplicates.csv"
HEADING = ("training", "validation", "identical", "same class")

CHUNK = 64  # images scanned at once

BANDS = 4
"""Parts of a fingerprint. Two that differ in fewer bits than there are parts have a part in common."""


class Scan(NamedTuple):
    """What was found by looking at every image of a split; lists in the order of the images."""

    digests: list[bytes]
    fingerprints: list[int | None]  # None for an image without any structure
    has_object: Tensor  # (images,) bool


class Summary(NamedTuple):
    """Figures of one split."""

    per_class: dict[str, int]
    images: int
    without_class: int
    sizes: tuple[tuple[int, int], ...]  # width and height of the smallest, the median and the largest image by area
    with_region: int
    cut_off: int  # images with a region whose objects all lie outside what is seen
    skipped: int


class Duplicate(NamedTuple):
    """Two images that are identical, or look alike."""

    first: str
    second: str
    identical: bool  # every pixel is equal; otherwise the fingerprints are close
    same_class: bool

    def row(self) -> list[str]:
        """As a row under :data:`HEADING`."""
        return [self.first, self.second, *("yes" if value else "no" for value in (self.identical, self.same_class))]


def scan(image_set: ImageSet, threads: int) -> Scan:
    """Look at every image. Splits that are to be compared must hold images that were fitted alike."""
    digests: list[bytes] = []
    fingerprints: list[int | None] = []
    objects = []
    numbers = range(len(image_set.targets))
    chunks = [numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK)]
    with closing(prefetched(image_set.gather, chunks, threads, threads + 1)) as made:
        bar = tqdm(made, "scanning", len(chunks), unit_scale=CHUNK, unit="image", disable=None, leave=False)
        for _, (images, regions) in bar:
            digests += [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images]
            fingerprints += fingerprint(images)
            none = torch.zeros(len(images), dtype=torch.bool)
            objects.append(none if regions is None else has_object(regions))
    return Scan(digests, fingerprints, torch.cat(objects))


def fingerprint(images: Tensor) -> list[int | None]:
    """64 bits of each image that survive a change of size, compression and brightness: whether each of 8 x 8 cells is
    brighter than its right neighbour (difference hash). None where no cell differs.

    Args:
        images: (batch, channels, height, width) uint8.
    """
    grey = images.float().mean(1, keepdim=True)
    small = interpolate(grey, (8, 9), mode="bilinear", antialias=True, align_corners=False)[:, 0]
    brighter = (small[:, :, 1:] > small[:, :, :-1]).flatten(1)
    flat = (small.amax((1, 2)) - small.amin((1, 2))) < 1
    bits = brighter.long().tolist()
    return [None if empty else int("".join(map(str, row)), 2) for row, empty in zip(bits, flat.tolist(), strict=True)]


def summarise(image_set: ImageSet, scanned: Scan) -> Summary:
    """Figures of a split that was scanned."""
    one_class = image_set.targets.dim() == 1
    present = per_class(image_set.targets, len(image_set.classes))
    with_region = int(image_set.has_region.sum())
    by_area = image_set.sizes[image_set.sizes.prod(1).argsort()].tolist()
    chosen = (by_area[0], by_area[len(by_area) // 2], by_area[-1])
    return Summary(
        dict(zip(image_set.classes, present, strict=True)),
        len(image_set.targets),
        0 if one_class else int((image_set.targets.sum(1) == 0).sum()),
        tuple((width, height) for width, height in chosen),
        with_region,
        max(0, with_region - int(scanned.has_object.sum())),
        len(image_set.skipped),
    )


def find_duplicates(first: ImageSet, second: ImageSet, scans: tuple[Scan, Scan]) -> list[Duplicate]:
    """Images of the second split that are in the first as well, each with its closest one; identical ones first."""
    found = []
    known: dict[bytes, int] = {}
    by_band: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number in reversed(range(len(first.targets))):
        known[scans[0].digests[number]] = number
        mark = scans[0].fingerprints[number]
        if mark is not None:
            for band in _bands(mark):
                by_band.setdefault(band, []).append((mark, number))
    for number, (digest, mark) in enumerate(zip(scans[1].digests, scans[1].fingerprints, strict=True)):
        other = known.get(digest)
        if other is None and mark is not None:
            near = (((mark ^ seen).bit_count(), at) for band in _bands(mark) for seen, at in by_band.get(band, ()))
            distance, closest = min(near, default=(BANDS, -1))
            other = closest if distance < BANDS else None
        if other is not None:
            same_class = torch.equal(first.targets[other], second.targets[number])
            names = image_name(first, other), image_name(second, number)
            found.append(Duplicate(*names, digest in known, same_class))
    return sorted(found, key=lambda duplicate: not duplicate.identical)


def _bands(mark: int) -> list[tuple[int, int]]:
    """A fingerprint's 64 bits in parts, each with its number."""
    width = 64 // BANDS
    return [(band, mark >> width * band & (1 << width) - 1) for band in range(BANDS)]


def describe(summaries: Mapping[str, Summary], duplicates: Sequence[Duplicate], shown: int = 5) -> str:
    """The figures of the splits as an aligned table, and what may be wrong with them.

    Args:
        summaries: of each split by its name, the training split first.
        duplicates: images that are in both.
        shown: how many of these are named.
    """
    rows = list(_rows(summaries))
    width = max(12, *(len(label) for label, *_ in rows))
    lines = [f"{label:<{width}}" + "".join(f"  {cell:>12}" for cell in cells) for label, *cells in rows]
    return "\n".join([*lines, "", *_remarks(summaries, duplicates, shown)])


def _rows(summaries: Mapping[str, Summary]) -> Iterator[tuple[str, ...]]:
    """A label and a cell for each split."""
    parts = list(summaries.values())
    yield "", *summaries
    for name in parts[0].per_class:
        yield name, *(str(part.per_class[name]) for part in parts)
    yield ("",)
    yield "images", *(str(part.images) for part in parts)
    if any(part.without_class for part in parts):
        yield "no class", *(str(part.without_class) for part in parts)
    yield "mask or box", *(str(part.with_region) for part in parts)
    if any(part.cut_off for part in parts):
        yield "object cut off", *(str(part.cut_off) for part in parts)
    if any(part.skipped for part in parts):
        yield "left out", *(str(part.skipped) for part in parts)
    for number, label in enumerate(("smallest", "median", "largest")):
        yield label, *("x".join(map(str, part.sizes[number])) for part in parts)


def _remarks(summaries: Mapping[str, Summary], duplicates: Sequence[Duplicate], shown: int) -> Iterator[str]:
    """Classes without training images, and images that are in both splits."""
    split, training = next(iter(summaries.items()))
    missing = [name for name, count in training.per_class.items() if not count]
    if missing:
        yield f"classes that cannot be learnt, without a {split} image: {', '.join(missing)}"
    identical = sum(duplicate.identical for duplicate in duplicates)
    alike = len(duplicates) - identical
    yield f"in both splits: {identical} identical image{'s' * (identical != 1)}, {alike} that look alike"
    for duplicate in duplicates[:shown]:
        what = "identical" if duplicate.identical else "look alike"
        other = "" if duplicate.same_class else ", of different classes"
        yield f"  {what}{other}: {duplicate.first} and {duplicate.second}"
    if len(duplicates) > shown:
        yield f"  and {len(duplicates) - shown} more, listed in {DUPLICATES}"
