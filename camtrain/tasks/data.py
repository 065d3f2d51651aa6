"""`task=data`: what is in a data set, with a contact sheet."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from camtrain.cam.targets import is_multilabel
from camtrain.config.options import OnError
from camtrain.config.schema import Config
from camtrain.data import inspect
from camtrain.data.batches import one_batch
from camtrain.data.build import build as build_data
from camtrain.data.images import ImageSet, shows
from camtrain.device import worker_threads
from camtrain.files import write_atomically, write_text
from camtrain.regions import VOID
from camtrain.report import overlay
from camtrain.runs import facts
from camtrain.streams import Stream, stream

log = logging.getLogger("camtrain")


def inspect_data(config: Config, folder: Path) -> None:
    """Say what is in the data set, and leave a contact sheet with the objects' outlines in the folder.

    Raises:
        UserError: files are missing, or cannot be read.
    """
    # Nothing is kept, and both splits are looked at in the same way.
    dataset = replace(config.dataset, crop_scale=[1.0, 1.0], cache=None, on_error=OnError.skip)
    train, val = build_data(dataset, config.seed, worker_threads(config.trainer), guided=True)
    looks = inspect.survey(train, worker_threads(config.trainer)), inspect.survey(val, worker_threads(config.trainer))
    parts = {"training": inspect.count(train, looks[0]), "validation": inspect.count(val, looks[1])}
    log.info("%s, %d px\n", facts.data_name(config), dataset.image_size)
    same = inspect.duplicates(train, val, looks)
    log.info("%s\n", inspect.table(parts, same))
    if same:
        write_text(folder / inspect.DUPLICATES, inspect.as_csv(same))
    for entry in (*train.skipped, *val.skipped):
        log.info("cannot be used: %s", entry.reason)
    rows = contact_rows(train, stream(config.seed, Stream.images))
    sheet = folder / "contact_sheet.png"
    write_atomically(sheet, lambda opened: overlay.save_png(overlay.contact_sheet(rows), opened))
    of = f", the first {SHEET_ROWS} classes" if len(train.classes) > SHEET_ROWS else ""
    log.info("contact sheet of training images%s: %s", of, sheet)


SHEET_COLUMNS, SHEET_ROWS = 8, 40


def contact_rows(image_set: ImageSet, generator: np.random.Generator) -> list[overlay.Row]:
    """Random images of each class (of the first ones, where there are many), with its own objects' regions."""
    rows = []
    for kind, name in enumerate(image_set.classes[:SHEET_ROWS]):
        having = shows(image_set.targets, kind).nonzero().flatten().tolist()
        chosen = sorted(generator.permutation(having)[:SHEET_COLUMNS].tolist())
        if chosen:
            batch = one_batch(image_set, chosen, torch.device("cpu"))
            own = batch.regions
            if is_multilabel(batch.targets):
                own = torch.where((own == kind + 1) | (own == VOID), own, 0)
            rows.append(overlay.Row(f"{name} ({len(having)})", batch.images, own))
    return rows
