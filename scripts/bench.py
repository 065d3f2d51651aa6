#!/usr/bin/env python3
"""Where camtrain's time goes, beside what people use instead: one table, ratios from one run.

    scripts/bench.py [PART ...] [--networks NAME ...] [--rounds R] [--threads T] [--json FILE] [--check]

step      a training step of each network, of 8 images at 64 pixels, the default one's of 32: a bare loop, the baseline,
          the regularised arm by closed form, by autograd through the head, the whole graph (as code with hooks does),
          a second forward pass, and consistency on an eighth of the batch; milliseconds, ratios, and the most memory
          that a process of its own holds
roofline  operations of a step of the default network, against what a matrix product and a copy reach here
loop      images per second of one arm, read from JPEG files: camtrain, with and without its cache, a loop as in
          torchvision's references, timm's loader, Lightning's trainer
maps      Grad-CAM maps per second at batch 1, 32 and 256: camtrain, grad-cam, torch-cam, captum
arms      three values in one run, in a sweep that shares its baseline, and in separate runs
start     import torch, --help, --cfg job, and the time to the first training step
run       the default run by parts, and the evaluation after an epoch beside a plain pass for accuracy; takes minutes

Without PART all but the last. What is compared takes turns, and the median over rounds of each round's ratio is told.
`--check` ends with exit code 1 if a goal is missed. Timings need an otherwise idle machine. `scripts/bench_data.py`
times the data path, `scripts/bench_evaluate.py` the final measurements, both beside other libraries.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from camtrain.arms import BASELINE, REGULARISED
from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.options import CamConfig, GradientPath, Score, ViewKind
from camtrain.config.schema import FolderConfig, ModelConfig, OptimConfig
from camtrain.data.batches import Batch, Batching, steps_per_epoch, training_batches
from camtrain.data.build import augmentation, opened, rule_for_crops
from camtrain.data.sources import shapes
from camtrain.data.sources.folder import list_folder
from camtrain.data.views import draw_views, with_views
from camtrain.networks.build import build
from camtrain.networks.capture import probe_routes
from camtrain.networks.classifier import Classifier
from camtrain.training.arm import Arm, make_arms
from camtrain.training.loop import Plan, train_epoch
from camtrain.training.state import TrainingState
from camtrain.training.step import train_step

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = (
    "small_resnet",
    "resnet18",
    "resnet50",
    "mobilenet_v3_small",
    "vgg11",
    "vit_b_16",
    "timm/tf_efficientnet_lite0",
)
BATCH, SMALL, SIZE, CLASSES = 32, 8, 64, len(shapes.CLASSES)
KINDS = ("bare", "baseline", "closed", "autograd", "whole graph", "second pass", "views", "consistency")
OVER = {"baseline": "bare", "consistency": "views"}
"""What a kind of step is divided by, where that is not the baseline."""

LEAST = 0.3
"""Seconds that something is done for before it is the other one's turn."""

LIMITS = {"closed": 1.03, "autograd": 1.15, "consistency": 1.2}
"""Goals: largest ratio of a step. By closed form where the map has one, else by autograd."""


@dataclass
class Row:
    """A line of the table."""

    part: str
    name: str
    value: float
    unit: str
    ratio: float | None = None
    over: str = ""
    goal: float | None = None  # largest ratio
    more: str = ""

    @property
    def missed(self) -> bool:
        return self.goal is not None and self.ratio is not None and self.ratio > self.goal

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"x {self.ratio:.2f} {self.over}"
        goal = "" if self.goal is None else f"{'MISSED' if self.missed else 'ok'} (goal {self.goal:g})"
        return f"{self.part:<9}{self.name:<44}{self.value:>10.3g} {self.unit:<9}{ratio:<22}{goal:<18}{self.more}"


def in_turns(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each task in each round, after two rounds that do not count; what is short is done several times."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    times = dict.fromkeys(tasks, 1)
    for number in range(-2, rounds):
        for name, task in [*tasks.items()] if number % 2 else reversed([*tasks.items()]):
            started = time.perf_counter()
            for _ in range(times[name]):
                task()
            found = (time.perf_counter() - started) / times[name]
            if number < 0:
                times[name] = max(1, round(LEAST / found))
            else:
                seconds[name].append(found)
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, over: str) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(seconds[name], seconds[over], strict=True))


def classifier(name: str) -> Classifier:
    network = build(ModelConfig(name=name), CLASSES, (3, SIZE, SIZE), seed=0).classifier
    return network.to(memory_format=torch.channels_last).train()


def made_batch(views: bool, count: int = BATCH) -> Batch:
    images, targets, regions = shapes.generate(count, (3, SIZE, SIZE), seed=0, split=0)
    batch = Batch(images.float() / 255, targets, regions, torch.arange(count))
    if views:
        drawn = draw_views(ViewKind.symmetries, 1 / 8, targets, (SIZE, SIZE), np.random.default_rng(0))
        seen, theirs = with_views(batch.images, regions, drawn)
        batch = Batch(seen, torch.cat([targets, targets[drawn.rows]]), theirs, batch.indices, drawn)
    return batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))


def steps(name: str, network: Classifier, kinds: tuple[str, ...]) -> dict[str, Callable[[], object]]:
    """A training step of each kind that this network has. All train the same weights, each by an optimiser of its own:
    as many copies of a large network would not fit into memory."""
    plain, viewed = (made_batch(views, BATCH if name == "small_resnet" else SMALL) for views in (False, True))
    routes = probe_routes(network, plain.images[:4], Score.centred)
    cams = {
        "baseline": CamConfig(weight=0),
        "closed": CamConfig(),
        "autograd": CamConfig(path=GradientPath.autograd),
        "views": CamConfig(weight=0),
        "consistency": CamConfig(),
    }
    closed = routes.training is GradientRoute.closed
    found: dict[str, Callable[[], object]] = {}
    for kind in kinds:
        if kind == "closed" and not closed:
            continue
        if kind in cams:
            cam = {REGULARISED: cams[kind]}
            arm = make_arms(network, cam, routes, OptimConfig(), 1e-3, pretrained=False)[0]
            batch = viewed if kind in ("views", "consistency") else plain
            step = partial(arm_step, arm, network.routes, batch)
            for _ in range(3):  # from then on the automatic weight needs no backward pass of its own
                step(observe=True)
            found[kind] = step
        else:
            found[kind] = by_hand(network, kind, plain)
    return found


def arm_step(arm: Arm, routes: Routes, batch: Batch, observe: bool = False) -> None:
    """A step of an arm that shares its network with others, which need not go the same way through it."""
    arm.network.routes = routes
    train_step(arm, batch, 1.0, observe)


def by_hand(network: Classifier, kind: str, batch: Batch) -> Callable[[], object]:
    """Steps as one would write them: without a map, with the gradient of the score through the whole graph, or with a
    forward pass of its own for the map."""
    parameters = [part for part in network.parameters() if part.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)

    def entropy(logits: Tensor, activations: Tensor, others: list[nn.Parameter]) -> Tensor:
        score = logits.gather(1, batch.targets[:, None]).sum()
        gradient, *_ = torch.autograd.grad(score, [activations, *others], create_graph=True, allow_unused=True)
        maps = (gradient.mean((2, 3), keepdim=True) * activations).sum(1).relu().flatten(1)
        shares = maps / maps.sum(1, keepdim=True).clamp_min(1e-12)
        return -(shares * shares.clamp_min(1e-12).log()).sum(1).mean()

    def step() -> None:
        output = network(batch.images)
        loss = cross_entropy(output.logits, batch.targets)
        if kind == "whole graph":
            loss = loss + 0.1 * entropy(output.logits, output.activations, parameters)
        if kind == "second pass":
            again = network(batch.images)
            loss = loss + 0.1 * entropy(again.logits, again.activations, [])
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()

    return step


def step_rows(networks: list[str], rounds: int) -> Iterator[Row]:
    for name in networks:
        network = classifier(name)
        tasks = steps(name, network, KINDS)
        for kind in [*tasks]:
            try:
                tasks[kind]()
            except (RuntimeError, NotImplementedError) as error:  # an operation without a second derivative
                yield Row("step", f"{name}, {kind}", float("nan"), "ms", more=str(error).partition("\n")[0][:60])
                del tasks[kind]
        seconds = in_turns(tasks, rounds)
        memory = {kind: int(this("--memory", name, kind)) / 2**20 for kind in tasks}
        for kind in tasks:
            over = OVER.get(kind, "baseline")
            goal = LIMITS.get(kind) if kind != "autograd" or "closed" not in tasks else None
            shown = None if kind == "bare" else ratio(seconds, kind, over)
            yield Row(
                *("step", f"{name}, {kind}", 1000 * statistics.median(seconds[kind]), "ms", shown, over, goal),
                f"{memory[kind]:.0f} MiB",
            )


def held(entry: str) -> int:
    """Bytes that this process holds now (VmRSS), or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


def peak_memory(name: str, kind: str) -> int:
    """Bytes that a few steps add to this process at most."""
    network = classifier(name)
    before = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what came before
    step = steps(name, network, (kind,))[kind]
    for _ in range(3):
        step()
    return held("VmHWM") - before


def this(*arguments: str) -> str:
    """What this script prints in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(torch.get_num_threads()), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def roofline_rows(rounds: int) -> Iterator[Row]:
    from torch.utils.flop_counter import FlopCounterMode

    step = steps("small_resnet", classifier("small_resnet"), ("closed",))["closed"]
    with FlopCounterMode(display=False) as counter:
        step()
    one, other = torch.rand(1024, 1024), torch.rand(1024, 1024)
    block = torch.rand(2**25)
    into = torch.empty_like(block)
    seconds = in_turns({"step": step, "product": lambda: one @ other, "copy": lambda: into.copy_(block)}, 3 * rounds)
    best = {name: min(values) for name, values in seconds.items()}
    product, reached = 2 * 1024**3 / best["product"] / 1e9, counter.get_total_flops() / best["step"] / 1e9
    yield Row("roofline", "a matrix product", product, "GFLOP/s")
    yield Row("roofline", "small_resnet, closed", reached, "GFLOP/s", reached / product, "the product")
    yield Row("roofline", "a copy", 2 * 4 * 2**25 / best["copy"] / 1e9, "GB/s")


def jpeg_folder(root: Path, count: int) -> None:
    """A folder data set of generated images."""
    images, targets, _ = shapes.generate(count, (3, 96, 96), seed=0, split=0)
    for split, chosen in (("train", range(count)), ("val", range(CLASSES))):
        for number in chosen:
            folder = root / split / f"class{int(targets[number])}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number].permute(1, 2, 0).numpy()).save(folder / f"{number}.jpg", quality=90)


def loop_rows(rounds: int) -> Iterator[Row]:
    """An epoch of 256 images, resnet18 from scratch: crops, mirrors, AdamW."""
    count = 256
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        jpeg_folder(root, count)
        tasks: dict[str, Callable[[], object]] = {
            "camtrain": ours(root, None),
            "camtrain, cached": ours(root, str(root / "cache")),
            "torchvision's references": dataloader(root),
            "timm's loader": timm_loader(root),
            "Lightning's trainer": lightning_loop(root),
        }
        seconds = in_turns(tasks, rounds)
        for name in tasks:
            yield Row(
                *("loop", f"resnet18, {name}", count / statistics.median(seconds[name]), "images/s"),
                1 / ratio(seconds, name, "torchvision's references"),
                "torchvision's",
            )


def ours(root: Path, cache: str | None) -> Callable[[], object]:
    config = FolderConfig(name="folder", root=str(root), image_size=SIZE, cache=cache, crop_scale=[0.4, 1.0])  # type: ignore[arg-type]
    listing = list_folder(config, config.train_split).without_regions()
    network = classifier("resnet18")
    cams = {BASELINE: CamConfig(weight=0), REGULARISED: CamConfig(weight=0)}
    routes = probe_routes(network, made_batch(views=False).images[:4], Score.centred)
    arms: list[Arm] = make_arms(network, cams, routes, OptimConfig(), 1e-3, pretrained=False)[:1]

    def epoch() -> None:
        images = opened(config, listing, rule_for_crops(config), torch.get_num_threads(), "training")
        per_epoch = steps_per_epoch(len(images.targets), BATCH)
        state, plan = TrainingState(arms), Plan(OptimConfig(), 1e-3, 1, per_epoch, per_epoch, 0, torch.device("cpu"))
        batching = Batching(BATCH, layout=torch.channels_last, threads=torch.get_num_threads())
        batches = training_batches(images, batching, 1, 0, augmentation(config), (SIZE, SIZE))
        train_epoch(state, batches, plan, lambda: None)

    return epoch


def transforms() -> Any:
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(SIZE, (0.4, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def train_on(loader: Any, network: nn.Module) -> Callable[[], object]:
    """An epoch as in torchvision's references."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)

    def epoch() -> None:
        network.train()
        for images, targets in loader:
            loss = cross_entropy(network(images.contiguous(memory_format=torch.channels_last)), targets)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            loss.item()

    return epoch


def image_folder(root: Path) -> Any:
    from torchvision.datasets import ImageFolder

    return ImageFolder(root / "train", transforms())


def plain_resnet() -> nn.Module:
    """With the strides that camtrain lowers, so that all train the same network."""
    return classifier("resnet18").backbone


def dataloader(root: Path) -> Callable[[], object]:
    from torch.utils.data import DataLoader

    return train_on(DataLoader(image_folder(root), BATCH, shuffle=True, drop_last=True), plain_resnet())


def timm_loader(root: Path) -> Callable[[], object]:
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root / "train"),
        *((3, SIZE, SIZE), BATCH),
        is_training=True,
        use_prefetcher=False,
        scale=(0.4, 1.0),
        num_workers=0,
        color_jitter=None,
        persistent_workers=False,
    )
    return train_on(loader, plain_resnet())


def lightning_loop(root: Path) -> Callable[[], object]:
    import logging
    import warnings

    import lightning
    from torch.utils.data import DataLoader

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = plain_resnet()

        def training_step(self, batch: Any, _: int) -> Tensor:
            images = batch[0].contiguous(memory_format=torch.channels_last)
            return cross_entropy(self.network(images), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.01)

    module = Module()
    loader = DataLoader(image_folder(root), BATCH, shuffle=True, drop_last=True)

    def epoch() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lightning.Trainer(
                max_epochs=1,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ).fit(module, loader)

    return epoch


def map_rows(rounds: int) -> Iterator[Row]:
    from captum.attr import LayerGradCam  # type: ignore[import-untyped]
    from pytorch_grad_cam import GradCAM  # type: ignore[import-untyped]
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # type: ignore[import-untyped]
    from torchcam.methods import GradCAM as TorchGradCam

    import camtrain

    plain = classifier("resnet18").backbone.eval()
    net = camtrain.capture(copy.deepcopy(plain), layer="layer4").eval()
    nets = [copy.deepcopy(plain) for _ in range(3)]
    of_grad_cam = GradCAM(nets[0], [nets[0].layer4])
    of_grad_cam.get_target_width_height = lambda _: None  # no stretching, as the others
    of_torch_cam = TorchGradCam(nets[1], "layer4")
    of_captum = LayerGradCam(nets[2], nets[2].layer4)

    def makers(images: Tensor, targets: Tensor) -> dict[str, Callable[[], object]]:
        numbers = targets.tolist()
        return {
            "camtrain": lambda: camtrain.maps(net, images, targets, stretched=False),
            "grad-cam": lambda: of_grad_cam(images, [ClassifierOutputTarget(number) for number in numbers]),
            "torch-cam": lambda: of_torch_cam(numbers, nets[1](images), normalized=False),
            "captum": lambda: of_captum.attribute(images, targets, relu_attributions=True),
        }

    for size in (1, 32, 256):
        tasks = makers(torch.rand(size, 3, SIZE, SIZE), torch.arange(size) % CLASSES)
        seconds = in_turns(tasks, rounds)
        for name in tasks:
            value, compared = size / statistics.median(seconds[name]), 1 / ratio(seconds, name, "grad-cam")
            yield Row("maps", f"resnet18, batch {size}, {name}", value, "maps/s", compared, "grad-cam's")


FEW = (
    *(
        "dataset.train=1024",
        "dataset.val=64",
        "trainer.epochs=3",
        "evaluate.faithfulness_images=0",
        "evaluate.images=0",
    ),
    *("evaluate.sanity_images=0", "evaluate.maps=[]"),
)


def command(*arguments: str) -> float:
    """Seconds of a camtrain command."""
    started = time.perf_counter()
    threads = f"trainer.threads={torch.get_num_threads()}"
    subprocess.run(
        [sys.executable, "-m", "camtrain", *arguments, *([threads] if "=" in arguments[-1] else [])],
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    return time.perf_counter() - started


def arms_rows(rounds: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        values, number = "0.2,0.35,0.5", iter(range(1000))

        def swept(*more: str) -> Callable[[], object]:
            return lambda: command("-m", *FEW, f"cam.share={values}", *more, f"hydra.sweep.dir={folder}/{next(number)}")

        tasks: dict[str, Callable[[], object]] = {
            "one run, four arms": lambda: command(
                *FEW, f"arms_by.share=[{values}]", f"hydra.run.dir={folder}/{next(number)}"
            ),
            "a sweep, the baseline shared": swept(),
            "three runs of two arms": swept("trainer.baselines=null"),
        }
        seconds = in_turns(tasks, max(1, rounds // 3))
        for name in tasks:
            shown = ratio(seconds, name, "three runs of two arms")
            yield Row("arms", name, statistics.median(seconds[name]), "s", shown, "the runs'")


FIRST_STEP = """
import sys, time
from camtrain.training import loop
def first(*_, **__):
    print(time.time(), flush=True)
    import os
    os._exit(0)
loop.train_step = first
from camtrain.cli import main
sys.argv[1:] = sys.argv[1:]
main()
"""


def to_first_step(folder: Path) -> float:
    """Seconds from the start of the process to that of the first training step of the default run."""
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP, f"hydra.run.dir={folder}/{time.time_ns()}"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return float(done.stdout.splitlines()[-1]) - started


def start_rows(rounds: int) -> Iterator[Row]:
    def python(text: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", text], check=True, cwd=ROOT)

    with tempfile.TemporaryDirectory() as folder:
        tasks: dict[str, Callable[[], object]] = {
            "import torch": python("import torch"),
            "--help": lambda: command("--help"),
            "--cfg job": lambda: command("--cfg", "job"),
            "to the first step": lambda: to_first_step(Path(folder)),
        }
        seconds = in_turns(tasks, rounds)
    for name in tasks:
        shown = None if name == "import torch" else ratio(seconds, name, "import torch")
        yield Row("start", name, statistics.median(seconds[name]), "s", shown, "importing torch")


SPLIT = """
import json, sys, time
from camtrain.tasks import train
from camtrain.report import build
spent = {}
def timed(place, name, label):
    inner = getattr(place, name)
    def outer(*given, **named):
        started = time.perf_counter()
        try:
            return inner(*given, **named)
        finally:
            spent[label] = spent.get(label, 0) + time.perf_counter() - started
    setattr(place, name, outer)
timed(train, 'set_up', 'setting up')
timed(train, 'train_epoch', 'steps')
timed(train, '_evaluate', 'evaluation after epochs')
timed(train, '_finish', 'final measurements and report')
timed(build, 'write', 'report')
started = time.perf_counter()
from camtrain.cli import main
try:
    main()
finally:
    spent['all'] = time.perf_counter() - started
    print(json.dumps(spent), flush=True)
"""


def run_rows(rounds: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        threads = f"trainer.threads={torch.get_num_threads()}"
        done = subprocess.run(
            [sys.executable, "-c", SPLIT, threads, f"hydra.run.dir={folder}/run"],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
    spent: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    whole = spent.pop("all")
    spent["final measurements"] = spent.pop("final measurements and report") - spent.get("report", 0.0)
    spent["else"] = whole - sum(spent.values())
    for name, seconds in spent.items():
        yield Row("run", name, seconds, "s", seconds / whole, "of all")
    yield evaluation_row(rounds)


def evaluation_row(rounds: int) -> Row:
    """The evaluation after an epoch beside a pass that only counts what is right."""
    from camtrain.config.options import CamVariant
    from camtrain.evaluation.every_epoch import evaluate

    network = classifier("small_resnet").eval()
    network.routes = probe_routes(network, made_batch(views=False).images[:4], Score.centred)
    images, targets, regions = shapes.generate(512, (3, SIZE, SIZE), seed=0, split=1)
    pixels = (images.float() / 255).contiguous(memory_format=torch.channels_last)
    whole = Batch(pixels, targets, regions, torch.arange(512))
    batches = [whole.select(slice(at, at + BATCH)) for at in range(0, 512, BATCH)]
    measured = torch.ones(512, dtype=torch.bool)

    def accuracy() -> float:
        with torch.inference_mode():
            return sum(float((network(batch.images).logits.argmax(1) == batch.targets).sum()) for batch in batches)

    tasks = {
        "accuracy": accuracy,
        "evaluation": lambda: evaluate({BASELINE: network}, batches, CamVariant.gradcam, measured),
    }
    seconds = in_turns(tasks, rounds)
    found = statistics.median(seconds["evaluation"])
    return Row(
        "run", "evaluation of 512 images", found, "s", ratio(seconds, "evaluation", "accuracy"), "accuracy's", 1.1
    )


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "step": lambda given: step_rows(given.networks, given.rounds),
    "roofline": lambda given: roofline_rows(given.rounds),
    "loop": lambda given: loop_rows(max(1, given.rounds // 3)),
    "maps": lambda given: map_rows(given.rounds),
    "arms": lambda given: arms_rows(given.rounds),
    "start": lambda given: start_rows(given.rounds),
    "run": lambda given: run_rows(given.rounds),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], help="of the steps")
    parser.add_argument("--rounds", type=int, default=9, help="of which the median is told")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a goal is missed")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    if given.memory:
        print(peak_memory(*given.memory))
        return 0
    rows = []
    for part in given.parts or [name for name in PARTS if name != "run"]:
        for row in PARTS[part](given):
            print(row, flush=True)
            rows.append(row)
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    missed = [row for row in rows if row.missed]
    if missed:
        print(f"{len(missed)} of {sum(row.goal is not None for row in rows)} goals missed")
    return 1 if given.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
