"""Measure what takes longer, once, after training: localisation, stability, faithfulness, other maps, sanity.

Tags are those of :mod:`camtrain.evaluation.every_epoch`, of both arms and, where it makes a difference, of the control.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from camtrain.arms import BASELINE, REGULARISED
from camtrain.cam.distribution import correlation, likeness
from camtrain.cam.scores import probability
from camtrain.cam.targets import MapTargets, expand_to_maps, map_targets, regions_of_maps
from camtrain.config.options import CamVariant
from camtrain.config.schema import Config
from camtrain.data.batches import Batch
from camtrain.evaluation.accumulate import Measured, Values, tagged
from camtrain.evaluation.every_epoch import Evaluated, map_metrics, peak_entropy
from camtrain.evaluation.forward import forward_maps, forward_several
from camtrain.evaluation.sharpened import CONTROL, power_for, sharpened
from camtrain.evaluation.subset import evenly_spaced
from camtrain.metrics import faithfulness, localisation
from camtrain.metrics.concentration import entropy
from camtrain.metrics.equivariance import stability
from camtrain.metrics.pointing import energy_in_mask, pointing
from camtrain.metrics.randomisation import cascade
from camtrain.metrics.road import road
from camtrain.regions import has_object
from camtrain.streams import Stream, stream
from camtrain.training.arm import Arm

UNIFORM, CENTRED = "uniform", "centred Gaussian"
"""Trivial maps, which know nothing of the image."""

SIZED = ("energy_in_mask", "pointing", "iou", "box_accuracy")
"""Indicators that are told by the object's size."""

SIZES = ("small", "middle", "large")


class Localisation(NamedTuple):
    """Where the maps lie, beside two trivial maps."""

    measured: Measured
    by_size: list[dict[str, object]]  # one line per third of the images by the object's size, and one for all
    power: float  # of the control


def measure_localisation(
    arms: Sequence[Arm], evaluated: Evaluated, batches: Iterable[Batch], variant: CamVariant
) -> Localisation:
    """Localisation of both arms, the control and two trivial maps; stability of both arms; the control's indicators.

    Args:
        arms: both.
        evaluated: of the same images.
        batches: the measured images.
        variant: the trained map.
    """
    maps, quick = evaluated.maps, evaluated.measured.each
    image_set = len(quick[BASELINE]["cam/entropy"])
    power = power_for(maps[BASELINE], float(entropy(maps[REGULARISED]).double().nanmean()))
    names = [*(arm.name for arm in arms), CONTROL, UNIFORM, CENTRED]
    values, shares = Values(names, image_set), Values(["object"], image_set)
    curves = {name: _Curves() for name in names}
    for batch in batches:
        images, targets, regions, numbers = batch
        found: dict[str, Tensor] = {}
        of = map_targets(targets)
        of_map, own = expand_to_maps(numbers, targets, of).to(images.device), regions_of_maps(regions, targets, of)
        for arm in arms:
            found[arm.name] = evaluated.of(arm.name, batch)

            def again(changed: Tensor, arm: Arm = arm, targets: Tensor = targets) -> Tensor:
                return forward_maps(arm, changed, targets, variant).maps

            values.add(arm.name, of_map, tagged("stability", stability(images, found[arm.name], again)._asdict()))
        found[CONTROL] = sharpened(found[BASELINE], power)
        values.add(CONTROL, of_map, tagged("cam", map_metrics(found[CONTROL], own)))
        height, width = found[BASELINE].shape[1:]
        for name, trivial in (
            (UNIFORM, localisation.uniform(height, width)),
            (CENTRED, localisation.centred_gaussian(height, width)),
        ):
            found[name] = trivial.to(own.device).expand(len(own), -1, -1)
            plain = {"energy_in_mask": energy_in_mask(found[name], own), "pointing": pointing(found[name], own)}
            values.add(name, of_map, tagged("cam", plain))
        shares.add("object", of_map, {"share": localisation.size_share(own)})
        rows = has_object(own)
        for name, those in found.items():
            curves[name].add(those[rows], own[rows], of_map[rows])
    for name in names:
        of_map, figures = curves[name].figures()
        values.add(name, of_map, tagged("cam", figures))
    whole = values.measured()
    for name in names:
        whole.means[name]["cam/pxap"] = curves[name].pixel_average_precision()
    whole.means[CONTROL]["cam/peak_entropy"] = peak_entropy(sharpened(maps[BASELINE], power))
    each = {name: {**quick.get(name, {}), **tags} for name, tags in whole.each.items()}
    lines = by_size(each, shares.measured().each["object"]["share"])
    for name in (UNIFORM, CENTRED):
        del whole.means[name], whole.each[name]
    return Localisation(whole, lines, power)


class _Curves:
    """What has to be known of all maps before a threshold can be chosen."""

    def __init__(self) -> None:
        self.numbers: list[Tensor] = []
        self.overlap: list[Tensor] = []
        self.boxes: list[Tensor] = []
        self.pixels: list[Tensor] = []

    def add(self, maps: Tensor, regions: Tensor, numbers: Tensor) -> None:
        self.numbers.append(numbers)
        self.overlap.append(localisation.overlap(maps, regions))
        self.boxes.append(localisation.box_overlap(maps, regions))
        self.pixels.append(localisation.pixel_counts(maps, regions))

    def figures(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Numbers of the maps' images, and by name a value of each map."""
        return torch.cat(self.numbers), {
            "iou": localisation.at_best(torch.cat(self.overlap)),
            "box_accuracy": localisation.box_accuracy(torch.cat(self.boxes)),
        }

    def pixel_average_precision(self) -> float:
        return float(localisation.pixel_average_precision(torch.stack(self.pixels).sum(0)))


def by_size(each: Mapping[str, Mapping[str, Tensor]], share: Tensor) -> list[dict[str, object]]:
    """Means over thirds of the images, by how much of the image the object takes.

    Args:
        each: by whose maps they are and tag, (images,).
        share: (images,) of the image that is the object; nan where none is known.

    Returns:
        For each third and for all: its `size`, the number of `images`, `from` and `to` which share, and by map the
        indicators of :data:`SIZED`. Nothing where no object is known.
    """
    known = share.isfinite().nonzero().flatten()
    if len(known) < len(SIZES):
        return []
    ascending = known[share[known].argsort(stable=True)]
    parts = [(name, part) for name, part in zip(SIZES, ascending.tensor_split(len(SIZES)), strict=True)]
    return [
        {
            "size": name,
            "pictures": len(part),
            "from": float(share[part].min()),
            "to": float(share[part].max()),
            **{
                of: {tag: float(tags[f"cam/{tag}"][part].nanmean()) for tag in SIZED}
                for of, tags in each.items()
                if f"cam/{SIZED[0]}" in tags
            },
        }
        for name, part in [*parts, ("all", ascending)]
    ]


def measure_faithfulness(
    arms: Sequence[Arm],
    evaluated: Evaluated,
    batches: Iterable[Batch],
    power: float,
    imputed: Tensor,
    seed: int,
) -> Measured:
    """Whether each arm's network uses what its maps show, and what the control's maps show: `faithfulness/drop`, ...

    Three forward passes of each arm, some 30 for each map, and 8 more for :func:`camtrain.metrics.road.road`.

    Args:
        arms: both.
        evaluated: of these images, among others.
        batches: the measured images.
        power: of the control.
        imputed: (images,) bool, for which of them ROAD is measured.
        seed: of the noise in what ROAD puts in place of pixels: an image's is the same for all maps.
    """
    values = Values([*(arm.name for arm in arms), CONTROL], len(imputed))
    for batch in batches:
        images, targets, _, numbers = batch
        with_road = imputed[numbers].to(images.device)
        noise = np.zeros(images.shape if bool(with_road.any()) else (0,), np.float32)
        for row in with_road.nonzero().flatten().tolist():
            drawn = stream(seed, Stream.road, step=int(numbers[row]))
            noise[row] = drawn.standard_normal(images.shape[1:], np.float32)
        noise_of = torch.from_numpy(noise).to(images.device)
        of = map_targets(targets)
        of_map, rows = (expand_to_maps(part, targets, of) for part in (numbers.to(images.device), with_road))
        some = MapTargets(of.rows[rows], of.classes[rows])
        for arm in arms:
            maps = evaluated.of(arm.name, batch)
            seen = {arm.name: maps}
            if arm.name == BASELINE:
                seen[CONTROL] = sharpened(maps, power)
            for name, figures in zip(seen, confidence_metrics(arm, images, targets, of, [*seen.values()]), strict=True):
                values.add(name, of_map, tagged("faithfulness", figures))
            if len(some.rows):
                normalised, of_class = _class_probability(arm, images, targets, some)
                for name, those in seen.items():
                    found = road(normalised, those[rows], of_class, noise_of[some.rows])
                    values.add(name, of_map[rows], {"faithfulness/road": found})
    return values.measured()


def confidence_metrics(
    arm: Arm, images: Tensor, targets: Tensor, of: MapTargets, several: Sequence[Tensor]
) -> list[dict[str, Tensor]]:
    """Every figure of :mod:`camtrain.metrics.faithfulness` by name, (maps,) each; for each of several kinds of maps."""
    normalised, of_class = _class_probability(arm, images, targets, of)
    known = faithfulness.ends(normalised, of_class)
    return [
        {
            **faithfulness.confidence(normalised, maps, of_class, known.whole)._asdict(),
            **curve_areas(normalised, maps, of_class, known),
        }
        for maps in several
    ]


def curve_areas(
    normalised: Tensor, maps: Tensor, of_class: Callable[[Tensor], Tensor], known: faithfulness.Ends
) -> dict[str, Tensor]:
    found = faithfulness.curves(normalised, maps, of_class, known)
    return {name: faithfulness.area_under(curve) for name, curve in found._asdict().items()}


def _class_probability(
    arm: Arm, images: Tensor, targets: Tensor, of: MapTargets
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A normalised image for each map, and from such images, changed, to the probability of each map's class."""
    model = arm.model.eval()
    own = MapTargets(torch.arange(len(of.rows), device=images.device), of.classes)
    of_own = targets[of.rows]

    def of_class(changed: Tensor) -> Tensor:
        with torch.no_grad():
            return probability(model.of_normalised(changed).logits, of_own, own)

    return ((images - model.mean) / model.std)[of.rows], of_class


def measure_other_maps(
    arms: Sequence[Arm],
    batches: Iterable[Batch],
    variants: Sequence[CamVariant],
    trained: CamVariant,
    faithfully: Tensor,
) -> Measured:
    """Indicators of other maps than the trained one: `other_maps/<map>/entropy`, `.../deletion` and so on.

    `.../with_trained` is its correlation with the trained map, `.../like_<map>` that with another one: near 1 it is the
    same map under another name, and no second witness. Behind global average pooling and one linear layer HiResCAM is
    Grad-CAM, and Grad-CAM++ hardly differs from LayerCAM.

    Args:
        arms: both.
        batches: the measured images.
        variants: which maps.
        trained: the map that the CAM term was computed from.
        faithfully: (images,) bool, for which of them deletion and insertion are measured.
    """
    values = Values([arm.name for arm in arms], len(faithfully))
    for images, targets, regions, numbers in batches:
        some = faithfully[numbers].to(images.device)
        for arm in arms:
            _, of, maps = forward_several(arm, images, targets, [trained, *variants])
            of_map, rows = (expand_to_maps(part.to(images.device), targets, of) for part in (numbers, some))
            own = regions_of_maps(regions, targets, of)
            normalised, of_class = _class_probability(arm, images, targets, MapTargets(of.rows[rows], of.classes[rows]))
            known = faithfulness.ends(normalised, of_class) if len(normalised) else None
            for at, variant in enumerate(variants):
                figures = map_metrics(maps[variant], own)
                figures["with_trained"] = correlation(maps[variant], maps[trained])
                for other in variants[:at]:
                    figures[f"like_{other.value}"] = correlation(maps[variant], maps[other])
                values.add(arm.name, of_map, tagged(f"other_maps/{variant.value}", figures))
                if known is not None:
                    found = curve_areas(normalised, maps[variant][rows], of_class, known)
                    values.add(arm.name, of_map[rows], tagged(f"other_maps/{variant.value}", found))
    return values.measured()


class Randomisation(NamedTuple):
    measured: Measured
    curves: dict[str, list[float]]  # by arm: mean similarity after each stage of the cascade, 1 before it


def randomisation_test(
    arms: Sequence[Arm],
    evaluated: Evaluated,
    batches: Sequence[Batch],
    variant: CamVariant,
    image_set: int,
    fresh: Mapping[str, Tensor],
) -> Randomisation:
    """Likeness of each map to that of the network after its weights were replaced, from the last layer to the first.

    `sanity/head` after the last layer alone, `sanity/all` after every layer.

    Args:
        arms: both.
        evaluated: of these images, among others.
        batches: the measured images.
        variant: the trained map.
        images: how many there are in the set.
        fresh: state dict of a network as the arms', not trained.
    """
    values = Values([arm.name for arm in arms], image_set)
    curves: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for arm in arms:
        model = copy.copy(arm.model)
        model.runs = {}  # compiled code belongs to the arm
        model = copy.deepcopy(model)
        model.backbone.load_state_dict(fresh)
        other = dataclasses.replace(arm, model=model)
        trained = [evaluated.of(arm.name, batch) for batch in batches]
        numbers = torch.cat(
            [expand_to_maps(batch.indices, batch.targets, map_targets(batch.targets.cpu())) for batch in batches]
        )
        stages = []
        for replaced in cascade(model.backbone, arm.model.backbone.state_dict()):
            maps = [
                forward_maps(other, batch.images, batch.targets, variant).maps if replaced else before
                for batch, before in zip(batches, trained, strict=True)
            ]
            stages.append(likeness(torch.cat(trained), torch.cat(maps)))
        curves[arm.name] = [float(alike.double().nanmean()) for alike in stages]
        values.add(arm.name, numbers, {"sanity/head": stages[1], "sanity/all": stages[-1]})
    return Randomisation(values.measured(), curves)


class AfterTraining(NamedTuple):
    measured: Measured  # of both arms and the control
    found: dict[str, Any]  # what belongs to no arm: `control`, `by_size`, `sanity`


def measure(
    arms: Sequence[Arm],
    evaluated: Evaluated,
    batches: Callable[[Tensor], Iterable[Batch]],
    config: Config,
    measured: Tensor,
    fresh: Callable[[], Mapping[str, Tensor]],
    say: Callable[[str], object],
) -> AfterTraining:
    """Everything of this module.

    Args:
        arms: both.
        evaluated: of the same images, by :func:`camtrain.evaluation.every_epoch.evaluate`.
        batches: the chosen ones, (images,) bool, of the validation images.
        config: of the run; `evaluate` says how many images each measurement takes.
        measured: (images,) bool, whose maps are measured.
        fresh: state dict of a network as the arms', not trained.
        say: is told what is being done.
    """
    variant, wanted = config.cam.variant, config.evaluate
    say("measuring localisation, stability")
    whole, by_sizes, power = measure_localisation(arms, evaluated, batches(measured), variant)
    found: dict[str, Any] = {"control": {"power": power}, "by_size": by_sizes}

    def add(more: Measured) -> None:
        for name, means in more.means.items():
            whole.means[name] |= means
            whole.each[name] |= more.each[name]

    faithfully = evenly_spaced(measured, wanted.faithfulness_images)
    if wanted.faithfulness_images:
        say("measuring faithfulness")
        imputed = evenly_spaced(faithfully, wanted.road_images)
        add(measure_faithfulness(arms, evaluated, batches(faithfully), power, imputed, config.seed))
    others = [other for other in dict.fromkeys(wanted.maps) if other is not variant]
    quick = [other for other in others if other is not CamVariant.scorecam]
    if quick:
        say("measuring other maps")
        add(measure_other_maps(arms, batches(measured), quick, variant, faithfully))
    if CamVariant.scorecam in others:
        say("measuring scorecam")
        some = evenly_spaced(measured, wanted.scorecam_images)
        add(measure_other_maps(arms, batches(some), [CamVariant.scorecam], variant, faithfully))
    if wanted.sanity_images:
        say("measuring sanity")
        some = evenly_spaced(measured, wanted.sanity_images)
        checked = randomisation_test(arms, evaluated, list(batches(some)), variant, len(measured), fresh())
        add(checked.measured)
        found["sanity"] = checked.curves
    found["control"]["final"] = whole.means[CONTROL]
    return AfterTraining(whole, found)
