"""What every data set is to the rest of camtrain: squares of pixels with targets and regions, by number."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from camtrain.data.decode import square
from camtrain.data.listing import Listing, Rule, Skipped


class ImageSet(Protocol):
    """One split of a data set, each image as a square: the whole of it, stretched, or its middle."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def targets(self) -> Tensor:
        """(images,) int64 class numbers, or (images, classes) int64 of 0 and 1."""

    @property
    def sizes(self) -> Tensor:
        """(images, 2) int64, width and height of what the squares show."""

    @property
    def with_region(self) -> int:
        """How many images have a mask or a box."""

    @property
    def files(self) -> Sequence[Path]:
        """Of each image; empty where they have none."""

    @property
    def side(self) -> int:
        """Edge of the squares in pixels."""

    @property
    def skipped(self) -> Sequence[Skipped]: ...

    def square(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """An image (side, side, 3) uint8 and its region (side, side) uint8, to be read only.

        Where none is known the region is None or all 0.
        """

    def gather(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images (batch, 3, side, side) uint8 and regions (batch, side, side) uint8.

        There are no regions where no image of the split has one.
        """


@dataclass
class StoredImages:
    """Squares in memory, or in a file that is mapped into it."""

    classes: Sequence[str]
    images: Tensor  # (images, 3, side, side) uint8
    targets: Tensor
    regions: Tensor | None  # (images, side, side) uint8
    sizes: Tensor
    with_region: int
    files: Sequence[Path] = ()
    skipped: Sequence[Skipped] = ()

    @property
    def side(self) -> int:
        return self.images.shape[-1]

    def square(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        image = self.images[number].permute(1, 2, 0).numpy()
        return image, None if self.regions is None else self.regions[number].numpy()

    def gather(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        # NumPy keeps the memory layout, and so copies an image as one piece.
        rows = list(numbers)
        regions = None if self.regions is None else torch.from_numpy(self.regions.numpy()[rows])
        return torch.from_numpy(self.images.numpy()[rows]), regions


def in_memory(classes: Sequence[str], images: Tensor, targets: Tensor, regions: Tensor) -> StoredImages:
    """Images that are squares already, each with a region."""
    sizes = torch.tensor([[images.shape[-1], images.shape[-2]]]).expand(len(images), 2)
    return StoredImages(classes, images, targets, regions, sizes, with_region=len(targets))


@dataclass
class DecodedImages:
    """Files that are decoded whenever they are asked for, in the thread that asks."""

    listing: Listing
    rule: Rule
    sizes: Tensor
    skipped: Sequence[Skipped] = ()
    with_region: int = field(init=False)

    def __post_init__(self) -> None:
        self.classes, self.targets = self.listing.classes, self.listing.targets
        self.files, self.side = self.listing.paths, self.rule.side
        self.with_region = sum(bool(region) for region in self.listing.regions)

    def square(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        width, height = self.sizes[number].tolist()
        return square(self.listing, number, self.rule, (width, height))

    def gather(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        images = np.empty((len(numbers), self.rule.side, self.rule.side, 3), np.uint8)
        regions = np.zeros(images.shape[:3], np.uint8)
        for at, number in enumerate(numbers):
            images[at], region = self.square(number)
            if region is not None:
                regions[at] = region
        known = torch.from_numpy(regions) if self.with_region else None
        return torch.from_numpy(images).permute(0, 3, 1, 2), known


def relabelled(images: ImageSet, classes: Sequence[str]) -> ImageSet:
    """The same images with the class numbers of another list of names, which holds all of theirs.

    Of several classes per image nothing is changed: their regions hold class numbers as well.
    """
    if list(images.classes) == list(classes) or images.targets.dim() > 1:
        return images
    numbers = torch.tensor([classes.index(name) for name in images.classes])
    other = copy.copy(images)
    other.classes, other.targets = classes, numbers[images.targets]  # type: ignore[misc]
    return other


def shows(targets: Tensor, kind: int) -> Tensor:
    """Which images show a class, (images,) bool."""
    return targets == kind if targets.dim() == 1 else targets[:, kind] == 1


def image_name(images: ImageSet, number: int) -> str:
    """What to call an image: its file, or its number where it has none."""
    return str(images.files[number]) if images.files else f"picture {number}"


def shared_files(first: ImageSet, second: ImageSet) -> set[str]:
    """Files that both splits hold."""
    return set(map(str, first.files)) & set(map(str, second.files))


def class_names(images: ImageSet, number: int) -> list[str]:
    """Names of the classes that an image shows."""
    target = images.targets[number]
    kinds = [int(target)] if target.dim() == 0 else target.nonzero().flatten().tolist()
    return [images.classes[kind] for kind in kinds]


def per_class(targets: Tensor, count: int) -> list[int]:
    """How many images show each class."""
    return [int(shows(targets, kind).sum()) for kind in range(count)]
