"""Images with every arm's map: which validation images, which of their maps, and as files for the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.arms import Contrast
from camtrain.cam.distribution import correlation
from camtrain.cam.stretch import Placement
from camtrain.cam.targets import MapTargets
from camtrain.data.batches import Batch
from camtrain.data.images import ImageSet, image_name
from camtrain.evaluation.every_epoch import Evaluated
from camtrain.files import write_atomically
from camtrain.metrics.catalogue import Indicator, Place, at
from camtrain.metrics.localisation import size_share
from camtrain.metrics.tags import ACCURACY
from camtrain.report import overlay
from camtrain.runs.result import GalleryEntry, MapCaption

FOLDER = "pictures"

Figures = Mapping[str, Mapping[str, Tensor]]
"""By arm and tag: of images, or of maps."""

Gain = Callable[[Figures], Tensor]
"""From figures of every map to how much each should be drawn, (maps,)."""


class Views(NamedTuple):
    """Validation images with the maps and logits that the evaluation holds of them."""

    numbers: Sequence[int]  # of the images in their set
    images: Tensor  # (images, channels, height, width) float, 0..1
    rows: Tensor  # (maps,) int64, which of these images each map is of, ascending
    classes: Tensor  # (maps,) int64, which class
    regions: Tensor  # (maps, height, width) uint8, of each map's class
    multilabel: bool  # images may have several classes
    maps: Mapping[str, Tensor]  # by arm: (maps, height, width), before ReLU
    logits: Mapping[str, Tensor]  # by arm: (images, classes)
    placement: Placement | None = None  # where the maps' cells lie in the images; None: in equal tiles

    @classmethod
    def of(
        cls,
        batch: Batch,
        maps: Mapping[str, Tensor],
        logits: Mapping[str, Tensor],
        placement: Placement | None = None,
    ) -> Views:
        """The images of a batch, with the maps of all their classes, and logits, by arm."""
        targets = MapTargets.of(batch.targets)
        numbers, regions = batch.indices.tolist(), targets.regions(batch.regions)
        which = targets.rows, targets.classes, regions, targets.multilabel
        return cls(numbers, batch.images, *which, maps, logits, placement)


def draw(views: Views, class_names: Sequence[str], prefer: Gain | None = None) -> dict[int, overlay.Drawn]:
    """Every arm's map and prediction of images, by their number.

    Args:
        views: the images.
        class_names: by class number.
        prefer: of an image with several classes the map that is preferred most is drawn, given the figures of
            :data:`Place.captions` of all maps; without it, that of its first class.
    """
    figures = {
        arm: {
            indicator.tag: indicator.measure(maps, views.regions, views.placement)
            for indicator in at(Place.captions)
            if indicator.measure is not None
        }
        for arm, maps in views.maps.items()
    }
    order = torch.arange(len(views.rows))
    if prefer is not None:
        order = prefer(figures).nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True).cpu()
    chosen: dict[int, int] = {}
    for number in order.tolist():
        chosen.setdefault(int(views.rows[number]), number)
    rows = sorted(chosen)
    numbers = [chosen[row] for row in rows]
    classes = views.classes[numbers].tolist()
    density = {arm: overlay.density(maps[numbers]) for arm, maps in views.maps.items()}
    predicted = {
        arm: predictions(logits[rows], classes if views.multilabel else None) for arm, logits in views.logits.items()
    }
    return {
        views.numbers[row]: overlay.Drawn(
            views.images[row],
            views.regions[number],
            class_names[classes[place]],
            {arm: maps[place] for arm, maps in density.items()},
            {arm: class_names[best[place][0]] for arm, best in predicted.items()},
            {arm: best[place][1] for arm, best in predicted.items()},
            {arm: {tag: float(values[number]) for tag, values in tags.items()} for arm, tags in figures.items()},
            views.placement,
        )
        for place, (row, number) in enumerate(zip(rows, numbers, strict=True))
    }


def predictions(logits: Tensor, drawn: Sequence[int] | None) -> list[tuple[int, float]]:
    """Class and probability that stand under each map.

    Args:
        logits: (maps, classes).
        drawn: with several classes per image, the class of each map, whose probability is given; else None: the
            predicted class.
    """
    if drawn is not None:
        return [(kind, float(row[kind])) for kind, row in zip(drawn, logits.sigmoid(), strict=True)]
    best = logits.softmax(1).max(1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


class Chosen(NamedTuple):
    """Images of the report, by number."""

    best: list[int]
    worst: list[int]
    random: list[int]
    by: Indicator  # whose gain best and worst go by
    contrast: Contrast | None  # in which; None: it is the figure itself, of the one network there is
    disagreement: Sequence[int] = ()  # of the two networks
    failures: Sequence[int] = ()


def gain(figures: Figures, by: Indicator, contrast: Contrast | None) -> Tensor:
    """By how much the treatment is better than the reference, or how good the one arm is; of every image or map."""
    if contrast is None:
        change = next(iter(figures.values()))[by.tag]
    else:
        change = figures[contrast.treatment][by.tag] - figures[contrast.reference][by.tag]
    return change if by.better == "higher" else -change


def choose_gallery(each: Figures, shown: list[int], contrast: Contrast | None) -> Chosen:
    """Beside the random images half as many with the treatment's largest gain, and with its largest loss.

    Args:
        each: figures of every image, (images,) by arm and tag.
        shown: the random ones.
        contrast: the arms; None where there is one only.
    """
    captions = at(Place.captions)
    known = (by for by in captions if bool(gain(each, by, contrast).isfinite().any()))
    by = next(known, captions[-1])
    values = gain(each, by, contrast)
    order = values.argsort(descending=True, stable=True)
    ranked = order[values[order].isfinite()].tolist()
    half = min(len(shown), len(ranked)) // 2
    return Chosen(ranked[:half], ranked[: -half - 1 : -1] if half else [], shown, by, contrast)


def disagreements(evaluated: Evaluated, contrast: Contrast, count: int) -> list[int]:
    """Images on which two networks disagree most: first those that they classify differently, where images have one
    class, and among these and the others those whose maps are least alike.

    Args:
        evaluated: of both networks, whose maps have the same cells.
        contrast: which two.
        count: how many images, at most.
    """
    numbers = evaluated.numbers
    one, other = evaluated.maps[contrast.reference], evaluated.maps[contrast.treatment]
    alike = correlation(one, other).double().nan_to_num(nan=0.0).cpu()
    rows = torch.searchsorted(numbers, evaluated.image_of_map)
    maps = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, rows, torch.ones_like(alike))
    apart = -torch.zeros_like(maps).index_add_(0, rows, alike) / maps.clamp_min(1)
    if len(evaluated.image_of_map) == len(numbers):  # one class per image
        predicted = [evaluated.logits[name].argmax(1).cpu() for name in contrast[:2]]
        apart += 3.0 * (predicted[0] != predicted[1])  # beyond what any two maps differ by
    return numbers[apart.argsort(descending=True, stable=True)[:count]].tolist()


def failures(each: Figures, arms: Sequence[str], measured: Tensor, count: int) -> list[int]:
    """Images that most of the arms classify wrongly, of these those that they are surest of; none where an image may
    have several classes.

    Args:
        each: figures of every image, (images,) by arm and tag.
        arms: which of them.
        measured: (images,) bool, of which there are maps.
        count: how many images, at most.
    """
    tag = f"{ACCURACY}/val"
    if any(tag not in each[arm] for arm in arms):
        return []
    wrong = torch.stack([1 - each[arm][tag] for arm in arms])
    sure = torch.stack([each[arm]["confidence/top_probability"] for arm in arms])
    badness = (wrong * (1 + sure / (2 * len(arms)))).sum(0) * measured
    order = badness.argsort(descending=True, stable=True)
    return order[badness[order] > 0][:count].tolist()


def write_gallery(
    folder: Path, images: ImageSet, chosen: Chosen, views: Callable[[list[int]], Views]
) -> list[GalleryEntry]:
    """Write `pictures/WHY-NUMBER.png` for each chosen image, and say what is on it.

    Args:
        folder: run folder.
        images: the validation images.
        chosen: which of them.
        views: gives images by their numbers, in ascending order, with the maps and logits that are held of them.
    """
    entries = []
    prefer: dict[str, tuple[Sequence[int], Gain | None]] = {
        "disagreement": (chosen.disagreement, None),
        "failures": (chosen.failures, None),
        "best": (chosen.best, lambda figures: gain(figures, chosen.by, chosen.contrast)),
        "worst": (chosen.worst, lambda figures: -gain(figures, chosen.by, chosen.contrast)),
        "random": (chosen.random, None),
    }
    for why, (numbers, most) in prefer.items():
        drawings = draw(views(sorted(numbers)), images.classes, most) if numbers else {}
        for number in filter(drawings.__contains__, numbers):
            drawn = drawings[number]
            file = f"{FOLDER}/{why}-{number}.png"
            write_atomically(folder / file, partial(overlay.save_png, overlay.strip(drawn)))
            captions = {arm: _caption(drawn, arm) for arm in drawn.density}
            share = float(size_share(drawn.region[None])[0])
            entries.append(GalleryEntry(file, why, image_name(images, number), drawn.truth, captions, share))
    return entries


def strips(views: Views, class_names: Sequence[str]) -> Iterable[overlay.Pixels]:
    """Images side by side with every arm's map, as TensorBoard shows them."""
    return map(overlay.strip, draw(views, class_names).values())


def _caption(drawn: overlay.Drawn, arm: str) -> MapCaption:
    figures = {indicator.name: drawn.figures[arm][indicator.tag] for indicator in at(Place.captions)}
    return MapCaption(drawn.predicted[arm], drawn.probability[arm], float(drawn.density[arm].max()), figures)
