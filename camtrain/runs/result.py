"""What a run found, for programs: result.json, rewritten after every epoch and always whole, and pictures.csv."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camtrain.analysis.intervals import Interval
from camtrain.arms import BASELINE, REGULARISED
from camtrain.data.images import ImageSet, class_names, image_name
from camtrain.errors import UserError
from camtrain.files import write_text

SCHEMA = 1

NAME = "result.json"
PICTURES = "pictures.csv"


def reserve_folder(folder: Path) -> None:
    """Take the run folder, so that two runs cannot write into one another.

    Raises:
        UserError: another run has it.
    """
    try:
        os.close(os.open(folder / NAME, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise UserError(f"{folder} already holds a run: choose another hydra.run.dir=FOLDER") from None


def difference(final: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Regularised minus baseline of every tag that both have."""
    baseline, regularised = final[BASELINE], final[REGULARISED]
    return {tag: regularised[tag] - baseline[tag] for tag in baseline if tag in regularised}


def write(
    folder: Path,
    status: str,
    seed: int,
    config: Mapping[str, Any],
    epochs: Mapping[str, list[dict[str, float]]],
    found: Mapping[str, Interval],
    timing: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write and return the result.

    Args:
        folder: run folder.
        status: running, completed, interrupted or failed.
        seed: of the run.
        config: the whole configuration.
        epochs: of each arm, the figures of every epoch by tag.
        found: intervals of the differences, over images, by tag.
        timing: seconds and ratios.
        facts: what was found about data, network and machine.
    """
    final = {arm: rows[-1] if rows else {} for arm, rows in epochs.items()}
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "status": status,
        "seed": seed,
        "config": config,
        "arms": {arm: {"final": final[arm], "epochs": rows} for arm, rows in epochs.items()},
        # Of what is known of every image that of the images, which the interval belongs to: with several classes
        # per image the arms' own means are over maps, and what is dead in one arm is in the other's mean alone.
        "difference": {
            **difference(final),
            **{tag: interval.estimate for tag, interval in found.items() if math.isfinite(interval.estimate)},
        },
        "difference_95": {tag: interval.margin for tag, interval in found.items()},
        "timing": timing,
        **facts,
    }
    write_text(folder / NAME, json.dumps(finite(result), indent=1, ensure_ascii=False) + "\n")
    return result


def write_images(folder: Path, images: ImageSet, each: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write the figures of every validation image in both arms, and of the control: for statistics over runs.

    Args:
        folder: run folder.
        images: which.
        each: of each arm and tag, (images,); what is not defined is left empty.
    """
    columns = [(f"{arm} {tag}", value.tolist()) for arm, tags in each.items() for tag, value in tags.items()]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["picture", "class", *(name for name, _ in columns)])
    for number in range(len(images.targets)):
        kinds = "; ".join(class_names(images, number))
        values = (column[number] for _, column in columns)
        rows.writerow(
            [image_name(images, number), kinds, *(f"{value:.7g}" if math.isfinite(value) else "" for value in values)]
        )
    write_text(folder / PICTURES, text.getvalue())


def read_images(folder: Path) -> dict[str, dict[str, Tensor]]:
    """What :func:`write_images` wrote: of each arm and tag, (images,) float64.

    Raises:
        UserError: the file is not there, or not whole.
    """
    path = folder / PICTURES
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
        raise UserError(f"{path}: not the figures of a run's images ({error}); repeat the run") from error
    return found


def finite(value: Any) -> Any:
    """JSON has no nan: a figure that is not defined becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value
