#!/usr/bin/env python3
"""Make docs/backbones.md: what the CAM term costs and does on many networks.

    scripts/backbones.py [--out FOLDER] [NAME ...]   train; figures are kept in FOLDER, what is there is skipped
    scripts/backbones.py --out FOLDER --table        only write the table

Each network is trained by the command itself on generated shapes, both arms side by side; the step times are those of
that run. Peak memory is measured apart, in a process for each arm: the most that the process held in a few training
steps, less what it held before the first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "backbones.md"

NETWORKS = (
    *("small_resnet", "resnet18", "resnet50", "regnet_y_400mf", "shufflenet_v2_x1_0", "googlenet", "mobilenet_v2"),
    *("efficientnet_b0", "mobilenet_v3_small", "squeezenet1_1", "densenet121", "convnext_tiny", "vgg11"),
    *("vit_b_16", "swin_t"),
)

SETTINGS = ("dataset.train=2000", "dataset.val=300", "evaluate.images=0", "trainer.epochs=5")

LARGE = ("resnet50", "densenet121", "convnext_tiny", "vgg11", "vit_b_16", "swin_t")
FEWER = "dataset.train=320"
"""What the large ones are trained on, which take a second or more for a step."""

LARGER = {"swin_t": 128}  # pixels, where the map would have fewer than 4 x 4 cells at the 64 of the others

MEMORY_STEPS = 4


def train(name: str, out: Path, more: list[str]) -> None:
    """Run the command and the two memory measurements; leaves NAME.json."""
    folder = out / "runs" / name
    size = LARGER.get(name, 64)
    subprocess.run(
        [
            *(sys.executable, "-m", "camtrain", f"model.name={name}", f"dataset.image_size={size}"),
            *(*SETTINGS, *([FEWER] if name in LARGE else []), *more, f"hydra.run.dir={folder}"),
        ],
        check=True,
        cwd=ROOT,
    )
    result = json.loads((folder / "result.json").read_text())
    result["memory"] = {
        arm: int(
            subprocess.run(
                [sys.executable, __file__, "--measure", arm, name, str(size)],
                check=True,
                capture_output=True,
                text=True,
                cwd=ROOT,
            ).stdout
        )
        for arm in ("baseline", "regularised")
    }
    (out / f"{name}.json").write_text(json.dumps(result))


def measure(arm_name: str, name: str, size: int) -> int:
    """Bytes that a few training steps of one arm add to the process at most."""
    import torch

    from camtrain.config.options import CamConfig, Score
    from camtrain.config.schema import ModelConfig, OptimConfig
    from camtrain.data.batches import Batch
    from camtrain.data.sources import shapes
    from camtrain.networks.build import build
    from camtrain.networks.capture import probe_routes
    from camtrain.training.arm import make_arms
    from camtrain.training.step import train_step

    images, targets, regions = shapes.generate(32, size, seed=0, split=0)
    batch = Batch(images.float() / 255, targets, regions, torch.arange(32))
    model = build(ModelConfig(name=name), len(shapes.CLASSES), (3, size, size), seed=0).classifier
    # Four images are enough to find the route, and leave no trace in the peak.
    routes = probe_routes(model, batch.images[:4], Score.centred)
    cams = {"baseline": CamConfig(weight=0), "regularised": CamConfig()}
    arms = {arm.name: arm for arm in make_arms(model, cams, routes, OptimConfig(), 1e-4, pretrained=False)}
    arm = arms[arm_name]
    arm.network.train()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what came before
    for _ in range(MEMORY_STEPS):
        train_step(arm, batch, 1.0, observe=False)
    return memory("VmHWM") - before


def memory(entry: str) -> int:
    """Bytes that the process holds now (VmRSS), or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


HEADINGS = (
    *("network", "layer of the map", "grid", "gradient in training", "step time", "peak memory"),
    *("accuracy", "entropy, nats", "area, cells", "energy in mask", "dead rate", "gradient share"),
)


def row(result: dict[str, Any]) -> tuple[str, ...]:
    model, timing, memory = result["model"], result["timing"], result["memory"]
    final = [result["arms"][arm]["final"] for arm in ("baseline", "regularised")]

    def both(tag: str, digits: int) -> str:
        return " → ".join("-" if part[tag] is None else f"{part[tag]:.{digits}f}" for part in final)

    return (
        model["name"],
        model["layer"],
        " x ".join(map(str, model["grid"])),
        model["gradient_path"]["training"],
        f"x {timing['step_ratio']:.2f}",
        f"x {memory['regularised'] / memory['baseline']:.2f}",
        both("accuracy/val", 3),
        both("cam/entropy", 2),
        both("cam/area", 2),
        both("cam/energy_in_mask", 3),
        both("cam/dead_rate", 3),
        f"{final[1]['effort/cam_share']:.2f}",
    )


def table(out: Path) -> str:
    """The document."""
    results = [json.loads((out / f"{name}.json").read_text()) for name in NETWORKS if (out / f"{name}.json").exists()]
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(row(result) for result in results)]
    environment, config = results[0]["environment"], results[0]["config"]
    settings, large = " ".join(SETTINGS), ", ".join(LARGE)
    larger = ", ".join(f"{name} {size}" for name, size in LARGER.items())
    return f"""# Backbones

Made by `scripts/backbones.py` on {environment["device"]}, torch {environment["torch"]}: each network from fresh
weights, seed {config["seed"]}, {config["dataset"]["image_size"]} pixels ({larger}), default settings but

    {settings}

and `{FEWER}` for {large}.

Baseline → regularised; step time and peak memory are those of the regularised arm over the baseline's. So short a
training says what the term costs and that nothing breaks, not what a network or the term can reach: most of these have
hardly begun to learn by then, and the term's share of the effort, which grows with confidence, is small. Networks
without normalisation layers (SqueezeNet, VGG) learn nothing from scratch in this time, in either arm; most of their
maps are dead in both. With more time, or a GPU: `scripts/backbones.py trainer.epochs=20`.

""" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "backbones", help="folder of the figures")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--measure", metavar="ARM", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help="networks, and settings KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.measure:
        name, size = arguments.names
        print(measure(arguments.measure, name, int(size)))
        return
    out = arguments.out.absolute()
    if not arguments.table:
        out.mkdir(parents=True, exist_ok=True)
        more = [text for text in arguments.names if "=" in text]
        for name in [text for text in arguments.names if "=" not in text] or NETWORKS:
            if not (out / f"{name}.json").exists():
                train(name, out, more)
    DOCUMENT.write_text(table(out))
    print(f"wrote {DOCUMENT}")


if __name__ == "__main__":
    main()
