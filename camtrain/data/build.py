"""From the configuration to the training and validation images."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from camtrain.config.options import AUTO, DatasetName, OnError
from camtrain.config.schema import DATASETS, DatasetConfig
from camtrain.config.validate import crop_range, intensity_range
from camtrain.data import cache
from camtrain.data.augment import Augmentation
from camtrain.data.decode import each, prepared, size_of, square
from camtrain.data.images import DecodedImages, ImageSet, Split, StoredImages, per_class, shows, stretched_to
from camtrain.data.listing import BadImage, Listing, Rule, Skipped
from camtrain.data.sources import SOURCES
from camtrain.errors import UserError

log = logging.getLogger("camtrain")


ROOM_FOR_CROPS = 1.25
"""Edge of a stored image over that of the network's, where crops are taken from it: a crop is enlarged by at most
1 / (1.25 sqrt(share of the image)), and reduced by at most 1.25."""


def augmentation(config: DatasetConfig) -> Augmentation:
    """How the configuration asks training images to be varied."""
    return Augmentation(
        crop_range(config),
        config.flip,
        config.brightness,
        config.contrast,
        config.saturation,
        config.hue,
        config.erase,
    )


def build(config: DatasetConfig, seed: int, threads: int = 1, guided: bool = False) -> tuple[ImageSet, ImageSet]:
    """Training and validation images.

    Args:
        config: which set.
        seed: of generated images.
        threads: number of threads that decode.
        guided: read the masks and boxes of training images as well.

    Raises:
        UserError: files are missing, or cannot be read.
    """
    train, val = SOURCES[_name(config)].splits(config, seed)
    if isinstance(train, Listing) and not guided:
        train = train.without_regions()
    span = intensity_range(config)
    with_room = Rule(round(ROOM_FOR_CROPS * config.image_size), whole=True, span=span)
    train_rule = with_room if augmentation(config).crops else Rule(config.image_size, whole=False, span=span)
    train_set = opened(config, train, train_rule, threads, "training")
    if span is None and train_set.depth is not None:
        span = train_set.depth.span
    return train_set, opened(config, val, Rule(config.image_size, whole=False, span=span), threads, "validation")


def accept_all(_classes: Sequence[str], _targets: Tensor) -> None:
    """Refuse no classes."""


def validation(
    config: DatasetConfig,
    seed: int,
    threads: int = 1,
    check: Callable[[Sequence[str], Tensor], None] = accept_all,
) -> ImageSet:
    """The validation images alone; errors as for :func:`build`.

    A folder of a user's own images needs no training split then, and its classes are those of the validation split.

    Args:
        config: which set.
        seed: of generated images.
        threads: number of threads that decode.
        check: called with class names and targets before any file is decoded; may raise to refuse them.
    """
    val = SOURCES[_name(config)].validation(config, seed)
    check(val.classes, val.targets)
    rule = Rule(config.image_size, whole=False, span=intensity_range(config))
    return opened(config, val, rule, threads, "validation")


def _name(config: DatasetConfig) -> DatasetName:
    """The set's name, which a configuration made in Python need not repeat where its class implies it."""
    implied = [name for name, kind in DATASETS.items() if kind is type(config)]
    return implied[0] if len(implied) == 1 else config.name


def opened(config: DatasetConfig, split: Split, rule: Rule, threads: int, name: str) -> ImageSet:
    """The images of one split; those of files by way of their cache if there is to be one.

    Args:
        config: of the data set.
        split: what its source gave.
        rule: how files become squares; other images become squares of the configured size.
        threads: number of threads that decode.
        name: of the split, for messages.

    Raises:
        UserError: a file cannot be read and is not to be skipped, no room for the cache, or no image of a class is
            left.
    """
    if not isinstance(split, Listing):
        return stretched_to(split, config.image_size) if isinstance(split, StoredImages) else split
    skip = config.on_error is OnError.skip
    try:
        if config.cache is None:
            image_set = _decoded(split, rule, threads, skip)
        else:
            place = cache.default_folder() if config.cache == AUTO else Path(config.cache).expanduser()
            image_set = _cached(place, split, rule, threads, name, skip)
        if image_set.skipped and not skip:
            raise BadImage(image_set.skipped[0].reason)
    except BadImage as error:
        raise UserError(f"{error}, or leave such images out: dataset.on_error=skip") from error
    _check_classes(split, image_set, name)
    return image_set


def _decoded(listing: Listing, rule: Rule, threads: int, skip: bool) -> ImageSet:
    skipped: list[Skipped] = []
    sizes, rule, depth = prepared(listing, rule, threads, skipped if skip else None)
    kept = list(sizes)
    if skip:  # whether the rest of a file can be decoded shows only when it is
        squares = each(lambda number: square(listing, number, rule, sizes[number]), listing, kept, threads, skipped)
        kept = [number for number, _ in squares]
    kept_sizes = torch.tensor([sizes[number] for number in kept]).reshape(-1, 2)
    return DecodedImages(listing.subset(kept), rule, kept_sizes, skipped, depth)


def _cached(place: Path, listing: Listing, rule: Rule, threads: int, name: str, skip: bool) -> ImageSet:
    folder = place / cache.key(listing, rule)
    found = cache.load(folder, listing)
    if found is not None and any(_is_usable(listing, rule, entry) for entry in found.skipped):
        shutil.rmtree(folder, ignore_errors=True)  # what could not be read then can be now
        found = None
    if found is not None:
        log.info("%-9s %s: %d images read from %s", "cache", name, len(found.targets), place)
        return found
    cache.make(folder, listing, rule, threads, name, skip)
    made = cache.load(folder, listing)
    assert made is not None, "the cache that was just made is not there"
    return made


def _is_usable(listing: Listing, rule: Rule, entry: Skipped) -> bool:
    """Whether an image that was left out can be read by now."""
    number = [str(path) for path in listing.paths].index(entry.path)
    try:
        square(listing, number, rule, size_of(listing, number))
    except BadImage:
        return False
    return True


def _check_classes(listing: Listing, image_set: ImageSet, name: str) -> None:
    """Raise UserError for the first class whose images were all left out."""
    count = len(listing.classes)
    before, after = per_class(listing.targets, count), per_class(image_set.targets, count)
    for class_number, (had, has) in enumerate(zip(before, after, strict=True)):
        if had and not has:
            shown = shows(listing.targets, class_number).nonzero().flatten().tolist()
            paths = {str(listing.paths[number]) for number in shown}
            first = next(entry.reason for entry in image_set.skipped if entry.path in paths)
            raise UserError(
                f"none of the {had} {name} images of {listing.classes[class_number]} can be used; the first: {first}"
            )
