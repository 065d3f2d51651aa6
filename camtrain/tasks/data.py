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
from camtrain.data.build import build
from camtrain.data.images import ImageSet, shows
from camtrain.device import worker_threads
from camtrain.files import write_atomically, write_csv
from camtrain.regions import VOID
from camtrain.report import overlay
from camtrain.report.console import said
from camtrain.runs import facts
from camtrain.streams import Stream, stream

log = logging.getLogger("camtrain")

SHEET_COLUMNS, SHEET_ROWS = 8, 40


def inspect_data(config: Config, folder: Path) -> None:
    """Say what is in the data set, and leave a contact sheet with the objects' outlines in the folder.

    Raises:
        UserError: files are missing, or cannot be read.
    """
    # Nothing is cached, and both splits are fitted in the same way, so that they can be compared.
    dataset = replace(config.dataset, crop_scale=[1.0, 1.0], cache=None, on_error=OnError.skip)
    threads = worker_threads(config.trainer)
    train_set, val_set = build(dataset, config.seed, threads, guided=True)
    scans = inspect.scan(train_set, threads), inspect.scan(val_set, threads)
    summaries = {
        "training": inspect.summarise(train_set, scans[0]),
        "validation": inspect.summarise(val_set, scans[1]),
    }
    duplicates = inspect.find_duplicates(train_set, val_set, scans)
    log.info("%s, %s\n", facts.data_name(config.dataset), facts.pixels(config.dataset))
    if config.dataset.fold is not None:
        count = len(val_set.targets)
        log.info("%d of %d images are in fold %s\n", count, count + len(train_set.targets), config.dataset.fold)
    log.info("%s\n", inspect.describe(summaries, duplicates))
    if duplicates:
        write_csv(folder / inspect.DUPLICATES, inspect.HEADING, (duplicate.row() for duplicate in duplicates))
    for line in said({"train": facts.notes(train_set), "val": facts.notes(val_set)}):
        log.info("%s", line)
    for entry in (*train_set.skipped, *val_set.skipped):
        log.info("cannot be used: %s", entry.reason)
    rows = sheet_rows(train_set, stream(config.seed, Stream.images))
    sheet = folder / "contact_sheet.png"
    write_atomically(sheet, lambda opened: overlay.save_png(overlay.contact_sheet(rows), opened))
    which = f", the first {SHEET_ROWS} classes" if len(train_set.classes) > SHEET_ROWS else ""
    log.info("contact sheet of training images%s: %s", which, sheet)


def sheet_rows(image_set: ImageSet, generator: np.random.Generator) -> list[overlay.Row]:
    """Random images of each class, or of the first ones where there are many, with the regions of its own objects."""
    rows = []
    for class_number, name in enumerate(image_set.classes[:SHEET_ROWS]):
        showing = shows(image_set.targets, class_number).nonzero().flatten().tolist()
        chosen = sorted(generator.permutation(showing)[:SHEET_COLUMNS].tolist())
        if chosen:
            batch = one_batch(image_set, chosen, torch.device("cpu"))
            regions = batch.regions
            if is_multilabel(batch.targets):
                regions = torch.where((regions == class_number + 1) | (regions == VOID), regions, 0)
            rows.append(overlay.Row(f"{name} ({len(showing)})", batch.images, regions))
    return rows
