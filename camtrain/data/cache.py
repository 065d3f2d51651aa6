"""A cache of decoded images: uint8 pixels of one size in a file, made by the first run and mapped by later ones.

A cache is named after everything that it depends on: the files with their sizes and times, the boxes, the meaning of
mask values and the rule that brings them to one size. The range of images of more than 8 bits belongs to the rule where
it is given; where it is found from the images, it depends on these alone. A cache is written beside its place and
renamed when it is whole, so that a crash leaves none, and of two runs that make the same one the first to finish wins.
What a killed run left unfinished is deleted by the next that makes a cache. A cache may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from camtrain.data.decode import each, image_and_region, prepared
from camtrain.data.depth import Depth
from camtrain.data.images import StoredImages
from camtrain.data.listing import Listing, Mask, Rule, Skipped
from camtrain.errors import MachineError, UserError, of_system

log = logging.getLogger("camtrain")


VERSION = 4
"""Has to be raised when images are brought to one size in another way."""

ROOM_TO_LEAVE = 256 * 2**20  # bytes that have to stay free on the disk

SYNCED = 32 * 2**20
"""Bytes after which the disk is made to write while others decode, so that little remains to be written at the end."""

PARTIAL = re.compile(r"[0-9a-f]{32}\.\d+-[0-9a-f]{8}\.partial")
"""Name of the folder in which a cache is made."""


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/camtrain`, or `~/.cache/camtrain`.

    Raises:
        UserError: there is no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "camtrain"
    except RuntimeError as error:
        raise UserError(
            "dataset.cache=auto: this account has no home folder; give a folder (dataset.cache=FOLDER), or decode the"
            " images in every epoch (dataset.cache=null)"
        ) from error


def key(listing: Listing, rule: Rule) -> str:
    """Name of the cache of these files under this rule."""
    digest = hashlib.sha256(json.dumps([VERSION, *rule], default=lambda choice: choice.value).encode())
    digest.update(listing.meaning.tobytes())
    for path, region in zip(listing.paths, listing.regions, strict=True):
        files = [path, region.path] if isinstance(region, Mask) else [path]
        boxes = [(*box[:5], box.outline) for box in region] if isinstance(region, tuple) else None
        stored = not isinstance(region, Mask) or region.stored
        digest.update(json.dumps([[_identity(file) for file in files], boxes, stored]).encode())
    return digest.hexdigest()[:32]


def _identity(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path.absolute()), -1, -1  # vanished: reported when it is read
    return str(path.absolute()), found.st_size, found.st_mtime_ns


def load(folder: Path, listing: Listing) -> StoredImages | None:
    """The cache in this folder, None if there is none or it is not whole.

    Raises:
        UserError: it is there and cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        shape = (len(found["kept"]), *found["size"])
        images = _mapped(folder / "images.bin", (*shape, found["channels"]))
        regions = _mapped(folder / "regions.bin", shape) if found["regions"] else None
        kept = listing.subset(found["kept"])
        return StoredImages(
            listing.classes,
            images.permute(0, 3, 1, 2),
            kept.targets,
            regions,
            torch.tensor(found["sizes"], dtype=torch.int64).reshape(-1, 2),
            torch.tensor([bool(region) for region in kept.regions], dtype=torch.bool),
            kept.paths,
            [Skipped(*entry) for entry in found["skipped"]],
            kept.notes,
            Depth(*found["depth"]) if found["depth"] else None,
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, IndexError):
        return None
    except OSError as error:
        raise of_system(
            error,
            f"the image cache {folder} cannot be read ({error.strerror}); delete it, give another folder"
            " (dataset.cache=FOLDER), or decode the images in every epoch (dataset.cache=null)",
        ) from error


def _mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    if path.stat().st_size != math.prod(shape):
        raise ValueError(f"{path} is not whole")
    if shape[0] == 0:
        return torch.empty(shape, dtype=torch.uint8)
    # Read only, because a mapping that can be written to counts as memory, which may be less than the file is long.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(path, np.uint8, "r", shape=shape))


def make(folder: Path, listing: Listing, rule: Rule, threads: int, name: str, skip: bool) -> None:
    """Decode every image and leave the cache in `folder`, whole or not at all.

    Args:
        folder: where; another run may make the same one meanwhile.
        listing: the files.
        rule: what they become.
        threads: number of threads that decode.
        name: of the split, for messages.
        skip: leave out what cannot be read, instead of stopping there.

    Raises:
        BadImage: a file cannot be read, and is not to be skipped.
        MachineError: no room on the disk.
        UserError: the folder cannot be written.
    """
    skipped: list[Skipped] = []
    sizes, rule, depth = prepared(listing, rule, threads, skipped if skip else None)
    with_regions = any(bool(region) for region in listing.regions)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_room(folder.parent, len(sizes) * math.prod(rule.size) * (rule.channels + with_regions), len(sizes), name)
        partial, alive = _begin(folder)
        try:
            decoded = each(
                lambda number: image_and_region(listing, number, rule, sizes[number]),
                listing,
                list(sizes),
                threads,
                skipped if skip else None,
            )
            with closing(decoded):
                label = f"decoding {name}"
                bar = tqdm(decoded, label, len(sizes), unit="image", disable=None, leave=False, dynamic_ncols=True)
                kept = _write_images(partial, bar, rule.size if with_regions else None)
            meta = {
                "size": rule.size,
                "channels": rule.channels,
                "regions": with_regions,
                "kept": kept,
                "sizes": [sizes[number] for number in kept],
                "skipped": skipped,
                "depth": depth,
            }
            (partial / "meta.json").write_text(json.dumps(meta))
            _finish(partial, folder, listing)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            alive.release()
    except OSError as error:
        raise _not_written(folder.parent, error) from error


def _check_room(place: Path, size: int, count: int, name: str) -> None:
    free = shutil.disk_usage(place).free
    if free < size + ROOM_TO_LEAVE:
        raise MachineError(
            f"no room for the image cache of {name}: {_human(size)} needed, {_human(free)} free in {place}; make room,"
            " give another folder (dataset.cache=FOLDER), or decode the images in every epoch (dataset.cache=null)"
        )
    log.info("%-9s %s: %d images, %s in %s", "cache", name, count, _human(size), place)


def _begin(folder: Path) -> tuple[Path, FileLock]:
    """A fresh folder beside `folder`, and the lock in it, which is held as long as this process makes the cache."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    alive = FileLock(partial / "lock")
    # One process at a time, so that none takes a folder that was just made for one that was left behind.
    with FileLock(folder.parent / "lock"):
        _delete_abandoned(folder.parent)
        partial.mkdir()
        alive.acquire()
    return partial, alive


def _delete_abandoned(place: Path) -> None:
    """Delete what killed runs left unfinished: a living one holds the lock in its folder."""
    for partial in [path for path in place.iterdir() if PARTIAL.fullmatch(path.name)]:
        try:
            with FileLock(partial / "lock").acquire(blocking=False):
                shutil.rmtree(partial, ignore_errors=True)
        except OSError:  # held, which filelock reports by a TimeoutError, or gone
            continue


def _write_images(
    partial: Path,
    decoded: Iterable[tuple[int, tuple[np.ndarray, np.ndarray | None]]],
    region_size: tuple[int, int] | None,
) -> list[int]:
    """Write the images as they are made, and regions of this size if there are any; the numbers of the images."""
    kept: list[int] = []
    nothing = None if region_size is None else np.zeros(region_size, np.uint8)
    with (partial / "images.bin").open("wb") as images, (partial / "regions.bin").open("wb") as regions:
        with ThreadPoolExecutor(1) as beside:
            synced: list[Future[None]] = []
            for number, (pixels, region) in decoded:
                images.write(np.ascontiguousarray(pixels).data)
                if nothing is not None:
                    regions.write(np.ascontiguousarray(nothing if region is None else region).data)
                kept.append(number)
                if len(kept) * pixels.size // SYNCED > len(synced):
                    synced.append(beside.submit(os.fsync, images.fileno()))
            for part in synced:
                part.result()  # the system reports an error only once
        for opened in (images, regions):
            opened.flush()
            os.fsync(opened.fileno())
    return kept


def _finish(partial: Path, folder: Path, listing: Listing) -> None:
    """Put the cache in its place, unless another run was faster."""
    try:
        partial.rename(folder)
    except OSError:
        if load(folder, listing) is None:
            shutil.rmtree(folder, ignore_errors=True)  # damaged: not whole, though it has its name
            partial.rename(folder)


def _not_written(folder: Path, error: OSError) -> UserError:
    return of_system(
        error,
        f"the image cache cannot be written to {folder} ({error.strerror}); give another folder"
        " (dataset.cache=FOLDER), or decode the images in every epoch (dataset.cache=null)",
    )


def _human(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
