#!/usr/bin/env python3
"""Images per second of camtrain's data path beside a plain torchvision pipeline, on the same images and settings.

    scripts/bench_data.py ROOT [--size 192] [--workers 0 2] [--epochs 4] [--rounds 3]

ROOT is a folder data set, `dataset=folder dataset.root=ROOT`. The plain pipeline is ImageFolder, DataLoader with this
number of worker processes, and transforms.v2: random resized crop, mirror, and, in the second half, colour jitter and
erasing. camtrain has as many threads in its one process. Both deliver float batches of training images; no network is
trained. The cache is empty at first, so that the first epoch includes making it. Each pipeline runs in a process of
its own, one after the other; medians over the rounds are printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from camtrain.config.schema import FolderConfig
from camtrain.data.batches import Batching, training_batches
from camtrain.data.build import augmentation, opened, rule_for_crops
from camtrain.data.sources.folder import list_folder

BATCH = 32
CROP = (0.4, 1.0)


def plain(root: Path, size: int, workers: int, epochs: int, rich: bool) -> Iterator[int]:
    """One item, the number of images, at the end of each epoch."""
    more = [v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.RandomErasing(0.25)] if rich else []
    steps = [
        v2.ToImage(),
        v2.RandomResizedCrop(size, CROP, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        *more,
    ]
    folder = next(path for path in (root / "train", root / "images" / "train") if path.is_dir())
    loader = DataLoader(
        ImageFolder(folder, v2.Compose(steps)),
        BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
    )
    for _ in range(epochs):
        yield sum(len(images) for images, _ in loader)


def ours(root: Path, size: int, workers: int, epochs: int, rich: bool, cache: str) -> Iterator[int]:
    """The same for camtrain."""
    config = FolderConfig(root=str(root), image_size=size, crop_scale=list(CROP), cache=cache)
    if rich:
        config.brightness = config.contrast = config.saturation = 0.4
        config.hue, config.erase = 0.1, 0.25
    varied = augmentation(config)
    listing = list_folder(config, config.train_split).without_regions()
    image_set = opened(config, listing, rule_for_crops(config), max(1, workers), "training")
    batching = Batching(BATCH, threads=max(1, workers))
    batches = training_batches(image_set, batching, epochs, 0, varied, (size, size))
    for _ in range(epochs):
        yield sum(len(next(batches).images) for _ in range(len(image_set.targets) // BATCH))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", type=Path, help="folder data set")
    parser.add_argument("--size", type=int, default=192, help="pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="processes, or threads")
    parser.add_argument("--epochs", type=int, default=4, choices=range(2, 100), metavar="2..")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is printed")
    given = parser.parse_args()
    print(f"{'augmentation':<22}{'workers':>8}{'epoch':>7}{'plain':>9}{'camtrain':>10}  images per second, ratio")
    for rich in (False, True):
        for workers in given.workers:
            rounds = [measured(given.root, given.size, workers, given.epochs, rich) for _ in range(given.rounds)]
            label = "crop, flip" + ", colour, erase" * rich
            for number, epoch in enumerate(("first", "later")):
                one, two = (statistics.median(both[number][arm] for both in rounds) for arm in (0, 1))
                ratio = statistics.median(both[number][1] / both[number][0] for both in rounds)
                print(f"{label:<22}{workers:>8}{epoch:>7}{one:>9.0f}{two:>10.0f}  x {ratio:.2f}", flush=True)


def measured(root: Path, size: int, workers: int, epochs: int, rich: bool) -> list[tuple[float, float]]:
    """Images per second of both in the first epoch and in the later ones, without a pause between, as in training."""
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for pipeline, more in ((plain, ()), (ours, (cache,))):
            # A process of its own, so that neither is affected by what the other left behind.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                arguments = (root, size, workers, epochs, rich, *more)
                found.append(alone.submit(speeds, pipeline, *arguments).result())
    return list(zip(*found, strict=True))


def speeds(pipeline: Callable[..., Iterator[int]], *arguments: Any) -> tuple[float, float]:
    """Images per second in the first epoch and in all later ones."""
    started = time.perf_counter()
    run = pipeline(*arguments)
    first = next(run)
    begun = time.perf_counter()
    later = sum(run)
    return first / (begun - started), later / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
