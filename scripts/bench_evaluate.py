#!/usr/bin/env python3
"""Seconds that camtrain's evaluation takes beside the same indicators computed with grad-cam, torch-cam and Quantus.

    scripts/bench_evaluate.py RUN [--images N] [--rounds R] [--threads T]

RUN is the folder of a finished run with one class per image. Measured is its regularised arm, by Grad-CAM of the
true class's logit, on the first N validation images (default: all), which both sides get decoded, in batches and in
memory. What is measured of a network's maps, but for ROAD and other maps than the trained one, in five parts:

- maps: the maps, accuracy and confidence, concentration, energy in mask and pointing, health;
- localisation: overlap, MaxBoxAccV2 and PxAP at the same thresholds;
- faithfulness: drop, increase, deletion and insertion of all N images, without the curves of fixed orders;
- stability: mirrored and moved;
- sanity: the cascade on 32 images, eight stages.

camtrain's side are its own functions, not compiled. The other side is a script as one would write it: torchvision's
network with the same weights and memory layout; maps in batches by torch-cam, each map once; drop, increase and the
curves by torch-cam's metrics, which are handed these maps; entropy, Gini index, energy in mask and pointing by Quantus;
the rest, which no library has, by NumPy, SciPy and OpenCV, boxes from outlines threshold by threshold, as published
with MaxBoxAccV2.

Most of the time goes into forward passes, and most of these into the curves. camtrain looks at them more often where
they change, which makes 15 to 27 passes of each image in all, and ADCC comes with them. torch-cam's metric has 17
points on each curve, both from one baseline, in 34 passes: for deletion to the mean colour and insertion from a blurred
image it has to run twice, 66 passes, and half of what it computes is thrown away. Both blur alike. Pixels of equal
value go in a fixed random order in camtrain, as they come in torch-cam. What
the ratio is where one baseline is good enough, or where somebody writes the pair of curves by hand, is told as well.
camtrain keeps freed memory (camtrain.device.keep_freed_memory), which a script does not do by itself: a third column
is the script with the same setting. Told besides: the maps by grad-cam, whose backward pass goes on to the first layer;
and Quantus' own test of randomised weights, which stops at every layer and looks at stretched maps, in place of the
cascade.

Behind global average pooling and one linear layer camtrain needs no gradient, and torch-cam's CAM would not either:
give a run of another network. Nor may an in-place function, as in DenseNet, follow the layer.

Each column has a process of its own, and they take turns; after a warm-up the median of the rounds is told. The second
table has both sides' values, and marks where they differ. Timings need an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import copy
import gc
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM  # type: ignore[import-untyped]
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # type: ignore[import-untyped]
from quantus.functions.similarity_func import correlation_pearson
from quantus.metrics.complexity.complexity import Complexity
from quantus.metrics.complexity.sparseness import Sparseness
from quantus.metrics.localisation.pointing_game import PointingGame
from quantus.metrics.localisation.relevance_mass_accuracy import RelevanceMassAccuracy
from quantus.metrics.randomisation.mprt import MPRT
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torchcam.methods import GradCAM as TorchGradCam
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric
from torchvision.models import get_model

from camtrain import device
from camtrain.arms import REGULARISED
from camtrain.cam.targets import is_multilabel
from camtrain.config.options import CamVariant
from camtrain.data.batches import Batch
from camtrain.data.blur import blur
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated, evaluate
from camtrain.evaluation.faithfulness import Seen
from camtrain.evaluation.forward import forward_maps
from camtrain.evaluation.randomisation import randomisation_test
from camtrain.metrics import localisation
from camtrain.metrics.equivariance import NEAR, Changed, changed, stability
from camtrain.metrics.faithfulness import Falls
from camtrain.metrics.randomisation import stages
from camtrain.metrics.tags import BALANCED
from camtrain.networks.classifier import Classifier
from camtrain.networks.zoo import OWN
from camtrain.runs.load import Finished, networks, read
from camtrain.tasks.evaluate import fitting
from camtrain.tasks.session import evaluation_context

Array = NDArray[Any]
Values = dict[str, float]

SANITY = 32
STEPS = 16  # intervals of torch-cam's curves
BINS = 15  # of the calibration error
PIXEL_BINS = 1000  # of PxAP
DEAD = 1e-12  # sum of a map after ReLU, the only one that the packages give: its negative part is not known
PARTS = ("maps", "localisation", "faithfulness", "stability", "sanity")
SHORTER = {"accuracy/val": "accuracy", "confidence/entropy": "entropy of the prediction"}
"""Names in the second table, of tags that say too much or too little there."""

NOTES = {
    "dead rate": "of maps after ReLU, sum 0",
    "pointing": "where several pixels are highest: the first, or any",
    "iou": "a constant map marks everything, or nothing",
    "box accuracy": "OpenCV's outer outlines leave out a component in another's hole",
    **dict.fromkeys(("drop", "increase"), "a dead map is left out, or is a map of zeros"),
    **dict.fromkeys(
        ("deletion", "insertion"),
        "points where the curve changes, or 17; equal pixels at random, or as they come; dead maps",
    ),
}
"""Where definitions differ."""


@dataclass
class Case:
    """What both sides are given."""

    network: Classifier
    plain: nn.Module  # the same network as torchvision has it
    layer: str
    batches: list[Batch]
    normalised: list[Tensor]  # their images
    batch_size: int  # of the run
    context: EvaluationContext

    def first(self) -> Case:
        """Of the first batch only."""
        return replace(self, batches=self.batches[:1], normalised=self.normalised[:1])


def prepared(run: Path, image_set: int | None) -> Case:
    """Read the run, its images and its networks."""
    finished = read(run)
    config = finished.config
    network = networks(finished, torch.device("cpu"))[REGULARISED]
    found = fitting(config, finished)
    if is_multilabel(found.targets):
        raise SystemExit(f"{run}: several classes per image; give a run with one")
    context = evaluation_context(config, {REGULARISED: network}, found, torch.device("cpu"))
    network.registered = False  # the other packages draw equal tiles
    batches, left = [], image_set or len(found.targets)
    for batch in context.batches(None):
        if left > 0:
            batches.append(batch.select(slice(left)))
            left -= len(batch.indices)
    normalised = [(batch.images - network.mean) / network.std for batch in batches]
    plain = plain_network(finished, network)
    layer = f"network.{finished.result.model.layer}"
    return Case(network, plain, layer, batches, normalised, config.trainer.batch_size, context)


class Plain(nn.Module):
    """A network from normalised images to logits, in the precision of the run."""

    def __init__(self, network: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.network, self.precision = network, precision

    def forward(self, images: Tensor) -> Tensor:
        lower = self.precision is not torch.float32
        with torch.autocast("cpu", self.precision) if lower else nullcontext():
            logits: Tensor = self.network(images)
        return logits.float()


def plain_network(finished: Finished, trained: Classifier) -> nn.Module:
    """torchvision's network with the trained weights."""
    name, classes = finished.config.model.name, len(finished.result.data.classes)
    options = {"image_size": finished.config.dataset.image_size} if name.startswith("vit_") else {}
    network = OWN[name](classes) if name in OWN else get_model(name, num_classes=classes, **options)
    network.load_state_dict(trained.backbone.state_dict())
    module: Any
    for stem in finished.result.model.stem_strides_lowered:
        module = network.get_submodule(stem)
        module.stride = (1, 1)
    names = [name for name, _ in network.named_modules()]
    for name in names[names.index(finished.result.model.layer) :]:
        module = network.get_submodule(name)
        if hasattr(module, "inplace"):
            module.inplace = False  # it would overwrite the activations of the layer
    layout: Any = device.memory_format(finished.config.trainer)
    return Plain(network, trained.precision).eval().to(memory_format=layout)


class Ours:
    """camtrain's functions."""

    def __init__(self, case: Case) -> None:
        self.case, self.network = case, case.network
        self.measured = torch.ones(sum(len(batch.indices) for batch in case.batches), dtype=torch.bool)
        self.evaluated: Evaluated

    def maps(self) -> Values:
        self.evaluated = evaluate({REGULARISED: self.network}, self.case.batches, CamVariant.gradcam, self.measured)
        means = dict(self.evaluated.measured.means[REGULARISED])
        means.pop(BALANCED)  # no library has it
        names = {name: SHORTER.get(name, name.removeprefix("cam/").removeprefix("confidence/")) for name in means}
        return {names[name]: value for name, value in means.items()}

    def localisation(self) -> Values:
        overlap, boxes, pixels = [], [], []
        for batch in self.case.batches:
            maps = self.maps_of(batch)
            overlap.append(localisation.overlap(maps, batch.regions))
            boxes.append(localisation.box_overlap(maps, batch.regions))
            pixels.append(localisation.pixel_counts(maps, batch.regions))
        one_fold = torch.zeros(sum(map(len, overlap)), dtype=torch.int64)  # thresholds fitted on all, as below
        return {
            "iou": float(localisation.at_best(torch.cat(overlap), one_fold).double().nanmean()),
            "box_accuracy": float(localisation.box_accuracy(torch.cat(boxes), one_fold).double().nanmean()),
            "pxap": float(localisation.pixel_average_precision(torch.stack(pixels).sum(0))),
        }

    def faithfulness(self) -> Values:
        found = []
        for batch in self.case.batches:
            seen, maps = Seen.of(self.network, batch), self.maps_of(batch)
            shown = seen.alone(maps, lambda maps: maps, CamVariant.gradcam)
            found.append(shown | seen.curves({"own": seen.order(maps)}, {}, Falls.of([seen.known]))["own"])
        names = ("drop", "increase", "deletion", "insertion")
        return {name: nanmean(torch.cat([figures[name] for figures in found])) for name in names}

    def stability(self) -> Values:
        found = []
        for batch in self.case.batches:
            maps, size = self.maps_of(batch), (batch.images.shape[2], batch.images.shape[3])
            after = [
                forward_maps(self.network, images, batch.targets, CamVariant.gradcam).maps
                for images in changed(batch.images, (maps.shape[1], maps.shape[2]))
            ]
            found.append(stability(maps, Changed(*after), size))
        flip, shift, _ = zip(*found, strict=True)
        return {"mirrored": nanmean(torch.cat(flip)), "moved": nanmean(torch.cat(shift))}

    def sanity(self) -> Values:
        some, left = [], SANITY
        for batch in self.case.batches:
            if left > 0:
                some.append(batch.select(slice(left)))
                left -= len(batch.indices)
        context = self.case.context
        found = randomisation_test(context, self.evaluated, some)
        means = found.measured.means[REGULARISED]
        return {"fresh last layer": means["sanity/head"], "fresh network": means["sanity/all"]}

    def maps_of(self, batch: Batch) -> Tensor:
        return self.evaluated.maps_of(REGULARISED, batch)


def nanmean(values: Tensor) -> float:
    return float(values.double().nanmean())


class Mapped(NamedTuple):
    logits: Array
    maps: Array  # after ReLU, on the layer's grid


class ByTorchCam:
    """Maps with torch-cam."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        self.model = model
        self.extractor = TorchGradCam(model, layer, reshape_transform=Tensor.float)

    def __call__(self, images: Tensor, classes: list[int]) -> Mapped:
        scores = self.model(images)
        (maps,) = self.extractor(classes, scores, normalized=False)
        return Mapped(scores.detach().numpy(), maps.numpy())

    def close(self) -> None:
        self.extractor.remove_hooks()


class ByGradCam:
    """Maps with grad-cam, not stretched to the image's size."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        self.extractor = GradCAM(model, [model.get_submodule(layer)], reshape_transform=Tensor.float)
        self.extractor.get_target_width_height = lambda _: None

    def __call__(self, images: Tensor, classes: list[int]) -> Mapped:
        maps = self.extractor(images, [ClassifierOutputTarget(number) for number in classes])
        return Mapped(self.extractor.outputs.detach().numpy(), maps)

    def close(self) -> None:
        self.extractor.activations_and_grads.release()


class Libraries:
    """The same with other people's packages."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.classes = [batch.targets.tolist() for batch in case.batches]
        self.targets = np.concatenate(self.classes)
        regions = torch.cat([batch.regions for batch in case.batches]).numpy()
        self.inside, self.known = (regions > 0) & (regions != 255), regions != 255
        self.images = torch.cat(case.normalised).contiguous().numpy()
        self.height, self.width = self.images.shape[2:]
        self.made = self.stretched = np.zeros(0)

    def maps(self) -> Values:
        explain = ByTorchCam(self.case.plain, self.case.layer)
        parts = [explain(*given) for given in zip(self.case.normalised, self.classes, strict=True)]
        explain.close()
        logits, self.made = (np.concatenate(part) for part in zip(*parts, strict=True))
        self.stretched = self.to_images(self.made)
        return {**self.of_logits(logits), **self.of_cells(self.made), **self.of_images()}

    def by_grad_cam(self) -> Values:
        explain = ByGradCam(self.case.plain, self.case.layer)
        for given in zip(self.case.normalised, self.classes, strict=True):
            explain(*given)
        explain.close()
        return {}

    def to_images(self, maps: Array) -> Array:
        shape = (self.height, self.width)
        stretched: Array = interpolate(torch.from_numpy(maps)[:, None], shape, mode="bilinear")[:, 0].numpy()
        return stretched

    def of_logits(self, logits: Array) -> Values:
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        top = np.sort(shares, axis=1)[:, ::-1]
        right = (logits.argmax(1) == self.targets).astype(float)
        bins = np.clip(np.ceil(top[:, 0] * BINS).astype(int) - 1, 0, BINS - 1)
        gaps = np.bincount(bins, right - top[:, 0], BINS)
        return {
            "accuracy": right.mean(),
            "top_probability": top[:, 0].mean(),
            "margin": (top[:, 0] - top[:, 1]).mean(),
            "entropy of the prediction": stats.entropy(shares, axis=1).mean(),
            "calibration_error": np.abs(gaps).sum() / len(right),
        }

    def of_cells(self, maps: Array) -> Values:
        live = maps.sum((1, 2)) > DEAD
        alive = maps[live]
        count, height, width = alive.shape
        given: dict[str, Any] = {
            "model": None,
            "x_batch": np.zeros((count, 3, height, width), np.float32),
            "y_batch": self.targets[live],
            "a_batch": alive,
            "channel_first": True,
        }
        entropy = Complexity(normalise=False, disable_warnings=True)(**given)
        gini = Sparseness(normalise=False, disable_warnings=True)(**given)
        shares = alive / alive.sum((1, 2), keepdims=True)
        rows, columns = np.mgrid[:height, :width]
        dy = rows - (shares * rows).sum((1, 2), keepdims=True)
        dx = columns - (shares * columns).sum((1, 2), keepdims=True)
        yy, xx, xy = ((shares * product).sum((1, 2)) for product in (dy * dy, dx * dx, dx * dy))
        flat = alive.reshape(count, -1)
        active = flat >= flat.max(1, keepdims=True) / 2
        inactive = np.maximum((~active).sum(1), 1)
        contrast = (flat * active).sum(1) / active.sum(1) - (flat * ~active).sum(1) / inactive
        descending = np.sort(shares.reshape(count, -1), axis=1)[:, ::-1]
        whole, part = divmod(height * width / 10, 1)
        top_tenth = descending[:, : int(whole)].sum(1) + part * descending[:, int(whole)]
        peaks = np.bincount(flat.argmax(1), minlength=height * width)
        return {
            "entropy": float(np.mean(entropy)),
            "area": np.sqrt(np.maximum(yy * xx - xy**2, 0)).mean(),
            "dispersion": (flat.var(1) / flat.mean(1) ** 2).mean(),
            "contrast": np.where(active.all(1), 0, contrast / flat.mean(1)).mean(),
            "gini": float(np.mean(gini)),
            "top_tenth": top_tenth.mean(),
            "border_mass": (1 - shares[:, 1:-1, 1:-1].sum((1, 2))).mean(),
            "dead_rate": 1 - live.mean(),
            "peak_entropy": stats.entropy(peaks) / np.log(height * width),
        }

    def of_images(self) -> Values:
        shown = self.inside.any((1, 2))
        if not shown.any():
            return {"energy_in_mask": float("nan"), "pointing": float("nan")}
        given: dict[str, Any] = {
            "model": None,
            "x_batch": self.images[shown],
            "y_batch": self.targets[shown],
            "a_batch": (self.stretched * self.known)[shown],
            "s_batch": self.inside[shown][:, None],
            "channel_first": True,
        }
        options: dict[str, Any] = {"abs": False, "normalise": False, "disable_warnings": True}
        energy = np.nan_to_num(np.array(RelevanceMassAccuracy(**options)(**given)))
        hits = np.array(PointingGame(**options)(**given)) & (self.made[shown].sum((1, 2)) > DEAD)
        return {"energy_in_mask": float(energy.mean()), "pointing": float(hits.mean())}

    def localisation(self) -> Values:
        thresholds = (np.arange(localisation.THRESHOLDS) / localisation.THRESHOLDS).astype(np.float32)
        overlaps, boxes, pixels = [], [], np.zeros((2, PIXEL_BINS), np.int64)
        for stretched, inside, known in zip(self.stretched, self.inside, self.known, strict=True):
            if not inside.any():
                continue
            spread = stretched.max() - stretched.min()
            scaled = (stretched - stretched.min()) / spread if spread > 0 else np.zeros_like(stretched)
            truth = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)[2][1:, :4]
            common, outside = (
                count - np.searchsorted(np.sort(scaled[those]), thresholds, side="right")
                for those, count in ((inside, inside.sum()), (known & ~inside, (known & ~inside).sum()))
            )
            overlaps.append(common / (inside.sum() + outside))
            box = np.zeros(len(thresholds))
            for number, threshold in enumerate(thresholds):
                mask = scaled > threshold
                outlines = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
                if outlines:
                    box[number] = best_overlap(np.array([cv2.boundingRect(outline) for outline in outlines]), truth)
            boxes.append(box)
            for side, pixels_of in enumerate((known & ~inside, inside)):
                pixels[side] += np.histogram(scaled[pixels_of], PIXEL_BINS, (0, 1))[0]
        if not overlaps:
            return dict.fromkeys(("iou", "box_accuracy", "pxap"), float("nan"))
        background, inside = pixels[:, ::-1]
        precision = inside.cumsum() / np.maximum((background + inside).cumsum(), 1)
        found = np.array(boxes)
        return {
            "iou": np.array(overlaps).mean(0).max(),
            "box_accuracy": float(np.mean([(found >= level).mean(0).max() for level in localisation.LEVELS])),
            "pxap": (precision * inside).sum() / inside.sum(),
        }

    def one_baseline(self) -> Values:
        return self.faithfulness(one_baseline=True)

    def faithfulness(self, one_baseline: bool = False) -> Values:
        largest = np.maximum(self.stretched.max((1, 2), keepdims=True), DEAD)
        given = Given(self.case.plain)
        softmax = partial(torch.softmax, dim=-1)
        options: dict[str, Any] = {"steps": STEPS, "batch_size": self.case.batch_size}
        shown = ClassificationMetric(given, softmax)
        of_blurred = DeletionInsertionMetric(given, softmax, baseline=blur, **options)
        of_mean = DeletionInsertionMetric(given, softmax, **options)
        at = 0
        with torch.no_grad():
            for images, classes in zip(self.case.normalised, self.classes, strict=True):
                rows = slice(at, at + len(classes))
                given.maps = torch.from_numpy(self.stretched[rows] / largest[rows])
                for metric in (shown, of_blurred) if one_baseline else (shown, of_blurred, of_mean):
                    metric.update(images, classes)
                at += len(classes)
        return {
            "drop": shown.summary()["avg_drop"],
            "increase": shown.summary()["conf_increase"],
            "deletion": (of_blurred if one_baseline else of_mean).summary()["deletion_auc"],
            "insertion": of_blurred.summary()["insertion_auc"],
        }

    def stability(self) -> Values:
        explain = ByTorchCam(self.case.plain, self.case.layer)
        rows, columns = self.made[0].shape
        down, right = (max(1, round(NEAR * stride)) for stride in (self.height / rows, self.width / columns))
        mirrored, moved = [], []
        for images, classes in zip(self.case.normalised, self.classes, strict=True):
            mirrored.append(explain(images.flip(3), classes).maps)
            there = pad(images, (right, 0, down, 0), mode="replicate")[..., : self.height, : self.width]
            moved.append(explain(there, classes).maps)
        explain.close()
        before = self.stretched[:, : self.height - down, : self.width - right]
        after = self.to_images(np.concatenate(moved))[:, down:, right:]
        return {
            "mirrored": float(
                np.nanmean(correlation(self.stretched[:, :, ::-1], self.to_images(np.concatenate(mirrored))))
            ),
            "moved": float(np.nanmean(correlation(before, after))),
        }

    def some(self) -> list[tuple[Tensor, list[int]]]:
        """The images that sanity is measured on, in batches."""
        given, left = [], SANITY
        for images, classes in zip(self.case.normalised, self.classes, strict=True):
            if left > 0:
                given.append((images[:left], classes[:left]))
                left -= len(classes)
        return given

    def sanity(self) -> Values:
        given = self.some()
        before = self.made[: sum(len(classes) for _, classes in given)]
        model = copy.deepcopy(self.case.plain)
        network = model.get_submodule("network")
        explain = ByTorchCam(model, self.case.layer)
        likeness = []
        for group in stages(network):
            state = network.state_dict()
            for name, value in self.case.context.untrained(REGULARISED).items():
                if name.rpartition(".")[0] in group:
                    state[name] = value
            network.load_state_dict(state)
            maps = np.concatenate([explain(*part).maps for part in given])
            gone = (maps.sum((1, 2)) <= DEAD) & (before.sum((1, 2)) > DEAD)
            likeness.append(float(np.nanmean(np.where(gone, 0, correlation(before, maps)))))
        explain.close()
        return {"fresh last layer": likeness[0], "fresh network": likeness[-1]}

    def randomised(self) -> Values:
        """Quantus' own: every layer by itself, of maps as large as the images."""

        def explained(model: nn.Module, inputs: Array, targets: Array, **_: object) -> Array:
            explain = ByTorchCam(model, self.case.layer)
            maps = explain(torch.as_tensor(inputs), targets.tolist()).maps
            explain.close()
            return self.to_images(maps)

        images, classes = (np.concatenate(part) for part in zip(*self.some(), strict=True))
        metric = MPRT(similarity_func=correlation_pearson, abs=False, normalise=False, disable_warnings=True, seed=0)
        found: Any = metric(
            model=self.case.plain,
            x_batch=images,
            y_batch=classes,
            a_batch=None,
            explain_func=explained,
            channel_first=True,
            batch_size=self.case.batch_size,
        )
        means = [float(np.nanmean(values)) for name, values in found.items() if name != "original"]
        return {"fresh last layer": means[0], "fresh network": means[-1]}


class Given:
    """Maps as torch-cam's metrics ask an extractor for them. From a real one they would get the probability's map."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.maps = model, torch.zeros(0)

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> AbstractContextManager[None]:
        return nullcontext()


def best_overlap(found: Array, truth: Array) -> float:
    """Highest intersection over union of two lists of boxes (left, top, width, height)."""
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum(found[:, None, :2] + found[:, None, 2:], truth[None, :, :2] + truth[None, :, 2:])
    common = np.maximum(high - low, 0).prod(2)
    return float((common / (found[:, None, 2:].prod(2) + truth[None, :, 2:].prod(2) - common)).max())


def correlation(maps: Array, others: Array) -> Array:
    """Of the cells of each pair; nan where one is the same everywhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        found: Array = stats.pearsonr(maps.reshape(len(maps), -1), others.reshape(len(maps), -1), axis=1).statistic
    return found


def timed(part: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    started = time.perf_counter()
    found = part()
    return time.perf_counter() - started, found


MORE = {
    "by_grad_cam": "maps by grad-cam",
    "one_baseline": "faithfulness, one baseline",
    "randomised": "sanity by Quantus",
}
"""What only the other side does, and is not in the total."""

INSTEAD = {"by_grad_cam": "maps", "one_baseline": "faithfulness", "randomised": "sanity"}
"""What each is beside."""

COLUMNS: dict[str, tuple[type[Ours] | type[Libraries], bool]] = {
    "camtrain": (Ours, True),
    "libraries": (Libraries, False),
    "the same, memory kept": (Libraries, True),
}
"""Whose functions, and whether freed memory is kept."""

_sides: list[Ours | Libraries] = []
"""In its own process: what is measured there."""

Seconds = dict[str, dict[str, float]]  # by column and part


def begin(column: str, run: Path, images: int | None, threads: int) -> str:
    """In a column's process: read everything, warm up on one batch, and say what is measured."""
    kind, keep = COLUMNS[column]
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    if keep:
        device.keep_freed_memory()
    case = prepared(run, images)
    side = kind(case.first())
    for part in parts(column):
        getattr(side, part)()
    _sides.append(kind(case))
    return f"{sum(len(batch.indices) for batch in case.batches)} images, {threads} threads"


def measured(part: str) -> tuple[float, Values]:
    """In a column's process: seconds and values of a part."""
    return timed(getattr(_sides[0], part))


def parts(column: str) -> list[str]:
    return [*PARTS, *(MORE if COLUMNS[column][0] is Libraries else ())]


def one_round(columns: Mapping[str, ProcessPoolExecutor]) -> tuple[Seconds, dict[str, Values]]:
    """Each part of each column, taking turns."""
    seconds: Seconds = {column: {} for column in columns}
    values: dict[str, Values] = {column: {} for column in columns}
    for part in (*PARTS, *MORE):
        for column, process in columns.items():
            if part in parts(column):
                seconds[column][part], found = process.submit(measured, part).result()
                if part in PARTS:
                    values[column] |= found
    return seconds, values


def show(rounds: Sequence[Seconds]) -> None:
    """Seconds of each part and column, and how many times as long as camtrain it takes."""
    ours, *others = COLUMNS
    print(f"\n{'seconds':<32}{ours:>10}" + "".join(f"{column:>25}" for column in others))

    def line(label: str, own: Sequence[str], theirs: Sequence[str]) -> None:
        before = [sum(seconds[ours][part] for part in own) for seconds in rounds]
        row = f"{label:<32}{statistics.median(before):>10.2f}"
        for column in others:
            after = [sum(seconds[column][part] for part in theirs) for seconds in rounds]
            ratio = statistics.median(one / other for one, other in zip(after, before, strict=True))
            row += f"{statistics.median(after):>16.2f}  x {ratio:>5.2f}"
        print(row)

    for part in PARTS:
        line(part, [part], [part])
    line("total", PARTS, PARTS)
    for label, other in (("total, one baseline", "one_baseline"), ("total, sanity by Quantus", "randomised")):
        line(label, PARTS, [other if part == INSTEAD[other] else part for part in PARTS])
    print("not in the total:")
    for part, label in MORE.items():
        line(label, [INSTEAD[part]], [part])


def compare(ours: Values, theirs: Values) -> None:
    """Values of both sides, and where they differ."""
    missing = ours.keys() ^ theirs.keys()
    if missing:
        raise SystemExit(f"only one side has {', '.join(sorted(missing))}")
    print(f"\n{'value':<32}{'camtrain':>10}{'libraries':>11}")
    for name, value in ours.items():
        label = name.replace("_", " ")
        same = np.isclose(value, theirs[name], rtol=1e-3, atol=1e-3, equal_nan=True)
        note = "" if same else f"  differ: {NOTES.get(label, 'not known why')}"
        print(f"{label:<32}{value:>10.4f}{theirs[name]:>11.4f}{note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--images", type=int, help="of the validation split; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is told")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both sides")
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        # A process for each, so that none feels what another left behind.
        columns = {column: stack.enter_context(ProcessPoolExecutor(1, spawn)) for column in COLUMNS}
        for column, process in columns.items():
            told = process.submit(begin, column, given.run, given.images, given.threads).result()
        print(told, flush=True)
        rounds = []
        for number in range(given.rounds):
            seconds, values = one_round(columns)
            rounds.append(seconds)
            totals = ", ".join(f"{sum(seconds[column][part] for part in PARTS):.1f} s" for column in columns)
            print(f"round {number + 1}: {totals}", flush=True)
    show(rounds)
    compare(values["camtrain"], values["libraries"])


if __name__ == "__main__":
    main()
