"""From the configuration to the training and validation images."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from camtrain.config.options import AUTO, DatasetName, Fit, OnError
from camtrain.config.schema import DATASETS, DatasetConfig
from camtrain.config.validate import crop_range, fold_of, image_shape, intensity_range
from camtrain.data import cache
from camtrain.data.augment import Augmentation
from camtrain.data.decode import each, image_and_region, prepared, size_of
from camtrain.data.folds import Fold, Splits, folded
from camtrain.data.images import (
    ImageSet,
    RawImages,
    Split,
    StoredImages,
    as_asked,
    as_fetched,
    decoded,
    per_class,
    shows,
)
from camtrain.data.listing import BadImage, Listing, Rule, Skipped
from camtrain.data.sources import SOURCES
from camtrain.errors import UserError

log = logging.getLogger("camtrain")


ROOM_FOR_CROPS = 1.25
"""Edge of a stored image over that of the network's, where crops are taken from it: a crop is enlarged by at most
1 / (1.25 sqrt(share of the image)), and reduced by at most 1.25."""


def augmentation(config: DatasetConfig) -> Augmentation:
    """How the configuration asks training images to be varied."""
    _, height, width = image_shape(config)
    return Augmentation(
        crop_range(config),
        config.flip,
        config.brightness,
        config.contrast,
        config.saturation,
        config.hue,
        config.erase,
        aspect=width / height,
        fit=config.fit,
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
    crops, fold = augmentation(config).crops, fold_of(config)
    rule = rule_for_crops(config) if crops else rule_of(config)
    if fold is None:
        return _both(config, (_unguided(train, guided), val), (rule, rule_of(config)), threads)
    for_validation = for_training = _both(config, (train, val), (rule_of(config), rule_of(config)), threads)
    if crops and not isinstance(train, StoredImages):  # stored images are of one size, crops or not
        for_training = _both(config, (_unguided(train, guided), _unguided(val, guided)), (rule, rule), threads)
    return folded(for_training, for_validation, Fold(*fold))


def _unguided(split: Split, guided: bool) -> Split:
    """A split to be trained on, without masks and boxes unless they are needed."""
    return split.without_regions() if isinstance(split, Listing) and not guided else split


def _both(config: DatasetConfig, splits: tuple[Split, Split], rules: tuple[Rule, Rule], threads: int) -> Splits:
    """The images of both splits; of those of more than 8 bits, the training split's range holds for both."""
    train = opened(config, splits[0], rules[0], threads, "training")
    rule = rules[1]
    if rule.span is None and train.depth is not None:
        rule = rule._replace(span=train.depth.span)
    return train, opened(config, splits[1], rule, threads, "validation")


def rule_of(config: DatasetConfig) -> Rule:
    """What images become in validation."""
    channels, height, width = image_shape(config)
    return Rule(height, width, config.fit, channels, intensity_range(config))


def rule_for_crops(config: DatasetConfig) -> Rule:
    """What images become where crops are taken of them: larger, and with `fit=crop` all of them, distorted."""
    rule = rule_of(config)
    fit = Fit.stretch if config.fit is Fit.crop else config.fit
    return rule._replace(height=round(ROOM_FOR_CROPS * rule.height), width=round(ROOM_FOR_CROPS * rule.width), fit=fit)


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
    source, fold = SOURCES[_name(config)], fold_of(config)
    if fold is not None:  # some of its images are of the training split
        splits = source.splits(config, seed)
        check(splits[1].classes, splits[1].targets)
        both = _both(config, splits, (rule_of(config), rule_of(config)), threads)
        return folded(both, both, Fold(*fold))[1]
    val = source.validation(config, seed)
    check(val.classes, val.targets)
    return opened(config, val, rule_of(config), threads, "validation")


def _name(config: DatasetConfig) -> DatasetName:
    """The set's name, which a configuration made in Python need not repeat where its class implies it."""
    implied = [name for name, kind in DATASETS.items() if kind is type(config)]
    return implied[0] if len(implied) == 1 else config.name


def opened(config: DatasetConfig, split: Split, rule: Rule, threads: int, name: str) -> ImageSet:
    """The images of one split; those of files by way of their cache if there is to be one.

    Args:
        config: of the data set.
        split: what its source gave.
        rule: what files become; images in memory become what they are in validation.
        threads: number of threads that decode.
        name: of the split, for messages.

    Raises:
        UserError: a file cannot be read and is not to be skipped, no room for the cache, or no image of a class is
            left.
    """
    if isinstance(split, RawImages):
        return as_fetched(split, rule)
    if not isinstance(split, Listing):
        return as_asked(split, rule_of(config)) if isinstance(split, StoredImages) else split
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
        decodable = each(
            lambda number: image_and_region(listing, number, rule, sizes[number]), listing, kept, threads, skipped
        )
        kept = [number for number, _ in decodable]
    kept_sizes = torch.tensor([sizes[number] for number in kept]).reshape(-1, 2)
    return decoded(listing.subset(kept), rule, kept_sizes, skipped, depth)


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
        image_and_region(listing, number, rule, size_of(listing, number))
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
