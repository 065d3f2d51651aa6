"""What every data set is to the rest of camtrain: images of one size with targets and regions, by number."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from camtrain.data.decode import image_and_region
from camtrain.data.depth import Depth
from camtrain.data.listing import Listing, Rule, Skipped
from camtrain.data.resample import fitted, fitted_batch


class ImageSet(Protocol):
    """One split of a data set, each image brought to the same size."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def targets(self) -> Tensor:
        """(images,) int64 class numbers, or (images, classes) int64 of 0 and 1."""

    @property
    def sizes(self) -> Tensor:
        """(images, 2) int64, width and height of the images before that."""

    @property
    def has_region(self) -> Tensor:
        """Which images have a mask or a box, (images,) bool."""

    @property
    def files(self) -> Sequence[Path]:
        """The file of each image; empty where they have none."""

    @property
    def numbers(self) -> Sequence[int]:
        """The number of each image in the set that they were chosen from; empty where they are a set of their own."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Images that were left out because they could not be read."""

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of how the files were understood, a line each."""

    @property
    def depth(self) -> Depth | None:
        """What images of more than 8 bits hold and how they are scaled; None where there are none."""

    def item(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """An image (height, width, channels) uint8 and its region (height, width) uint8; neither may be written to.

        Where no region is known it is None or all 0.
        """

    def gather(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images (batch, channels, height, width) uint8 and regions (batch, height, width) uint8.

        The regions are None where no image of the split has one.
        """


@dataclass
class RawImages:
    """One split whose images still have their own sizes; fields otherwise as those of :class:`ImageSet`."""

    classes: Sequence[str]
    targets: Tensor
    sizes: Tensor
    has_region: Tensor
    raw: Callable[[int], Raw]  # (height, width, channels) uint8, (height, width) uint8 or None


Raw = tuple[np.ndarray, np.ndarray | None]
"""An image and its region."""

Split = Listing | RawImages | ImageSet
"""A split as its source gives it: files that are still to be decoded, or images."""


@dataclass
class StoredImages:
    """Images in memory, or in a file that is mapped into it."""

    classes: Sequence[str]
    images: Tensor  # (images, channels, height, width) uint8
    targets: Tensor
    regions: Tensor | None  # (images, height, width) uint8
    sizes: Tensor
    has_region: Tensor
    files: Sequence[Path] = ()
    skipped: Sequence[Skipped] = ()
    notes: Sequence[str] = ()
    depth: Depth | None = None
    numbers: Sequence[int] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def item(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        image = self.images[number].permute(1, 2, 0).numpy()
        return image, None if self.regions is None else self.regions[number].numpy()

    def gather(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        # NumPy keeps the memory layout, and so copies an image as one piece.
        rows = list(numbers)
        regions = None if self.regions is None else torch.from_numpy(self.regions.numpy()[rows])
        return torch.from_numpy(self.images.numpy()[rows]), regions


def in_memory(classes: Sequence[str], images: Tensor, targets: Tensor, regions: Tensor | None = None) -> StoredImages:
    """Images of one size, all of them with a region or none."""
    sizes, has_region = _sizes(images), torch.full((len(targets),), regions is not None)
    return StoredImages(classes, images, targets, regions, sizes, has_region)


def as_asked(image_set: StoredImages, rule: Rule) -> StoredImages:
    """Images without regions as the rule asks for them; the same object where they are that already."""
    if image_set.shape == (rule.channels, *rule.size):
        return image_set
    images = fitted_batch(image_set.images, rule)
    return replace(image_set, images=images, sizes=_sizes(images))


def _sizes(images: Tensor) -> Tensor:
    return torch.tensor([[images.shape[-1], images.shape[-2]]]).expand(len(images), 2)


@dataclass
class FetchedImages:
    """Images that are made whenever they are asked for, in the thread that asks."""

    classes: Sequence[str]
    targets: Tensor
    sizes: Tensor
    has_region: Tensor
    shape: tuple[int, int, int]
    fetch: Callable[[int], Raw]  # an image and its region, of that shape
    files: Sequence[Path] = ()
    skipped: Sequence[Skipped] = ()
    notes: Sequence[str] = ()
    depth: Depth | None = None
    numbers: Sequence[int] = ()

    def item(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.fetch(number)

    def gather(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        channels, *size = self.shape
        images = np.empty((len(numbers), *size, channels), np.uint8)
        regions = np.zeros(images.shape[:3], np.uint8)
        for row, number in enumerate(numbers):
            images[row], region = self.item(number)
            if region is not None:
                regions[row] = region
        known = torch.from_numpy(regions) if bool(self.has_region.any()) else None
        return torch.from_numpy(images).permute(0, 3, 1, 2), known


def decoded(
    listing: Listing, rule: Rule, sizes: Tensor, skipped: Sequence[Skipped] = (), depth: Depth | None = None
) -> FetchedImages:
    """Files that are decoded whenever they are asked for; `sizes` are their widths and heights."""

    def fetch(number: int) -> Raw:
        width, height = sizes[number].tolist()
        return image_and_region(listing, number, rule, (width, height))

    has_region = torch.tensor([bool(region) for region in listing.regions], dtype=torch.bool)
    shape = (rule.channels, *rule.size)
    about = listing.paths, skipped, listing.notes, depth
    return FetchedImages(listing.classes, listing.targets, sizes, has_region, shape, fetch, *about)


def as_fetched(images: RawImages, rule: Rule) -> FetchedImages:
    """Images that are brought to one size whenever they are asked for."""

    def fetch(number: int) -> Raw:
        width, height = images.sizes[number].tolist()
        return fitted(*images.raw(number), rule, (width, height))

    shape = (rule.channels, *rule.size)
    return FetchedImages(images.classes, images.targets, images.sizes, images.has_region, shape, fetch)


def part_of(image_set: ImageSet, numbers: Sequence[int]) -> FetchedImages:
    """The images of these numbers alone, in this order."""
    return FetchedImages(
        image_set.classes,
        image_set.targets[list(numbers)],
        image_set.sizes[list(numbers)],
        image_set.has_region[list(numbers)],
        image_set.shape,
        lambda number: image_set.item(numbers[number]),
        [image_set.files[number] for number in numbers] if image_set.files else (),
    )


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
    if image_set.files:
        return str(image_set.files[number])
    return f"picture {image_set.numbers[number] if image_set.numbers else number}"


def shared_files(first: ImageSet, second: ImageSet) -> set[str]:
    """Files that both splits hold."""
    return set(map(str, first.files)) & set(map(str, second.files))


def class_names(image_set: ImageSet, number: int) -> list[str]:
    """Names of the classes that an image shows."""
    target = image_set.targets[number]
    shown = [int(target)] if target.dim() == 0 else target.nonzero().flatten().tolist()
    return [image_set.classes[class_number] for class_number in shown]


def rarest_class(targets: Tensor) -> Tensor:
    """The class of each image, of several the one that fewest images show; (images,) int64, -1 where there is none.

    Args:
        targets: (images,) class numbers, or (images, classes) of 0 and 1.
    """
    if targets.dim() == 1:
        return targets
    count = targets.sum(0).expand_as(targets).masked_fill(targets == 0, len(targets) + 1)
    return count.argmin(1).masked_fill(targets.sum(1) == 0, -1)


def per_class(targets: Tensor, count: int) -> list[int]:
    """How many images show each of `count` classes."""
    return [int(shows(targets, class_number).sum()) for class_number in range(count)]
