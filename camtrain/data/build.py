"""From the configuration to the training and validation images."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100

from camtrain.config.options import AUTO, DatasetName, OnError
from camtrain.config.schema import DatasetConfig, FakeConfig, FolderConfig, PublishedConfig, ShapesConfig
from camtrain.config.validate import crop_range
from camtrain.data import cache, download
from camtrain.data.augment import Augmentation
from camtrain.data.decode import each, size_of, sizes_of, square
from camtrain.data.download import Archive
from camtrain.data.images import DecodedImages, ImageSet, StoredImages, in_memory, per_class, shows
from camtrain.data.listing import BadImage, Listing, Rule, Skipped
from camtrain.data.sources import class_folders, cub200, fake, oxford_pet, shapes, small_arrays, voc
from camtrain.data.sources.folder import list_folder
from camtrain.errors import UserError

log = logging.getLogger("camtrain")


ROOM_FOR_CROPS = 1.25
"""Edge of a stored image over that of the network's, where crops are taken from it: a crop is stretched by at most
1 / (1.25 sqrt(share of the image)), and thinned out by at most 1.25."""


def augmentation(config: DatasetConfig) -> Augmentation:
    """What the configuration asks for."""
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
    """Training and validation images. Generated sets are functions of the seed.

    Args:
        config: which set.
        seed: of generated images.
        threads: that decode.
        guided: read the masks and boxes of training images as well.

    Raises:
        UserError: files are missing, or cannot be read.
    """
    match config:
        case FolderConfig():
            train = list_folder(config, config.train_split)
            val = list_folder(config, config.val_split, train.classes)
            return from_files(config, train, val, threads, guided)
        case PublishedConfig():
            return published(config, threads, guided)
        case ShapesConfig(train=train_count, val=val_count, image_size=size, objects=objects):
            return (
                in_memory(shapes.CLASSES, *shapes.generate(train_count, size, seed, 0, objects)),
                in_memory(shapes.CLASSES, *shapes.generate(val_count, size, seed, 1, objects)),
            )
        case FakeConfig(classes=count, image_size=size):
            names = [f"class_{number}" for number in range(count)]
            return (
                in_memory(names, *fake.generate(config.train, size, count, seed, split=0)),
                in_memory(names, *fake.generate(config.val, size, count, seed, split=1)),
            )
    raise AssertionError(f"no data set is called {config.name}")


def accept_all(_classes: Sequence[str], _targets: Tensor) -> None:
    """Refuse no classes."""


def validation(
    config: DatasetConfig,
    seed: int,
    threads: int = 1,
    check: Callable[[Sequence[str], Tensor], None] = accept_all,
) -> ImageSet:
    """The validation images alone; arguments and errors as for :func:`build`.

    A folder of one's own needs no training split then, and its classes are those of the validation split.

    Args:
        config: which set.
        seed: of generated images.
        threads: that decode.
        check: is given class names and targets before any file is decoded, and may refuse them.
    """
    match config:
        case FolderConfig():
            listing = list_folder(config, config.val_split, fewest=1)
            check(listing.classes, listing.targets)
            return opened(config, listing, Rule(config.image_size, whole=False), threads, "validation")
        case ShapesConfig() | FakeConfig():
            val = build(replace(config, train=8), seed, threads)[1]
            check(val.classes, val.targets)
            return val
        case PublishedConfig():
            _, found = listed(config)
            check(found.classes, found.targets)
            if isinstance(found, Listing):
                return opened(config, found, Rule(config.image_size, whole=False), threads, "validation")
            return found
    raise AssertionError(f"no data set is called {config.name}")


def published(config: PublishedConfig, threads: int, guided: bool) -> tuple[ImageSet, ImageSet]:
    """Both splits of a published set, fetched first if that is asked for.

    Raises:
        UserError: it is not there, not whole, or cannot be fetched.
    """
    train, val = listed(config)
    if isinstance(train, Listing):
        assert isinstance(val, Listing)
        return from_files(config, train, val, threads, guided)
    assert isinstance(val, StoredImages)
    return train, val


def listed(config: PublishedConfig) -> tuple[Listing, Listing] | tuple[StoredImages, StoredImages]:
    """What a published set consists of; errors as for :func:`published`."""
    root, size = Path(config.root).expanduser(), config.image_size
    archives, read = _sets(root, size)[config.name]
    if config.download:
        if not archives:
            raise UserError(f"dataset={config.name.value} has to be fetched by hand: its publisher asks for an account")
        download.provide(root, archives, config.mirror)
    try:
        return read()
    except (RuntimeError, OSError, KeyError) as error:
        fetch = "; dataset.download=true fetches it into a folder that is empty or not there yet" if archives else ""
        # torchvision goes on to tell of an argument of its own.
        reason = next(iter(str(error).splitlines()), type(error).__name__).partition(" You can use download=")[0]
        raise UserError(f"dataset.root={config.root}: {config.name.value} is not there ({reason}){fetch}") from error


Read = Callable[[], tuple[Listing, Listing] | tuple[StoredImages, StoredImages]]


def _sets(root: Path, size: int) -> dict[DatasetName, tuple[Sequence[Archive], Read]]:
    """Of each published set, what it is fetched from and how it is read."""
    return {
        DatasetName.voc2007: (voc.ARCHIVES["2007"], lambda: voc.list_voc(root, "2007")),
        DatasetName.voc2012: (voc.ARCHIVES["2012"], lambda: voc.list_voc(root, "2012")),
        DatasetName.oxford_pet: (oxford_pet.ARCHIVES, lambda: oxford_pet.list_oxford_pet(root)),
        DatasetName.cub200: (cub200.ARCHIVES, lambda: cub200.list_cub200(root)),
        DatasetName.cifar10: (small_arrays.CIFAR10_ARCHIVES, lambda: small_arrays.read_cifar(root, CIFAR10, size)),
        DatasetName.cifar100: (small_arrays.CIFAR100_ARCHIVES, lambda: small_arrays.read_cifar(root, CIFAR100, size)),
        DatasetName.fashion_mnist: (
            small_arrays.FASHION_MNIST_ARCHIVES,
            lambda: small_arrays.read_fashion_mnist(root, size),
        ),
        DatasetName.imagenette: (class_folders.IMAGENETTE, lambda: class_folders.list_imagenette(root)),
        DatasetName.imagenet: ((), lambda: class_folders.list_imagenet(root)),
        DatasetName.eurosat: (class_folders.EUROSAT, lambda: class_folders.list_eurosat(root)),
    }


def from_files(
    config: DatasetConfig, train: Listing, val: Listing, threads: int, guided: bool
) -> tuple[ImageSet, ImageSet]:
    """Both splits of a set that consists of files."""
    if not guided:
        train = train.without_regions()
    as_it_is = Rule(config.image_size, whole=False)
    with_room = Rule(round(ROOM_FOR_CROPS * config.image_size), whole=True)
    rule = with_room if augmentation(config).crops else as_it_is
    return opened(config, train, rule, threads, "training"), opened(config, val, as_it_is, threads, "validation")


def opened(config: DatasetConfig, listing: Listing, rule: Rule, threads: int, split: str) -> ImageSet:
    """One split, by way of its cache if there is to be one.

    Raises:
        UserError: a file cannot be read and is not to be skipped, no room for the cache, or no image of a class is
            left.
    """
    try:
        return _opened(config, listing, rule, threads, split)
    except BadImage as error:
        raise UserError(f"{error}, or leave such images out: dataset.on_error=skip") from error


def _opened(config: DatasetConfig, listing: Listing, rule: Rule, threads: int, split: str) -> ImageSet:
    skip = config.on_error is OnError.skip
    images: ImageSet
    if config.cache is None:
        skipped: list[Skipped] = []
        sizes = sizes_of(listing, threads, skipped if skip else None)
        kept = list(sizes)
        if skip:  # what cannot be decoded shows when it is decoded
            task = each(lambda number: square(listing, number, rule, sizes[number]), listing, kept, threads, skipped)
            kept = [number for number, _ in task]
        images = DecodedImages(
            listing.of(kept), rule, torch.tensor([sizes[number] for number in kept]).reshape(-1, 2), skipped
        )
    else:
        place = cache.default_folder() if config.cache == AUTO else Path(config.cache).expanduser()
        folder = place / cache.key(listing, rule)
        found = cache.load(folder, listing)
        if found is not None and any(usable(listing, rule, entry) for entry in found.skipped):
            shutil.rmtree(folder, ignore_errors=True)  # what could not be read then can be now
            found = None
        if found is None:
            cache.make(folder, listing, rule, threads, split, skip)
            found = cache.load(folder, listing)
            assert found is not None, "the cache that was just made is not there"
        else:
            log.info("%-9s %s: %d images read from %s", "cache", split, len(found.targets), place)
        images = found
    if images.skipped and not skip:
        raise BadImage(images.skipped[0].reason)
    before, after = per_class(listing.targets, len(listing.classes)), per_class(images.targets, len(listing.classes))
    for kind, (name, had, has) in enumerate(zip(listing.classes, before, after, strict=True)):
        if had and not has:
            shown = shows(listing.targets, kind)
            those = {str(listing.paths[number]) for number in shown.nonzero().flatten().tolist()}
            first = next(entry.reason for entry in images.skipped if entry.path in those)
            raise UserError(f"none of the {had} {split} images of {name} can be used; the first: {first}")
    return images


def usable(listing: Listing, rule: Rule, entry: Skipped) -> bool:
    """Whether an image that was left out can be read by now."""
    number = [str(path) for path in listing.paths].index(entry.path)
    try:
        square(listing, number, rule, size_of(listing, number))
    except BadImage:
        return False
    return True
