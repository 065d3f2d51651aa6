"""A user's own torch data sets, from a function that returns the one for training and the one for validation.

Both are map-style: they have a length, and item i is (image, target) or (image, target, mask).

    image    a PIL image; an array (height, width[, channels]); or a tensor ([channels, ]height, width): uint8, or
             floating point in 0..1, which is rounded to 8 bits
    target   a class number; or a vector of a 0 or 1 for each class: several classes per image
    mask     None; or a PIL image, an array or a tensor (height, width): 0 background, 255 void, other values the
             object, where there are several classes per image its class number plus 1

Every item is looked at once before anything is trained. As many as fit into :data:`KEPT` stay in memory, the others are
asked for again whenever they are needed, one at a time, because a user's code need not be safe in threads.
"""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camtrain.config.schema import PythonConfig
from camtrain.data.images import Raw, RawImages
from camtrain.data.resample import of_channels
from camtrain.errors import UserError, first_line
from camtrain.importing import imported, own_code
from camtrain.regions import VOID, has_object

log = logging.getLogger("camtrain")

KEPT = 2**30
"""Bytes of images of a split that stay in memory."""

ASKED_TWICE = 4
"""Items that are asked for again at the start, to see whether they are the same."""


class Item(NamedTuple):
    """An item in one form."""

    image: np.ndarray  # (height, width, channels) uint8
    target: int | tuple[int, ...]  # a class number, or a 0 or 1 for each class
    region: np.ndarray | None  # (height, width) uint8


def splits(config: PythonConfig, seed: int, /) -> tuple[RawImages, RawImages]:
    """Training and validation split.

    Raises:
        UserError: the function cannot be called, or does not return two data sets of items as described above.
    """
    train, val = _datasets(config, seed)
    training = _read(config, train, "training", None)
    return training, _read(config, val, "validation", training.classes)


def validation(config: PythonConfig, seed: int, /) -> RawImages:
    """The validation split alone, with its own classes; errors as for :func:`splits`."""
    return _read(config, _datasets(config, seed)[1], "validation", None)


def _datasets(config: PythonConfig, seed: int) -> tuple[Any, Any]:
    """What the function returns, given `dataset.options`, and the seed if it has a parameter of that name.

    The global generators are seeded while it is called: what it splits at random, it splits alike in `task=evaluate`.
    With folds the seed is always 0, because they divide the same images for all seeds of a run.
    """
    seed = seed if config.fold is None else 0
    said = f"dataset.source={config.source}"
    function = imported(config.source, "dataset.source")
    with own_code(said):
        parameters = inspect.signature(function).parameters
        options = {"seed": seed, **config.options} if "seed" in parameters else config.options
        with _seeded(seed):
            made = function(**options)
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise UserError(f"{said}: it must return two data sets, for training and for validation, not {_kind(made)}")
    for dataset in made:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise UserError(f"{said}: {_kind(dataset)} is no map-style data set, with a length and items by number")
    return made[0], made[1]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within the block the global generators of Python, NumPy and torch begin at the seed; then go on as before."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _read(config: PythonConfig, dataset: Any, split: str, classes: Sequence[str] | None) -> RawImages:
    """Look at every item of a split.

    Args:
        config: of the data set.
        dataset: the user's.
        split: its name.
        classes: of the training split; None: the split's own.
    """
    said, lock = f"dataset.source={config.source}: the {split} images", Lock()

    def item(number: int) -> Item:
        where = f"{said}, item {number}"
        with lock, own_code(where):
            found = dataset[number]
        try:
            return _item(found, config.channels)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {first_line(error)}") from error

    with own_code(said):
        count = len(dataset)
    if not count:
        raise UserError(f"{said} are none")
    kept: dict[int, Raw] = {}
    targets, sizes, has_region, values, room = [], [], [], set[int](), KEPT
    for number in range(count):
        image, target, region = item(number)
        if number < ASKED_TWICE and not np.array_equal(item(number).image, image):
            _not_the_same(said, number, split)
        targets.append(target)
        sizes.append(image.shape[1::-1])
        has_region.append(region is not None and bool(has_object(torch.from_numpy(region)[None])))
        if region is not None:
            values |= set(np.unique(region).tolist())
        room -= image.nbytes + (0 if region is None else region.nbytes)
        if room >= 0:
            kept[number] = image, region
    if VOID in values and values <= {0, VOID}:
        raise UserError(
            f"{said}: the masks hold only 0 and {VOID}, which is in no score; give the object another value"
        )

    def raw(number: int) -> Raw:
        if number in kept:
            return kept[number]
        image, _, region = item(number)
        return image, region

    names, numbers = _classes(config, dataset, targets, said, classes)
    return RawImages(names, numbers, torch.tensor(sizes), torch.tensor(has_region), raw)


def _not_the_same(said: str, number: int, split: str) -> None:
    remedy = "leave random changes to camtrain (dataset.crop_scale, dataset.flip and so on)"
    if split == "validation":
        raise UserError(f"{said}, item {number}: asked for twice it is not the same; {remedy}")
    log.warning("%s change from one time to the next, so that no run can be repeated; %s", said, remedy)


def _classes(
    config: PythonConfig,
    dataset: Any,
    targets: Sequence[int | tuple[int, ...]],
    said: str,
    known: Sequence[str] | None,
) -> tuple[list[str], Tensor]:
    """Names of the classes, and the targets as a tensor.

    The names are `dataset.classes`, or the data set's own `classes`, or those of a data set that it is part of, or
    numbers. Where both splits name theirs, the validation split's are numbered as in training.
    """
    several = isinstance(targets[0], tuple)
    lengths = {len(target) if isinstance(target, tuple) else 0 for target in targets}
    if len(lengths) > 1:
        raise UserError(f"{said}: some targets are vectors and some are not, or not of one length")
    target = torch.tensor(targets)
    needed = target.shape[1] if several else int(target.max()) + 1
    own = config.classes or _own_names(dataset)
    names = list(own or known or map(str, range(needed)))
    if needed > len(names) or (several and needed < len(names)):
        have = f"{needed} classes" if several else f"class number {needed - 1}"
        raise UserError(f"{said} have {have}; the classes are {', '.join(names[:20])}")
    if known is not None and names != list(known):
        unknown = [name for name in names if name not in known]
        if unknown or several:
            which = unknown[0] if unknown else "classes in another order"
            raise UserError(f"{said} have {which}, which the training images have not")
        target = torch.tensor([list(known).index(name) for name in names])[target]
        names = list(known)
    return names, target


def _own_names(dataset: Any) -> list[str] | None:
    """The attribute `classes` of a data set, or of the one that a `Subset` is part of."""
    while dataset is not None:
        names = getattr(dataset, "classes", None)
        if isinstance(names, list | tuple) and names:
            return [str(name) for name in names]
        dataset = getattr(dataset, "dataset", None)
    return None


def _item(found: Any, channels: int) -> Item:
    """An item in one form.

    Raises:
        TypeError, ValueError: it is not as described at the top.
    """
    if not isinstance(found, tuple | list) or len(found) not in (2, 3):
        raise ValueError(f"an item must be (image, target) or (image, target, mask), not {_kind(found)}")
    image, target = _image(found[0], channels), _target(found[1])
    region = _region(found[2]) if len(found) == 3 and found[2] is not None else None
    if region is not None and region.shape != image.shape[:2]:
        mask, expected = ("x".join(map(str, part.shape[1::-1])) for part in (region, image))
        raise ValueError(f"the mask is {mask} pixels, its image {expected}; they must be equal")
    return Item(image, target, region)


def _image(image: Any, channels: int) -> np.ndarray:
    if isinstance(image, Image.Image):
        pixels = _of_pillow(image, channels)
    elif isinstance(image, Tensor):
        values = image.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        pixels = (values.permute(1, 2, 0) if values.dim() == 3 else values).numpy()
    else:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or not pixels.size:
        raise ValueError(f"an image cannot have the shape {pixels.shape}")
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"an image of values from {low:.3g} to {high:.3g}; of floating point they must be 0..1")
        pixels = np.round(255 * pixels).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"an image of type {pixels.dtype}; it must be uint8, or floating point in 0..1")
    if {pixels.shape[2], channels} == {1, 3}:
        pixels = of_channels(torch.from_numpy(pixels).permute(2, 0, 1)[None], channels)[0].permute(1, 2, 0).numpy()
    if pixels.shape[2] != channels:
        raise ValueError(
            f"an image of height, width and channels {pixels.shape}, but dataset.channels={channels}; channels come"
            " last in an array and first in a tensor"
        )
    return np.ascontiguousarray(pixels)


def _of_pillow(image: Image.Image, channels: int) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"an image of mode {image.mode}; convert it to 8 bits")
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette may hold transparency
    mode = {1: "L", 3: "RGB"}.get(channels, image.mode)
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _target(target: Any) -> int | tuple[int, ...]:
    values = target.detach().cpu().numpy() if isinstance(target, Tensor) else np.asarray(target)
    if values.ndim == 0 and values.dtype.kind in "iu" and values >= 0:
        return int(values)
    if values.ndim == 1 and len(values) > 1 and np.isin(values, (0, 1)).all():
        return tuple(int(value) for value in values)
    raise ValueError(f"the target {target!s:.60}; it must be a class number, or a vector of a 0 or 1 for each class")


def _region(mask: Any) -> np.ndarray:
    values = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2:
        raise ValueError(f"a mask cannot have the shape {values.shape}; it must be (height, width)")
    region = values.astype(np.uint8)
    if not np.array_equal(region, values):
        raise ValueError("a mask holds values that are not whole numbers from 0 to 255")
    return region


def _kind(found: Any) -> str:
    return f"{len(found)} things" if isinstance(found, tuple | list) else f"a {type(found).__name__}"
