#!/usr/bin/env python3
"""Does the term lock a map onto a shortcut? Shapes beside a patch whose colour gives the class away in training.

    scripts/decoy.py [SEED ...] [--strength P] [--out FOLDER] [SETTING ...]

Every image holds an object and a coloured patch of 8 pixels, at random places. In training the colour is that of the
object's class with probability P, and any class's otherwise; in validation it tells nothing. Each seed is a run of the
command with the arms baseline, regularised and entropy, which is the term without consistency. What is told, means over
seeds: accuracy, also where the patch happens to be right and where it misleads; the share of the map on the object and
on the patch, and how often the map's peak is on either; the peak counts with two pixels around.

As a data set of its own: `camtrain dataset=python dataset.source=decoy:splits` with this folder on the Python path.
"""

from __future__ import annotations

import argparse
import colorsys
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from torch.utils.data import Dataset

import camtrain
from camtrain.data.sources import shapes

ROOT = Path(__file__).resolve().parents[1]
SIDE, SIZE, AROUND = 8, 64, 2
HUES = [number / len(shapes.CLASSES) for number in range(len(shapes.CLASSES))]
COLOURS = torch.tensor([colorsys.hsv_to_rgb(hue, 0.9, 0.9) for hue in HUES])
FIGURES = (
    *("accuracy", "accuracy, patch right", "accuracy, patch wrong"),
    *("on object", "on patch", "peak object", "peak patch"),
)


class Decoys(Dataset):
    """Items (image, target, mask of the object); beside them the patches' classes and masks."""

    classes = shapes.CLASSES

    def __init__(self, count: int, seed: int, split: int, strength: float) -> None:
        self.images, self.targets, self.masks = shapes.generate(count, (3, SIZE, SIZE), seed, split)
        generator = torch.Generator().manual_seed(4 * seed + 2 * split + 1)
        told = torch.rand(count, generator=generator) < strength
        anything = torch.randint(len(self.classes), (count,), generator=generator)
        self.shown = torch.where(told, self.targets, anything)
        self.patches = torch.zeros_like(self.masks)
        corners = torch.randint(SIZE - SIDE, (count, 2), generator=generator).tolist()
        for number, (top, left) in enumerate(corners):
            place = (slice(top, top + SIDE), slice(left, left + SIDE))
            self.images[(number, slice(None), *place)] = (255 * COLOURS[self.shown[number]]).byte()[:, None, None]
            self.patches[(number, *place)] = 1
            self.masks[(number, *place)] = 0  # it hides the object

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Tensor, int, Tensor]:
        return self.images[number], int(self.targets[number]), self.masks[number]


def splits(seed: int, strength: float = 0.9) -> tuple[Decoys, Decoys]:
    """For `dataset=python`."""
    return Decoys(4000, seed, 0, strength), Decoys(1000, seed, 1, 0.0)


def train(seed: int, strength: float, out: Path, settings: list[str]) -> Path:
    folder = out / f"strength{strength:g}_seed{seed}"
    if not (folder / "result.json").exists():
        subprocess.run(
            [
                *(sys.executable, "-m", "camtrain", "dataset=python", "dataset.source=decoy:splits"),
                *(f"dataset.image_size={SIZE}", f"+dataset.options.strength={strength}", f"seed={seed}"),
                *("cam.views=symmetries", "+arms.entropy.cam.consistency=0", "evaluate.faithfulness_images=0"),
                *("evaluate.sanity_images=0", "evaluate.maps=[]", f"hydra.run.dir={folder}", *settings),
            ],
            check=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])},
        )
    return folder


def measured(folder: Path, decoys: Decoys) -> dict[str, dict[str, float]]:
    """Of each arm, the figures on validation images."""
    found = {}
    for name, network in camtrain.load_run(folder, allow=["decoy"]).networks.items():
        logits, maps = [], []
        for images, targets in zip(
            torch.split(decoys.images.float() / 255, 100), torch.split(decoys.targets, 100), strict=True
        ):
            with torch.no_grad():
                logits.append(network(images).logits)
            maps.append(camtrain.maps(network, images, targets, stretched=True).detach())
        right = (torch.cat(logits).argmax(1) == decoys.targets).float()
        given_away = decoys.shown == decoys.targets
        accuracies = [float(right[rows].mean()) for rows in (slice(None), given_away, ~given_away)]
        found[name] = dict(zip(FIGURES[:3], accuracies, strict=True)) | where(torch.cat(maps), decoys)
    return found


def where(maps: Tensor, decoys: Decoys) -> dict[str, float]:
    """Mean share of the maps on objects and patches, and how often their peaks are there."""
    shares = maps / maps.sum((1, 2), keepdim=True)
    peaks = (maps == maps.amax((1, 2), keepdim=True)).float()
    figures = {}
    for name, masks in (("object", decoys.masks), ("patch", decoys.patches)):
        around = max_pool2d((masks == 1).float()[:, None], 2 * AROUND + 1, 1, AROUND)[:, 0]
        figures[f"on {name}"] = float((shares * (masks == 1)).sum((1, 2)).nanmean())
        figures[f"peak {name}"] = float((peaks * around).amax((1, 2)).mean())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", help="seeds, and settings KEY=VALUE")
    parser.add_argument("--strength", type=float, default=0.9)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "outputs" / "decoy", help="folder of the runs; those there count"
    )
    given = parser.parse_intermixed_args()
    settings = [text for text in given.seeds if "=" in text]
    each = []
    for seed in [int(text) for text in given.seeds if "=" not in text] or [0]:
        folder = train(seed, given.strength, given.out.absolute(), settings)
        each.append(measured(folder, splits(seed, given.strength)[1]))
    print(f"| {len(each)} seeds, strength {given.strength:g} | {' | '.join(FIGURES)} |\n|{'---|' * (len(FIGURES) + 1)}")
    for arm in each[0]:
        means = [statistics.mean(found[arm][figure] for found in each) for figure in FIGURES]
        print(f"| {arm} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


if __name__ == "__main__":
    main()
