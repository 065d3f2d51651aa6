"""Folds of small sets: each image of both splits together validates once, and is trained on in the other folds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.data.images import (
    FetchedImages,
    ImageSet,
    Raw,
    image_name,
    part_of,
    per_class,
    rarest_class,
    shared_files,
)
from camtrain.errors import UserError
from camtrain.streams import Stream, stream

log = logging.getLogger("camtrain")


class Fold(NamedTuple):
    """Fold `number` of so many, counted from 0."""

    number: int
    folds: int

    def __str__(self) -> str:
        return f"{self.number}/{self.folds}"


Splits = tuple[ImageSet, ImageSet]
"""Training and validation split."""


def folded(for_training: Splits, for_validation: Splits, fold: Fold) -> Splits:
    """The images of the other folds, to train on, and those of this one, to validate.

    Notes, depth and images that were left out are those of the splits.

    Args:
        for_training: both splits as images are trained on.
        for_validation: both splits as images are validated; these decide which images there are.
        fold: which one.

    Raises:
        UserError: there are fewer images than folds.
    """
    pool = pooled(for_validation)
    of_each = fold_of_each(pool.targets, fold.folds)
    _check(pool, fold)
    validated = (of_each == fold.number).nonzero().flatten().tolist()
    # By name, because images may have been left out of one of them only.
    names = {image_name(pool, at) for at in (of_each != fold.number).nonzero().flatten().tolist()}
    larger = pool if for_training is for_validation else pooled(for_training)
    trained = [at for at in range(len(larger.targets)) if image_name(larger, at) in names]
    return _part(larger, trained, for_training[0]), _part(pool, validated, for_validation[1])


def fold_of_each(targets: Tensor, folds: int) -> Tensor:
    """The fold that each image validates in, (images,) int64 in 0..folds - 1.

    A fixed random partition for a number of folds. Of each class (of several in an image, the rarest), and of all
    images, the folds' numbers differ by at most one: class after class, images are dealt out in turn.

    Args:
        targets: (images,) class numbers, or (images, classes) of 0 and 1.
        folds: how many.
    """
    shuffled = torch.from_numpy(stream(0, Stream.folds, folds).permutation(len(targets)))
    dealt = shuffled[rarest_class(targets)[shuffled].argsort(stable=True)]
    return torch.empty_like(dealt).index_copy_(0, dealt, torch.arange(len(dealt)) % folds)


def pooled(splits: Splits) -> FetchedImages:
    """Both splits as one set, an image that both hold by its file once."""
    first, second = splits
    shared = shared_files(first, second)
    others = [at for at in range(len(second.targets)) if not second.files or str(second.files[at]) not in shared]
    count = len(first.targets)

    def fetch(number: int) -> Raw:
        return first.item(number) if number < count else second.item(others[number - count])

    return FetchedImages(
        first.classes,
        torch.cat([first.targets, second.targets[others]]),
        torch.cat([first.sizes, second.sizes[others]]),
        torch.cat([first.has_region, second.has_region[others]]),
        first.shape,
        fetch,
        [*first.files, *(second.files[at] for at in others if second.files)],
    )


def _part(pool: FetchedImages, numbers: Sequence[int], split: ImageSet) -> FetchedImages:
    """Some images of the pool, with what is to be said of a split."""
    some = part_of(pool, numbers)
    return replace(some, skipped=split.skipped, notes=split.notes, depth=split.depth, numbers=numbers)


def _check(pool: ImageSet, fold: Fold) -> None:
    """Refuse fewer images than folds, and warn of classes with fewer."""
    said, images = f"dataset.fold={fold}", len(pool.targets)
    if images < fold.folds:
        raise UserError(f"{said}: {images} images cannot fill {fold.folds} folds; use {max(images, 2)} at most")
    counts = zip(pool.classes, per_class(pool.targets, len(pool.classes)), strict=True)
    few = [f"{name} ({count})" for name, count in counts if 0 < count < fold.folds]
    if few:
        named = f"{', '.join(few[:5])}{f' and {len(few) - 5} more' if len(few) > 5 else ''}"
        log.warning("%s: too few images of %s for every fold to validate some; use fewer folds", said, named)
