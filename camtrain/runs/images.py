"""pictures.csv: the figures of every validation image, for statistics over runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from camtrain.data.images import ImageSet, class_names, image_name
from camtrain.errors import UserError
from camtrain.files import write_csv

NAME = "pictures.csv"


def write_images(folder: Path, images: ImageSet, each: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write the figures of every validation image.

    Args:
        folder: run folder.
        images: which.
        each: of each arm and sharpened baseline, and tag, (images,); what is not defined is left empty.
    """
    columns = [(f"{name} {tag}", value.tolist()) for name, tags in each.items() for tag, value in tags.items()]
    rows = (
        [
            image_name(images, number),
            classes_in_words(images, number),
            *(f"{column[number]:.7g}" if math.isfinite(column[number]) else "" for _, column in columns),
        ]
        for number in range(len(images.targets))
    )
    write_csv(folder / NAME, ["picture", "class", *(name for name, _ in columns)], rows)


def classes_in_words(images: ImageSet, number: int) -> str:
    """The classes that an image shows."""
    return "; ".join(class_names(images, number))


def read_classes(folder: Path) -> list[str]:
    """The classes of every image, in words, in a file that :func:`read_images` can read.

    Raises:
        UserError: it has no such column.
    """
    path = folder / NAME
    with path.open(newline="", encoding="utf-8") as opened:
        try:
            return [line[1] for line in csv.reader(opened)][1:]
        except LookupError as error:
            raise _damaged(path, "a line has no class") from error


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path}: not the figures of a run's images ({reason}); repeat the run")


def read_images(folder: Path) -> dict[str, dict[str, Tensor]]:
    """What :func:`write_images` wrote: of each arm and sharpened baseline, and tag, (images,) float64.

    Raises:
        UserError: the file is not there, or not whole.
    """
    path = folder / NAME
    try:
        with path.open(newline="", encoding="utf-8") as opened:
            heading, *lines = csv.reader(opened)
        columns = [
            [float(cell) if cell else math.nan for cell in column]
            for column in zip(*(line[2:] for line in lines), strict=True)
        ]
        found: dict[str, dict[str, Tensor]] = {}
        for name, values in zip(heading[2:], columns, strict=True):
            arm, _, tag = name.partition(" ")
            found.setdefault(arm, {})[tag] = torch.tensor(values, dtype=torch.float64)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; repeat the run") from error
    except (ValueError, csv.Error) as error:
        raise _damaged(path, error) from error
    return found
