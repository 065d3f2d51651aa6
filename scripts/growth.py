#!/usr/bin/env python3
"""Time and memory of a short run against the size of everything: draws docs/growth.png and prints its table.

    scripts/growth.py [AXIS ...] [--threads T] [--json FILE] [--plot FILE]

images       training images in a folder, 1 k to 200 k, generated JPEG files of 32 pixels, decoded into the cache
classes      2 to 1000
cells        of the map, 16 to 4096, with images of 32 to 512 pixels
arms         2 to 16
validation   validation images, 1 k to 50 k

Every point is a run of the command in a process of its own, of 40 training steps of 16 images, each once with the
smallest of everything else. Seconds are those of the whole run, start-up included; memory is the most that the process
held. The exponent is that of a power law through the two last points: 1 is linear, 0 is flat.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    *("trainer.max_steps=40", "trainer.batch_size=16", "trainer.checkpoint_every=null", "evaluate.images=0"),
    *("evaluate.faithfulness_images=16", "evaluate.road_images=0", "evaluate.sanity_images=0", "evaluate.maps=[]"),
)
SMALL = {"train": 1000, "val": 200, "classes": 2, "image_size": 32}
CHUNK = 1000  # JPEG files written by one thread at a time


def fake(**sizes: int) -> list[str]:
    """Settings of generated noise."""
    return ["dataset=fake", *(f"dataset.{key}={value}" for key, value in (SMALL | sizes).items())]


def with_arms(count: int) -> list[str]:
    values = ",".join(f"{0.9 * number / count:.4f}" for number in range(1, count))
    return [*fake(), f"arms_by.share=[{values}]"]


AXES: dict[str, tuple[Sequence[int], Callable[[int], list[str]]]] = {
    "images": ((1000, 10_000, 50_000, 200_000), lambda _: ["dataset=folder", "dataset.image_size=32"]),
    "classes": ((2, 10, 100, 1000), lambda count: fake(classes=count, train=max(1000, 2 * count), val=max(200, count))),
    # The map of the small residual network has an eighth of the image's pixels in each direction.
    "cells": ((16, 64, 256, 1024, 4096), lambda cells: fake(image_size=8 * math.isqrt(cells))),
    "arms": ((2, 4, 8, 16), with_arms),
    "validation": ((1000, 5000, 20_000, 50_000), lambda count: fake(val=count)),
}


def write_images(root: Path, count: int) -> None:
    """JPEG files of noise in two classes, and a few to validate on."""
    for split in ("train", "val"):
        for name in ("one", "other"):
            (root / split / name).mkdir(parents=True)

    def write(start: int) -> None:
        generator = np.random.default_rng(start)
        for number in range(start, min(start + CHUNK, count)):
            noise = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            image = Image.fromarray(noise).resize((32, 32))
            for split in ("train", "val") if number < SMALL["val"] else ("train",):
                image.save(root / split / ("one", "other")[number % 2] / f"{number}.jpg")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(0, count, CHUNK)))


def run(arguments: list[str]) -> tuple[float, float]:
    """Seconds and MiB of a run."""
    started = time.perf_counter()
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "camtrain", *SETTINGS, *arguments])
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"camtrain {' '.join(arguments)} failed")
    return time.perf_counter() - started, used.ru_maxrss / 1024


def measure(axis: str, threads: int) -> list[tuple[int, float, float]]:
    """Size, seconds and MiB of each run along an axis."""
    sizes, settings = AXES[axis]
    points = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            more = [f"trainer.threads={threads}", f"hydra.run.dir={folder}/run"]
            if axis == "images":
                write_images(Path(folder) / "images", size)
                more += [f"dataset.root={folder}/images", f"dataset.cache={folder}/cache"]
            points.append((size, *run([*settings(size), *more])))
        print(f"{axis:<12}{size:>8}{points[-1][1]:>9.1f} s{points[-1][2]:>9.0f} MiB", flush=True)
    return points


def exponent(points: Sequence[tuple[int, float, float]], column: int) -> float:
    """Of a power law through the last two points."""
    first, last = points[-2:]
    return math.log(last[column] / first[column]) / math.log(last[0] / first[0])


def plot(found: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    figure, rows = plt.subplots(2, len(found), figsize=(2.6 * len(found), 4.6), squeeze=False, layout="constrained")
    for column, (axis, points) in enumerate(found.items()):
        for row, unit in enumerate(("seconds", "MiB")):
            chart = rows[row][column]
            chart.plot([size for size, *_ in points], [point[row + 1] for point in points], "o-")
            chart.set(xlim=(0, None), ylim=(0, 1.08 * max(point[row + 1] for point in points)))
            chart.set(xlabel=axis if row else "", ylabel="" if column else unit)
            chart.xaxis.set_major_locator(MaxNLocator(4))
            chart.xaxis.set_major_formatter(EngFormatter(sep=" "))
            chart.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", choices=[*AXES, []], metavar="AXIS", help=", ".join(AXES))
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--json", type=Path, help="file for the figures; those of other axes in it stay")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "growth.png")
    given = parser.parse_args()
    found = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for axis in given.axes or AXES:
        found[axis] = measure(axis, given.threads)
        if given.json:
            given.json.write_text(json.dumps(found))
    print("\n| against | from | to | seconds | exponent | MiB | exponent |\n|---|---|---|---|---|---|---|")
    for axis in (name for name in AXES if name in found):
        (least, *first), (most, *last) = found[axis][0], found[axis][-1]
        cells = [axis, least, most]
        for column in range(2):
            cells += [f"{first[column]:.0f} → {last[column]:.0f}", f"{exponent(found[axis], column + 1):.2f}"]
        print("| " + " | ".join(map(str, cells)) + " |")
    plot({name: found[name] for name in AXES if name in found}, given.plot)


if __name__ == "__main__":
    main()
