# ruff: noqa: RUF001 - signs of formulas
"""THE table of indicators: what each is called, means and is measured in, how it is computed, and where it is drawn.

A new indicator of single maps is one row here: with `measure` it is computed of every map and method, and appears in
`result.json`, `pictures.csv`, TensorBoard, the tables and the documentation. `python -m camtrain.metrics.catalogue`
prints the documentation, `docs/indicators.md`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from camtrain.cam.distribution import is_dead
from camtrain.cam.stretch import Placement
from camtrain.metrics import concentration, pointing
from camtrain.metrics.tags import ACCURACY, BALANCED, PRECISION

MapMeasure = Callable[[Tensor, Tensor, Placement | None], Tensor]
"""From maps (maps, height, width), before ReLU, regions (maps, image height, image width) uint8, and where the cells
lie in the image to (maps,)."""


class Place(enum.Enum):
    """Where an indicator is drawn or listed, beside the comparison of the arms, which has them all."""

    files = "order of the figures of a map in result.json and pictures.csv"
    curves = "curves over the epochs"
    fronts = "Pareto fronts of a sweep"
    epochs = "lines of the epochs in the terminal, and the table of a sweep there"
    settings = "table of a sweep in the report"
    sizes = "table by the object's size"
    other_maps = "table of maps by other methods"
    captions = "under the maps in the report: the first one that is defined; the gallery goes by its gain"


@dataclass(frozen=True)
class Indicator:
    tag: str  # in TensorBoard, result.json and pictures.csv
    label: str
    better: str  # "higher", "lower" or "" where neither is
    meaning: str
    formula: str
    range: str
    unit: str = ""  # shown after the label
    digits: int = 3
    scale: float = 1.0  # from the stored value to the unit
    rate: bool = False  # a share of images: each image has 0 or 1, or a mean of such
    measure: MapMeasure | None = None  # of indicators of a single map
    places: Mapping[Place, int] = field(default_factory=dict)  # where it is drawn, and as which one there

    @property
    def title(self) -> str:
        """Label with unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def name(self) -> str:
        """The tag without its group."""
        return self.tag.rpartition("/")[2]


def _of_map(measure: Callable[[Tensor], Tensor]) -> MapMeasure:
    """A measure that needs no region."""
    return lambda maps, *_: measure(maps)


def _at(**order: int) -> dict[Place, int]:
    return {Place[name]: number for name, number in order.items()}


def _dead(maps: Tensor) -> Tensor:
    return is_dead(maps).float()


FAMILIES = {
    "performance": (
        Indicator(
            f"{ACCURACY}/val",
            "accuracy",
            "higher",
            "share of validation images classified correctly",
            "share of images whose most probable class is the true one",
            "0 to 1",
            rate=True,
            places=_at(curves=1),
        ),
        Indicator(
            BALANCED,
            "balanced accuracy",
            "higher",
            "the same where every class counts alike, however many images it has",
            "mean over the classes of the validation images of the share classified correctly",
            "0 to 1",
            rate=True,
        ),
        Indicator(
            f"{ACCURACY}/train",
            "accuracy, training",
            "",
            "accuracy in the last epoch's training batches",
            "as above, in training mode",
            "0 to 1",
        ),
        Indicator(
            f"{PRECISION}/val",
            "mean average precision",
            "higher",
            "over classes, validation images",
            "mean over classes of Σₙ (Rₙ − Rₙ₋₁) Pₙ, recall R and precision P at each score; several classes per image",
            "0 to 1",
            places=_at(curves=2),
        ),
        Indicator(
            f"{PRECISION}/train",
            "mean average precision, training",
            "",
            "the same in the last epoch's training batches",
            "as above, in training mode",
            "0 to 1",
        ),
    ),
    "concentration": (
        Indicator(
            "cam/entropy",
            "entropy",
            "lower",
            "how much area is active",
            "−Σ P ln P",
            "0 to ln N nats",
            unit="nats",
            measure=_of_map(concentration.entropy),
            places=_at(files=1, curves=3, fronts=1, epochs=1, settings=1, other_maps=1, captions=2),
        ),
        Indicator(
            "cam/area",
            "elliptical area",
            "lower",
            "how compact the active area is",
            "√(λ₁λ₂), eigenvalues of the covariance of position under P",
            "0 to (n − 1)²/4 cells; uniform n × n map: (n² − 1)/12",
            unit="cells",
            measure=_of_map(concentration.area),
            places=_at(files=2, curves=4),
        ),
        Indicator(
            "cam/dispersion",
            "dispersion",
            "higher",
            "how uneven the map is; no independent evidence beside the entropy",
            "var(L⁺) / mean(L⁺)² = N ΣP² − 1",
            "0 to N − 1",
            digits=2,
            measure=_of_map(concentration.dispersion),
            places=_at(files=3),
        ),
        Indicator(
            "cam/contrast",
            "contrast",
            "higher",
            "active against inactive cells, in multiples of the map's mean",
            "(mean of the cells ≥ half the maximum − mean of the others) / mean",
            "0 to N",
            digits=2,
            measure=_of_map(concentration.contrast),
            places=_at(files=4),
        ),
        Indicator(
            "cam/gini",
            "Gini index",
            "higher",
            "how unequal the cells are",
            "Σₖ (2k − N − 1) P₍ₖ₎ / N, cells in ascending order",
            "0 to 1 − 1/N",
            measure=_of_map(concentration.gini),
            places=_at(files=5),
        ),
        Indicator(
            "cam/top_tenth",
            "mass in the top tenth",
            "higher",
            "share of the map in its highest cells",
            "share of L⁺ in the highest tenth of the cells",
            "0.1 to 1",
            measure=_of_map(concentration.top_tenth),
            places=_at(files=6),
        ),
    ),
    "plausibility": (
        Indicator(
            "cam/energy_in_mask",
            "energy in mask",
            "higher",
            "share of the map on the object",
            "share of the stretched L⁺ inside the object",
            "0 to 1",
            measure=pointing.energy_in_mask,
            places=_at(files=9, curves=5, fronts=2, epochs=2, settings=2, sizes=1, other_maps=2, captions=1),
        ),
        Indicator(
            "cam/pointing",
            "pointing",
            "higher",
            "share of images whose map peaks on the object",
            "share of images whose stretched map has its maximum inside the object",
            "0 to 1",
            rate=True,
            measure=pointing.pointing,
            places=_at(files=10, sizes=2, other_maps=3),
        ),
        Indicator(
            "cam/pointing_tolerant",
            "pointing, tolerant",
            "higher",
            "the same with the published tolerance of 15 pixels in 500",
            "share of images whose stretched map has its maximum at most 3 % of the longer side from the object",
            "0 to 1",
            rate=True,
            measure=pointing.pointing_tolerant,
            places=_at(files=11),
        ),
        Indicator(
            "cam/iou",
            "overlap (IoU)",
            "higher",
            "of the map above its best threshold with the object",
            "intersection over union of object and map above a threshold, for each half of the images the best one of"
            " the other half",
            "0 to 1",
            places=_at(sizes=3),
        ),
        Indicator(
            "cam/box_accuracy",
            "box accuracy",
            "higher",
            "MaxBoxAccV2: boxes round the map, at an IoU of 0.3, 0.5 and 0.7",
            "share of images in which a box round a part of the map above the best threshold (as above) overlaps an"
            " object's box; mean over IoU ≥ 0.3, 0.5, 0.7",
            "0 to 1",
            rate=True,
            places=_at(sizes=4),
        ),
        Indicator(
            "cam/pxap",
            "pixel precision",
            "higher",
            "PxAP: average precision of the map's pixels",
            "area under the precision-recall steps of the pixels of all images, pooled",
            "0 to 1",
        ),
    ),
    "faithfulness": (
        Indicator(
            "faithfulness/drop",
            "drop in confidence",
            "lower",
            "of the class when only the map is shown; a sharp map shows less of the image and tends to drop more",
            "max(0, p − p of the image multiplied by its map) / p",
            "0 to 1",
        ),
        Indicator(
            "faithfulness/increase",
            "increase in confidence",
            "higher",
            "share of images in which it rises",
            "share of images whose p is higher when only the map is shown",
            "0 to 1",
            rate=True,
        ),
        Indicator(
            "faithfulness/deletion",
            "deletion",
            "lower",
            "confidence while the map's highest pixels are hidden first",
            "area under p while pixels are replaced by the mean colour, the map's highest first; equal ones in a fixed"
            " random order",
            "0 to 1",
            places=_at(other_maps=4),
        ),
        Indicator(
            "faithfulness/insertion",
            "insertion",
            "higher",
            "confidence while the map's highest pixels are shown first",
            "area under p while a blurred image becomes sharp, the map's highest pixels first; deviation of the blur"
            " 5/64 of the image's shorter side",
            "0 to 1",
            places=_at(other_maps=5),
        ),
        Indicator(
            "faithfulness/gain",
            "gain over random blocks",
            "higher",
            "insertion minus deletion, normalised, less the same for square blocks in a random order: what the order of"
            " the map's pixels adds, whatever the network makes of missing pixels; 0: no better than chance",
            "C(map) − C(blocks), C = insertion / mean of (p(image) − p(blurred)) − deletion / mean of (p(image) −"
            " p(mean colour)), the means over the network's images; blocks of an eighth of the image's shorter side, in"
            " an image's order that is the same for all networks",
            "about −2 to 2",
            places=_at(fronts=3, settings=3, other_maps=6),
        ),
        Indicator(
            "faithfulness/gain_centre",
            "gain over the centre",
            "higher",
            "the same less that of the order of a Gaussian in the middle of the image",
            "C(map) − C(centred Gaussian)",
            "about −2 to 2",
        ),
        Indicator(
            "faithfulness/gain_object",
            "gain over the object",
            "higher",
            "the same less that of the object's pixels first; where an object is known",
            "C(map) − C(object)",
            "about −2 to 2",
        ),
        Indicator(
            "faithfulness/coherency",
            "coherency",
            "higher",
            "likeness of the map and the map of what it shows",
            "(1 + correlation of the stretched map M, over its maximum, and that of the image multiplied by M) / 2; 0"
            " where it is not defined",
            "0 to 1",
        ),
        Indicator(
            "faithfulness/complexity",
            "complexity",
            "lower",
            "how much of the image the map shows",
            "mean of the stretched map over its maximum",
            "0 to 1",
        ),
        Indicator(
            "faithfulness/adcc",
            "ADCC",
            "higher",
            "average drop, coherency and complexity in one (Poppi et al., 2021)",
            "mean over the images of 3 / (1 / coherency + 1 / (1 − complexity) + 1 / (1 − drop in confidence))",
            "0 to 1",
        ),
        Indicator(
            "faithfulness/road",
            "ROAD",
            "higher",
            "removing the map's lowest pixels against its highest, gaps filled in",
            "(p without the map's lowest pixels − p without its highest) / 2, gaps filled from their surroundings",
            "−½ to ½",
        ),
    ),
    "stability": (
        Indicator(
            "stability/flip",
            "mirrored",
            "higher",
            "likeness of the map of the mirrored image and the mirrored map",
            "correlation of both stretched maps",
            "−1 to 1",
            places=_at(fronts=5),
        ),
        Indicator(
            "stability/shift",
            "moved",
            "higher",
            "the same for an image moved by half a stride of the map",
            "correlation of the stretched maps where both show the same",
            "−1 to 1",
        ),
        Indicator(
            "stability/shift_far",
            "moved further",
            "higher",
            "the same for an image moved by one and a half strides",
            "correlation of the stretched maps where both show the same",
            "−1 to 1",
        ),
    ),
    "sanity": (
        Indicator(
            "sanity/head",
            "untrained last layer",
            "lower",
            "likeness of the maps before and after the last layer is randomised",
            "correlation with the map after the last layer's weights are replaced by untrained ones",
            "−1 to 1",
        ),
        Indicator(
            "sanity/all",
            "untrained network",
            "lower",
            "the same after all layers are; near 0 for a sound map",
            "correlation with the map of an untrained network of the same architecture",
            "−1 to 1",
            places=_at(fronts=6),
        ),
    ),
    "health": (
        Indicator(
            "cam/dead_rate",
            "dead rate",
            "lower",
            "share of images without any map; a dead map explains nothing",
            "share of images whose ΣL⁺ is at most 1e-4 of Σ|L|, or not finite",
            "0 to 1",
            rate=True,
            measure=_of_map(_dead),
            places=_at(files=8, curves=6, epochs=3, settings=4),
        ),
        Indicator(
            "cam/border_mass",
            "mass at the border",
            "lower",
            "share of the map in the outermost cells, where effects of the padding gather",
            "share of L⁺ in the outermost cells",
            "0 to 1",
            measure=_of_map(concentration.border_mass),
            places=_at(files=7, fronts=7),
        ),
        Indicator(
            "cam/peak_entropy",
            "spread of peaks",
            "",
            "0: all maps peak in one cell, whatever the image; 1: everywhere alike",
            "entropy of the distribution of the cells in which maps peak / ln N",
            "0 to 1",
        ),
    ),
    "confidence": (
        Indicator(
            "confidence/top_probability",
            "top probability",
            "",
            "mean probability of the predicted class",
            "highest probability of an image",
            "0 to 1",
        ),
        Indicator(
            "confidence/margin",
            "margin",
            "",
            "mean lead of the predicted class over the next",
            "highest − second highest probability of an image",
            "0 to 1",
        ),
        Indicator(
            "confidence/entropy",
            "entropy of the prediction",
            "",
            "nats; the lower, the more confident the network",
            "−Σ p ln p over the classes",
            "0 to ln(classes) nats",
        ),
        Indicator(
            "confidence/calibration_error",
            "calibration error",
            "lower",
            "of the stated confidence against the actual accuracy",
            "mean of |accuracy − stated probability| over 15 bins of the stated probability",
            "0 to 1",
            places=_at(fronts=8),
        ),
    ),
    "learning": (
        Indicator(
            "settling/epoch",
            "maps settled at epoch",
            "",
            "from there on, correlation with the last epoch's maps stays above 0.9",
            "first epoch after which the mean correlation with the last epoch's maps stays above 0.9",
            "1 to the number of epochs",
            digits=0,
        ),
        Indicator(
            "effort/epochs_to_90",
            "epochs to 90 %",
            "lower",
            "of the final accuracy",
            "epochs until 90 % of the final accuracy, interpolated",
            "epochs",
            digits=1,
        ),
        Indicator(
            "effort/mean_performance",
            "performance, all epochs",
            "higher",
            "mean; the difference is the area between the curves",
            "accuracy, or mean average precision, averaged over the epochs",
            "0 to 1",
        ),
        Indicator(
            "effort/cam_share",
            "gradient share",
            "",
            "of the CAM term in the gradient at the target layer",
            "norm of the weighted term's gradient at the layer / sum of this and that of the classification loss",
            "0 to 1",
        ),
        Indicator(
            "effort/cam_weight",
            "weight of the CAM term",
            "",
            "mean over the last epoch",
            "factor of the term in the loss",
            "0 and up",
            digits=2,
        ),
    ),
    "training": (
        Indicator(
            "time/step",
            "step time",
            "lower",
            "median of a training step, last epoch",
            "median wall-clock time of a training step, arms taking turns",
            "ms",
            unit="ms",
            digits=1,
            scale=1000,
        ),
    ),
}
"""The indicators of the comparison by family; families are never merged into one number."""

QUESTIONS = {
    "performance": "How well does the network classify?",
    "concentration": "How small and how compact is the active area?",
    "plausibility": "Does the map lie on the object? Needs masks or boxes.",
    "faithfulness": "Does the network use what the map shows? p is the probability of the map's class; measured on"
    " `evaluate.faithfulness_images` images, ROAD on `evaluate.road_images`.",
    "stability": "Does the map stay on what it shows when the image is mirrored or moved?",
    "sanity": "Does the map depend on what was learnt? Measured on `evaluate.sanity_images` images.",
    "health": "Are there dead maps, or maps that gather at the border or always in one cell?",
    "confidence": "How confident is the network, and is that warranted?",
    "learning": "How early do the maps settle, how fast does accuracy rise, and what share of the gradient goes into"
    " the maps?",
    "training": "What does the term cost in time?",
}
"""What each family asks."""

CURVES_ONLY = (
    Indicator(
        "loss/classification",
        "classification loss",
        "",
        "of the training batches",
        "cross-entropy; binary cross-entropy with several classes per image",
        "0 and up",
        places=_at(curves=7),
    ),
    Indicator(
        "loss/consistency",
        "distance from the maps of views",
        "",
        "of the training batches, where these hold views",
        "mean of p^gamma D, D half the L1 distance between the moved map and the map of the view",
        "0 to 1",
        places=_at(curves=8),
    ),
)
"""Figures that are drawn, and not compared."""

INDICATORS = {indicator.tag: indicator for family in FAMILIES.values() for indicator in family}
"""Those of the comparison by tag."""

CONCENTRATION = tuple(indicator.tag for indicator in FAMILIES["concentration"])


def at(place: Place) -> list[Indicator]:
    """The indicators of a place in their order there."""
    found = [indicator for indicator in (*INDICATORS.values(), *CURVES_ONLY) if place in indicator.places]
    return sorted(found, key=lambda indicator: indicator.places[place])


def map_indicators() -> dict[str, MapMeasure]:
    """Name (the tag without `cam/`) and measure of every indicator of a single map, in the order of the files.

    An indicator with a measure and without a place in that order comes last.
    """
    found = [indicator for indicator in INDICATORS.values() if indicator.measure is not None]
    ordered = sorted(found, key=lambda indicator: indicator.places.get(Place.files, len(found)))
    return {indicator.name: indicator.measure for indicator in ordered if indicator.measure is not None}


OTHER_MAPS = "other_maps"
"""First part of the tags of maps by other methods, `other_maps/METHOD/NAME`."""


def other_map_tag(method: str, name: str) -> str:
    """The tag of an indicator of maps by another method than the trained one."""
    return f"{OTHER_MAPS}/{method}/{name}"


def is_rate(tag: str) -> bool:
    """Whether a tag is that of a share of images, of the trained map or of another one."""
    if not tag.startswith(f"{OTHER_MAPS}/"):
        return tag in INDICATORS and INDICATORS[tag].rate
    return any(indicator.rate and indicator.name == tag.rpartition("/")[2] for indicator in INDICATORS.values())


INTRODUCTION = """# Indicators

[← README](../README.md)

<!-- Generated by: python -m camtrain.metrics.catalogue > docs/indicators.md -->

Unless stated otherwise an indicator is a mean over the validation images, of the true class's map of the logit in every
arm, whatever score was trained. L⁺ is the map after ReLU, P = L⁺ / ΣL⁺, N the number of its cells; a map is *stretched*
to the image's size bilinearly. The tag is its name in TensorBoard, `result.json` and `pictures.csv`. Families are never
merged into one number."""


def document() -> str:
    """The indicators as a page of documentation, in Markdown."""
    heading = "| indicator | formula | range | better | what it means | tag |\n|---|---|---|---|---|---|"
    parts = [INTRODUCTION]
    groups = [*FAMILIES.items(), ("curves only", CURVES_ONLY)]
    for family, indicators in groups:
        cells = ((row.label, row.formula, row.range, row.better, row.meaning, f"`{row.tag}`") for row in indicators)
        lines = ["| " + " | ".join(text.replace("|", r"\|") for text in row) + " |" for row in cells]
        question = f"{QUESTIONS[family]}\n\n" if family in QUESTIONS else ""
        parts.append(f"## {family.capitalize()}\n\n{question}{heading}\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(document(), end="")
