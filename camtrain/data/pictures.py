"""What every data set is to the rest of camtrain: pictures that can be fetched as batches.

A batch is made once and fed to every arm. Whatever is done to a picture (crop, stretch, mirror) is done to its region
as well. Augmentation is drawn from the (seed, epoch, step) stream.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from camtrain.errors import UserError
from camtrain.streams import Stream, stream


class Batch(NamedTuple):
    """Pictures as the network sees them."""

    images: Tensor  # (batch, 3, size, size) float32, 0..1
    targets: Tensor  # (batch,) int64 class numbers, or (batch, classes) int64 of 0 and 1: several classes per picture
    # (batch, size, size) uint8: 0 background, 255 void, other values the object, in a multi-label set its class number
    # plus 1; all 0 where none is known
    regions: Tensor
    indices: Tensor  # (batch,) int64, numbers of the pictures in their split

    def to(self, device: torch.device) -> Batch:
        return Batch(*(part.to(device, non_blocking=True) for part in self))


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are varied."""

    crop_scale: tuple[float, float]
    flip: bool


class Crop(NamedTuple):
    """A rectangle of a picture in pixels, which is stretched to the network's size and then perhaps mirrored."""

    left: float
    top: float
    right: float
    bottom: float
    mirrored: bool


class Pictures(Protocol):
    """One split of a data set."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def targets(self) -> Tensor:
        """(pictures,) int64 class numbers, or (pictures, classes) int64 of 0 and 1."""

    @property
    def with_region(self) -> int:
        """How many pictures have a mask or a box."""

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of a stored picture."""

    def fetch(self, indices: Sequence[int], crops: Sequence[Crop] | None) -> tuple[Tensor, Tensor]:
        """Pictures (batch, 3, size, size) uint8 and regions (batch, size, size) uint8.

        `crops` of None takes the middle square of each picture.
        """


def draw_crops(
    sizes: Sequence[tuple[int, int]], augmentation: Augmentation, generator: np.random.Generator
) -> list[Crop]:
    """One crop per picture: a share of the area from `crop_scale`, aspect 3/4..4/3, anywhere in the picture.

    A crop that would not fit is cut at the picture's edges; a scale of (1, 1) takes the middle square. The number of
    draws does not depend on the sizes.
    """
    draws = generator.random((len(sizes), 5))
    low, high = augmentation.crop_scale
    crops = []
    for (width, height), (scale, aspect, x, y, mirror) in zip(sizes, draws, strict=True):
        mirrored = bool(augmentation.flip and mirror < 0.5)
        if low == high == 1:
            crops.append(middle(width, height)._replace(mirrored=mirrored))
            continue
        area = (low + (high - low) * scale) * width * height
        ratio = (4 / 3) ** (2 * aspect - 1)
        across, down = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
        left, top = x * (width - across), y * (height - down)
        crops.append(Crop(left, top, left + across, top + down, mirrored))
    return crops


def middle(width: int, height: int) -> Crop:
    """The largest centred square."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return Crop(left, top, left + side, top + side, False)


def cut(image: Image.Image, region: Image.Image, crop: Crop, size: int) -> tuple[Tensor, Tensor]:
    """Stretch the same rectangle of a picture and its region to `size`, mirror both if the crop says so.

    Returns (3, size, size) uint8 and (size, size) uint8. The picture is antialiased, the region keeps its values.
    """
    box = crop[:4]
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    region = region.resize((size, size), Image.Resampling.NEAREST, box=box)
    if crop.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        region = region.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.from_numpy(np.array(region))


class ArrayPictures:
    """Square pictures of the network's size, held in memory."""

    def __init__(self, classes: Sequence[str], images: Tensor, targets: Tensor, regions: Tensor) -> None:
        self.classes, self.images, self.targets, self.regions = classes, images, targets, regions
        self.with_region = len(targets)

    def size(self, index: int) -> tuple[int, int]:  # noqa: ARG002 - all are of one size
        return self.images.shape[-1], self.images.shape[-2]

    def fetch(self, indices: Sequence[int], crops: Sequence[Crop] | None) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(indices)
        images, regions = self.images[rows], self.regions[rows]
        if crops is not None:
            size = images.shape[-1]
            for number, crop in enumerate(crops):
                if crop[:4] != (0, 0, size, size):
                    images[number], regions[number] = cut(
                        Image.fromarray(images[number].permute(1, 2, 0).numpy()),
                        Image.fromarray(regions[number].numpy()),
                        crop._replace(mirrored=False),
                        size,
                    )
            mirrored = torch.tensor([crop.mirrored for crop in crops])
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            regions = torch.where(mirrored[:, None, None], regions.flip(2), regions)
        return images, regions


class Plan(NamedTuple):
    """One batch to be made: which pictures, and the stream of their augmentation."""

    indices: list[int]
    epoch: int
    step: int


class _Maker(Dataset[Batch | UserError]):
    """Makes one batch per plan; in a worker process if there are any.

    A user's error is handed over as an item: raised in a worker, it would come out wrapped in a traceback.
    """

    def __init__(self, pictures: Pictures, seed: int, augmentation: Augmentation | None) -> None:
        self.pictures, self.seed, self.augmentation = pictures, seed, augmentation

    def __getitem__(self, plan: Plan) -> Batch | UserError:
        try:
            return self._make(plan)
        except UserError as error:
            return error

    def _make(self, plan: Plan) -> Batch:
        crops = None
        if self.augmentation is not None:
            generator = stream(self.seed, Stream.augmentation, plan.epoch, plan.step)
            crops = draw_crops([self.pictures.size(i) for i in plan.indices], self.augmentation, generator)
        images, regions = self.pictures.fetch(plan.indices, crops)
        indices = torch.as_tensor(plan.indices)
        return Batch(images.float().div_(255), self.pictures.targets[indices], regions, indices)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches in an epoch; a set smaller than one batch is one batch."""
    return max(1, count // batch_size)


def epoch_plans(count: int, batch_size: int, seed: int, epoch: int) -> list[Plan]:
    """Training batches of one epoch in a fresh order; an incomplete last batch is left out."""
    order = stream(seed, Stream.order, epoch).permutation(count).tolist()
    starts = [step * batch_size for step in range(steps_per_epoch(count, batch_size))]
    return [Plan(order[start : start + batch_size], epoch, step) for step, start in enumerate(starts)]


def training_batches(
    pictures: Pictures, batch_size: int, epochs: int, seed: int, augmentation: Augmentation, workers: int
) -> Generator[Batch, None, None]:
    """All batches of all epochs in order."""
    plans = (plan for epoch in range(epochs) for plan in epoch_plans(len(pictures.targets), batch_size, seed, epoch))
    return _batches(pictures, plans, seed, augmentation, workers)


def all_batches(pictures: Pictures, batch_size: int, workers: int) -> Generator[Batch, None, None]:
    """Every picture once, in order, not augmented."""
    count = len(pictures.targets)
    plans = (Plan(list(range(at, min(at + batch_size, count))), 0, 0) for at in range(0, count, batch_size))
    return _batches(pictures, plans, 0, None, workers)


def _ignore_interrupts(_worker: int) -> None:
    """Ctrl-C reaches the workers as well; the main process ends them, without their tracebacks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _batches(
    pictures: Pictures, plans: Iterator[Plan], seed: int, augmentation: Augmentation | None, workers: int
) -> Generator[Batch, None, None]:
    maker = _Maker(pictures, seed, augmentation)
    # Each plan is one item: the loader's own batching is off.
    loader = DataLoader(maker, batch_size=None, sampler=plans, num_workers=workers, worker_init_fn=_ignore_interrupts)
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item
