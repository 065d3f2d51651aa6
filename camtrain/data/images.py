"""What every data set is to the rest of camtrain: squares of pixels with targets and regions, by number."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from camtrain.data.decode import square
from camtrain.data.depth import Depth
from camtrain.data.listing import Listing, Rule, Skipped
from camtrain.data.resample import resized


class ImageSet(Protocol):
    """One split of a data set, each image as a square: all of it, stretched, or its centre."""

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
        """The file of each image; empty where they have none."""

    @property
    def side(self) -> int:
        """Edge of the squares in pixels."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Images that were left out because they could not be read."""

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of how the files were understood, a line each."""

    @property
    def depth(self) -> Depth | None:
        """What images of more than 8 bits hold and how they are scaled; None where there are none."""

    def square(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """An image (side, side, 3) uint8 and its region (side, side) uint8; neither may be written to.

        Where no region is known it is None or all 0.
        """

    def gather(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images (batch, 3, side, side) uint8 and regions (batch, side, side) uint8.

        The regions are None where no image of the split has one.
        """


Split = Listing | ImageSet
"""A split as its source gives it: files that are still to be decoded, or images."""


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
    notes: Sequence[str] = ()
    depth: Depth | None = None

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


def in_memory(classes: Sequence[str], images: Tensor, targets: Tensor, regions: Tensor | None = None) -> StoredImages:
    """Images that are squares already, all of them with a region or none."""
    sizes = _sizes_of_squares(images)
    return StoredImages(classes, images, targets, regions, sizes, with_region=0 if regions is None else len(targets))


def stretched_to(image_set: StoredImages, side: int) -> StoredImages:
    """Images without regions as squares of `side` pixels; the same object where they are that already."""
    if image_set.side == side:
        return image_set
    images = resized(image_set.images, side)
    return replace(image_set, images=images, sizes=_sizes_of_squares(images))


def _sizes_of_squares(images: Tensor) -> Tensor:
    return torch.tensor([[images.shape[-1], images.shape[-2]]]).expand(len(images), 2)


@dataclass
class DecodedImages:
    """Files that are decoded whenever they are asked for, in the thread that asks."""

    listing: Listing
    rule: Rule
    sizes: Tensor
    skipped: Sequence[Skipped] = ()
    depth: Depth | None = None
    with_region: int = field(init=False)

    def __post_init__(self) -> None:
        self.classes, self.targets = self.listing.classes, self.listing.targets
        self.files, self.notes, self.side = self.listing.paths, self.listing.notes, self.rule.side
        self.with_region = sum(bool(region) for region in self.listing.regions)

    def square(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        width, height = self.sizes[number].tolist()
        return square(self.listing, number, self.rule, (width, height))

    def gather(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        images = np.empty((len(numbers), self.rule.side, self.rule.side, 3), np.uint8)
        regions = np.zeros(images.shape[:3], np.uint8)
        for row, number in enumerate(numbers):
            images[row], region = self.square(number)
            if region is not None:
                regions[row] = region
        known = torch.from_numpy(regions) if self.with_region else None
        return torch.from_numpy(images).permute(0, 3, 1, 2), known


def relabelled(image_set: ImageSet, classes: Sequence[str]) -> ImageSet:
    """The same images with the class numbers of another list of names, which holds all of theirs.

    Where an image may show several classes nothing is changed, because its region holds class numbers as well.
    """
    if list(image_set.classes) == list(classes) or image_set.targets.dim() > 1:
        return image_set
    numbers = torch.tensor([classes.index(name) for name in image_set.classes])
    other = copy.copy(image_set)
    other.classes, other.targets = classes, numbers[image_set.targets]  # type: ignore[misc]
    return other


def shows(targets: Tensor, class_number: int) -> Tensor:
    """Which images show a class, (images,) bool."""
    return targets == class_number if targets.dim() == 1 else targets[:, class_number] == 1


def image_name(image_set: ImageSet, number: int) -> str:
    """What to call an image: its file, or its number where it has none; in pictures.csv, whose words stay."""
    return str(image_set.files[number]) if image_set.files else f"picture {number}"


def shared_files(first: ImageSet, second: ImageSet) -> set[str]:
    """Files that both splits hold."""
    return set(map(str, first.files)) & set(map(str, second.files))


def class_names(image_set: ImageSet, number: int) -> list[str]:
    """Names of the classes that an image shows."""
    target = image_set.targets[number]
    shown = [int(target)] if target.dim() == 0 else target.nonzero().flatten().tolist()
    return [image_set.classes[class_number] for class_number in shown]


def per_class(targets: Tensor, count: int) -> list[int]:
    """How many images show each of `count` classes."""
    return [int(shows(targets, class_number).sum()) for class_number in range(count)]
