"""A person's own pictures: one folder per class, with masks or boxes if there are any.

    root/[images/]{train,val}/CLASS/picture.jpg
    root/masks/{train,val}/CLASS/picture.png    0 background, `void` left out of every score, other values the object
    root/boxes.csv                              columns path, xmin, ymin, xmax, ymax; further columns are ignored

Paths in the boxes file are relative to root, with or without ``images/``; coordinates are pixels of the picture as
displayed (after the rotation that its EXIF data asks for), maximum edges exclusive. A mask is preferred to boxes.
Everything that can be known without decoding the pictures is checked when the folder is opened.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from torch import Tensor

from camtrain.config import FolderConfig
from camtrain.data.pictures import Crop, cut, middle
from camtrain.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")

_CHECKED_MASKS = 50  # masks decoded at the start to see whether their values make sense

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels, right and bottom exclusive."""


class FolderPictures:
    """One split of a folder data set."""

    def __init__(self, config: FolderConfig, split: str, classes: Sequence[str] | None = None) -> None:
        root = Path(config.root).expanduser()
        self.void, self.image_size = config.void, config.image_size
        base = _split_folder(root, split)
        self.classes = classes or _class_names(base)
        self.paths: list[Path] = []
        targets: list[int] = []
        for name in sorted(entry.name for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
            if name not in self.classes:
                raise UserError(f"{base / name}: this class has no pictures in the training split; move it or add some")
            found = sorted(
                path
                for path in (base / name).iterdir()
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
            )
            if not found:
                raise UserError(
                    f"{base / name}: no pictures in this class folder ({' '.join(SUFFIXES)}); remove it or add some"
                )
            self.paths += found
            targets += [self.classes.index(name)] * len(found)
        if not self.paths:
            raise UserError(f"{base}: no class folders; expected {base}/CLASS/picture.jpg")
        self.targets = torch.tensor(targets)
        self.masks = [_mask_of(root, split, path) for path in self.paths]
        with ThreadPoolExecutor() as pool:
            self.sizes = list(pool.map(_checked_size, self.paths, self.masks))
        self.boxes = _read_boxes(root, config.boxes, dict(zip(self.paths, self.sizes, strict=True)))
        self.with_region = sum(
            mask is not None or path in self.boxes for mask, path in zip(self.masks, self.paths, strict=True)
        )
        self._check_mask_values()

    def size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    def fetch(self, indices: Sequence[int], crops: Sequence[Crop] | None) -> tuple[Tensor, Tensor]:
        crops = crops or [middle(*self.sizes[index]) for index in indices]
        pairs = [
            cut(_decode(self.paths[index]), self.region(index), crop, self.image_size)
            for index, crop in zip(indices, crops, strict=True)
        ]
        return torch.stack([image for image, _ in pairs]), torch.stack([region for _, region in pairs])

    def region(self, index: int) -> Image.Image:
        """The object in the stored picture: 0 background, 1 object, 255 void; all 0 where nothing is known."""
        mask = self.masks[index]
        if mask is not None:
            values = _mask_values(mask)
            region = (values > 0).astype(np.uint8)
            if self.void is not None:
                region[values == self.void] = 255
            return Image.fromarray(region)
        blank = Image.new("L", self.sizes[index], 0)
        for left, top, right, bottom in self.boxes.get(self.paths[index], ()):
            ImageDraw.Draw(blank).rectangle((left, top, right - 1, bottom - 1), fill=1)  # Pillow's edges are inclusive
        return blank

    def _check_mask_values(self) -> None:
        masks = [mask for mask in self.masks if mask is not None]
        if self.void is None or not masks:
            return
        some = masks[:: max(1, len(masks) // _CHECKED_MASKS)]
        seen = {int(value) for mask in some for value in np.unique(_mask_values(mask))}
        if seen <= {0, self.void}:
            raise UserError(
                f"{masks[0].parent}: the masks hold only {sorted(seen)}, and dataset.void={self.void} is left out of"
                f" every score; if {self.void} marks the object, set dataset.void=null"
            )


def _split_folder(root: Path, split: str) -> Path:
    for base in (root / split, root / "images" / split):
        if base.is_dir():
            return base
    raise UserError(f"{root}: neither {split}/ nor images/{split}/ is there; expected {split}/CLASS/picture.jpg")


def _class_names(base: Path) -> list[str]:
    names = sorted(entry.name for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise UserError(f"{base}: at least two class folders are needed, found {len(names)}")
    return names


def _mask_of(root: Path, split: str, path: Path) -> Path | None:
    mask = root / "masks" / split / path.parent.name / f"{path.stem}.png"
    return mask if mask.exists() else None


def _mask_values(mask: Path) -> np.ndarray:
    with Image.open(mask) as opened:
        return np.asarray(opened).astype(np.uint8)


def _checked_size(path: Path, mask: Path | None) -> tuple[int, int]:
    """Width and height as displayed, from the headers of the picture and its mask."""
    size, mode = _header(path, turn=True)
    if mode in ("I", "F"):
        raise UserError(
            f"{path}: pictures of 32 bits per pixel (mode {mode}) have no range to scale by; convert it to 8 bits"
        )
    if mask is not None:
        mask_size, mask_mode = _header(mask, turn=False)
        if mask_mode not in ("L", "P", "1"):
            raise UserError(f"{mask}: a mask must have one channel of 8 bits (mode L or P), not {mask_mode}")
        if mask_size != size:
            found, needed = ("x".join(map(str, pair)) for pair in (mask_size, size))
            raise UserError(f"{mask}: the mask is {found} pixels, its picture {path} is {needed}; they must be equal")
    return size


def _header(path: Path, turn: bool) -> tuple[tuple[int, int], str]:
    """(width, height) and mode without decoding; `turn` honours the EXIF orientation."""
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            # Asking a PNG for EXIF data that it has not would decode it.
            exif = opened.getexif() if turn and (opened.format != "PNG" or "exif" in opened.info) else {}
            turned = exif.get(0x0112, 1) >= 5  # Orientation: 5..8 lie on their side
            return ((height, width) if turned else (width, height)), opened.mode
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a picture that can be read ({_reason(error)}); repair or remove it") from error


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255 instead of scaling them
                picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: the picture cannot be decoded ({_reason(error)}); repair or remove it") from error


def _reason(error: Exception) -> str:
    return "unknown format" if isinstance(error, UnidentifiedImageError) else str(error).splitlines()[0]


def _read_boxes(root: Path, name: str | None, sizes: Mapping[Path, tuple[int, int]]) -> dict[Path, list[Box]]:
    """Boxes of each picture. A file that was asked for by another name than the default must be there."""
    if name is None:
        return {}
    file = root / name
    if not file.is_file():
        if name == FolderConfig.boxes:
            return {}
        raise UserError(f"dataset.boxes={name}: there is no file {file}")
    boxes: dict[Path, list[Box]] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = csv.DictReader(opened)
            missing = {"path", "xmin", "ymin", "xmax", "ymax"} - set(rows.fieldnames or ())
            if missing:
                raise UserError(f"{file}: no column {', '.join(sorted(missing))}; needed: path, xmin, ymin, xmax, ymax")
            for row in rows:
                given = row["path"] or ""
                path = next((base / given for base in (root, root / "images") if base / given in sizes), None)
                where = f"{file} line {rows.line_num}"
                if path is not None:
                    boxes.setdefault(path, []).append(_box(row, sizes[path], where))
                elif not any((base / given).is_file() for base in (root, root / "images")):
                    raise UserError(
                        f"{where}: there is no picture {given or '(empty path)'} in {root}; correct or remove the line"
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not a CSV file in UTF-8 ({_reason(error)})") from error
    return boxes


def _box(row: Mapping[str, str | None], size: tuple[int, int], where: str) -> Box:
    """The whole pixels that a box touches, inside its picture."""
    try:
        left, top, right, bottom = (float(row[column] or "") for column in ("xmin", "ymin", "xmax", "ymax"))
    except (TypeError, ValueError):
        raise UserError(f"{where}: a coordinate is not a number") from None
    if not (left < right and top < bottom):
        raise UserError(f"{where}: an empty box; each maximum must exceed its minimum")
    width, height = size
    if right <= 1 and bottom <= 1 and min(size) > 1:
        raise UserError(f"{where}: the box lies within one pixel; coordinates are pixels, not shares of the picture")
    if not (left < width and top < height and right > 0 and bottom > 0 and math.isfinite(left + top + right + bottom)):
        raise UserError(f"{where}: the box lies outside its picture of {width}x{height} pixels")
    return (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(width, math.ceil(right)),
        min(height, math.ceil(bottom)),
    )
