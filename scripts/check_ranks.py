#!/usr/bin/env python3
"""Whether several processes train what one does: largest differences between their networks.

    scripts/check_ranks.py [SETTING ...] [--ranks N ...] [--steps S] [--precision float64|float32]

Trains each setting on the same batches with one process and with as many as are given, by `trainer.processes=N`, and
compares the weights and buffers of all arms, each over the largest value of its tensor (at least 0.001), and the
figures of every epoch.
In float64 all that is left is rounding: less than 1e-9 after 50 steps. In float32 the difference is set beside what one
process differs by with two threads instead of one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from camtrain.training.checkpoint import WEIGHTS

ROOT = Path(__file__).resolve().parents[1]

Outcome = tuple[dict[str, torch.Tensor], list[dict[str, float]]]

LEAST = 1e-3
"""Below that a tensor may hold nothing but rounding, as the running mean of what was centred before."""

COMMON = (
    *("dataset.train=72", "dataset.val=19", "dataset.image_size=32", "trainer.batch_size=12", "trainer.workers=1"),
    *("trainer.epochs=20", "trainer.device=cpu", "evaluate.faithfulness_images=0", "evaluate.sanity_images=0"),
    *("evaluate.maps=[]", "evaluate.images=0"),
)
SETTINGS = {
    "default: symmetries, consistency": (),
    "layercam through the head, area, project": (
        *("cam.variant=layercam", "cam.path=autograd", "cam.term=area", "cam.conflict=project", "cam.views=mirror"),
    ),
    # By SGD: of the biases that a batch norm takes away again AdamW divides gradients of mere rounding by their size.
    "dropout: mobilenet_v3_small, gradcampp, SGD": (
        "model.name=mobilenet_v3_small",
        "cam.variant=gradcampp",
        "optim=sgd",
        "optim.lr=0.01",
    ),
    "several classes, mirror": ("dataset.objects=3", "cam.views=mirror"),
    "contrastive, masked_kl, paste": ("cam.views=paste", "cam.contrastive=1", "cam.masked_kl=0.5"),
    "per image, anchored after a fork": ("cam.balance=image", "cam.anchor=1", "trainer.fork=2", "cam.enough=3"),
    "three arms, keep, saliency_guided": (
        *("+arms.third={cam:{keep:0.25}}", "+arms.fourth={cam:{term:none,consistency:0,saliency_guided:1}}"),
    ),
    "energy_outside, fixed weight, no views": ("cam.term=energy_outside", "cam.weight=0.3", "cam.views=none"),
}


def trained(folder: Path, overrides: list[str], threads: int = 1) -> Outcome:
    """What a run leaves."""
    own = (*COMMON, *overrides, f"trainer.threads={threads}", f"hydra.run.dir={folder}")
    command = [sys.executable, "-m", "camtrain", *own]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return outcome(folder)


def outcome(folder: Path) -> Outcome:
    """Weights and buffers of all arms of a finished run, and their figures of every epoch."""
    arms = json.loads((folder / "result.json").read_text())["arms"]
    read = {arm: torch.load(folder / arm / WEIGHTS, weights_only=True) for arm in arms}
    weights = {f"{arm}.{name}": value for arm, values in read.items() for name, value in values.items()}
    return weights, [row for arm in arms.values() for row in arm["epochs"]]


def largest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Difference of two networks, over the largest value of each tensor, or over :data:`LEAST`."""
    assert one.keys() == other.keys()
    pairs = [(one[name].double(), other[name].double()) for name in one]
    return max(float((first - second).abs().max() / first.abs().max().clamp_min(LEAST)) for first, second in pairs)


def of_figures(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """Largest difference of a figure, over itself where it is above 1; what is time left out."""
    return max(
        abs(row[tag] - like[tag]) / max(1.0, abs(row[tag]))
        for row, like in zip(one, other, strict=True)
        for tag in row
        if not tag.startswith("time/") and None not in (row[tag], like[tag])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="beginnings of their names; default: all")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--precision", default="float64")
    arguments = parser.parse_args()
    print(f"{'setting':<44}{'ranks':>6}  {'weights':>9}  {'figures':>9}", flush=True)
    for name, settings in SETTINGS.items():
        if arguments.settings and not name.startswith(tuple(arguments.settings)):
            continue
        own = [*settings, f"trainer.max_steps={arguments.steps}", f"trainer.precision={arguments.precision}"]
        with tempfile.TemporaryDirectory() as folder:
            one = trained(Path(folder, "1"), own)
            others = {
                f"{size}": trained(Path(folder, str(size)), [*own, f"trainer.processes={size}"])
                for size in arguments.ranks
            }
            if arguments.precision == "float32":
                others["1 (2 threads)"] = trained(Path(folder, "threads"), own, threads=2)
        for size, other in others.items():
            print(
                f"{name:<44}{size:>6}  {largest(one[0], other[0]):9.1e}  {of_figures(one[1], other[1]):9.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
