"""Where the maps of trained networks lie, beside sharpened and trivial maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.stretch import Placement
from camtrain.cam.targets import MapTargets
from camtrain.data.batches import Batch
from camtrain.evaluation.accumulate import Measured, Values, tagged
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated, image_of_each_map, map_metrics, peak_entropy
from camtrain.evaluation.sharpened import powers_for, sharpened
from camtrain.metrics import localisation
from camtrain.metrics.catalogue import Place, at
from camtrain.metrics.concentration import area, entropy
from camtrain.metrics.pointing import energy_in_mask, pointing
from camtrain.regions import has_object

UNIFORM, CENTRED = "uniform", "centred Gaussian"
"""Trivial maps, which know nothing of the image."""

SIZES = ("small", "middle", "large")


@dataclass
class SizeGroup:
    """Plausibility of the images whose objects take a similar share of the image."""

    size: str  # small, middle, large or all
    images: int
    low: float  # share of the image that the object takes, 0..1
    high: float
    figures: Mapping[str, Mapping[str, float]]  # by arm, sharpened baseline or trivial map, then by name


class Localisation(NamedTuple):
    """Where the maps lie, beside two trivial maps."""

    measured: Measured  # of every arm and sharpened baseline
    by_size: list[SizeGroup]  # thirds of the images by the object's size, and all of them
    powers: dict[str, Tensor]  # by sharpened baseline: of the images of either fold, (2,)


def measure_localisation(context: EvaluationContext, evaluated: Evaluated, batches: Iterable[Batch]) -> Localisation:
    """Localisation of every arm, the sharpened baselines and two trivial maps; the sharpened maps' other indicators.

    Args:
        context: which arms are compared.
        evaluated: of these images.
        batches: the measured images.
    """
    fold = context.fold[evaluated.image_of_map]
    powers, references = {}, {}
    for reference, treatment, *controls in context.contrasts:
        for control, measure in zip(controls, (entropy, area), strict=True):
            powers[control] = powers_for(evaluated.maps[reference], evaluated.maps[treatment], fold, measure)
            references[control] = reference
    names = [*context.networks, *powers, UNIFORM, CENTRED]
    values, shares = Values(names, context.count), Values(["object"], context.count)
    curves = {name: _Curves() for name in names}
    for batch in batches:
        numbers = image_of_each_map(batch)
        of_map = numbers.to(batch.images.device)
        own = MapTargets.of(batch.targets).regions(batch.regions)
        found = {name: evaluated.maps_of(name, batch) for name in context.networks}
        placed = {name: network.placement(batch.images) for name, network in context.networks.items()}
        for control, reference in references.items():
            found[control] = sharpened(found[reference], powers[control][context.fold[numbers]])
            placed[control] = placed[reference]
            values.add(control, of_map, tagged("cam", map_metrics(found[control], own, placed[control])))
        for name, trivial in trivial_maps(next(iter(found.values()))).items():
            found[name] = trivial
            plain = {"energy_in_mask": energy_in_mask(trivial, own), "pointing": pointing(trivial, own)}
            values.add(name, of_map, tagged("cam", plain))
        shares.add("object", of_map, {"share": localisation.size_share(own)})
        rows = has_object(own)
        for name, those in found.items():
            curves[name].add(those[rows], own[rows], of_map[rows], placed.get(name))
    for name in names:
        values.add(name, *curves[name].figures(context.fold))
    whole = values.measured()
    for name in names:
        whole.means[name]["cam/pxap"] = curves[name].pixel_average_precision()
    for control, reference in references.items():
        changed = sharpened(evaluated.maps[reference], powers[control][fold])
        whole.means[control]["cam/peak_entropy"] = peak_entropy(changed)
    each = {name: {**evaluated.measured.each.get(name, {}), **tags} for name, tags in whole.each.items()}
    lines = by_size(each, shares.measured().each["object"]["share"])
    for name in (UNIFORM, CENTRED):
        del whole.means[name], whole.each[name]
    return Localisation(whole, lines, powers)


def trivial_maps(like: Tensor) -> dict[str, Tensor]:
    """The trivial maps by name, in the shape (maps, height, width) of others."""
    count, height, width = like.shape
    made = {UNIFORM: localisation.uniform(height, width), CENTRED: localisation.centred_gaussian(height, width)}
    return {name: trivial.to(like.device).expand(count, -1, -1) for name, trivial in made.items()}


class _Curves:
    """What has to be known of all maps before a threshold can be chosen."""

    def __init__(self) -> None:
        self.numbers: list[Tensor] = []
        self.overlap: list[Tensor] = []
        self.boxes: list[Tensor] = []
        self.pixels: list[Tensor] = []

    def add(self, maps: Tensor, regions: Tensor, numbers: Tensor, placement: Placement | None) -> None:
        self.numbers.append(numbers)
        self.overlap.append(localisation.overlap(maps, regions, placement))
        self.boxes.append(localisation.box_overlap(maps, regions, placement))
        self.pixels.append(localisation.pixel_counts(maps, regions, placement))

    def figures(self, fold: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Numbers of the maps' images, and by tag a value of each map; the fold is that of each image."""
        numbers = torch.cat(self.numbers)
        of_map = fold.to(numbers.device)[numbers]
        return numbers, {
            "cam/iou": localisation.at_best(torch.cat(self.overlap), of_map),
            "cam/box_accuracy": localisation.box_accuracy(torch.cat(self.boxes), of_map),
        }

    def pixel_average_precision(self) -> float:
        return float(localisation.pixel_average_precision(torch.stack(self.pixels).sum(0)))


def by_size(each: Mapping[str, Mapping[str, Tensor]], share: Tensor) -> list[SizeGroup]:
    """Means over thirds of the images, by how much of the image the object takes.

    Args:
        each: by whose maps they are and tag, (images,).
        share: (images,) of the image that is the object; nan where none is known.

    Returns:
        Each third, and all of them. Nothing where no object is known.
    """
    known = share.isfinite().nonzero().flatten()
    if len(known) < len(SIZES):
        return []
    ascending = known[share[known].argsort(stable=True)]
    parts = [(name, part) for name, part in zip(SIZES, ascending.tensor_split(len(SIZES)), strict=True)]
    tags = [indicator.tag for indicator in at(Place.sizes)]
    return [
        SizeGroup(
            name,
            len(part),
            float(share[part].min()),
            float(share[part].max()),
            {
                of: {tag.rpartition("/")[2]: float(values[tag][part].nanmean()) for tag in tags}
                for of, values in each.items()
                if tags[0] in values
            },
        )
        for name, part in [*parts, ("all", ascending)]
    ]
