"""The table of all indicators: what each is called, means and is measured in, and where it is drawn."""

from __future__ import annotations

from typing import NamedTuple


class Indicator(NamedTuple):
    tag: str
    label: str
    better: str  # "higher", "lower" or "" where neither is
    digits: int
    meaning: str


FAMILIES = {
    "performance": (
        Indicator("accuracy/val", "accuracy", "higher", 3, "share of validation images classified rightly"),
        Indicator("accuracy/train", "accuracy, training", "", 3, "the same in the last epoch's training batches"),
        Indicator("average_precision/val", "mean average precision", "higher", 3, "over classes, validation images"),
        Indicator("average_precision/train", "the same, training", "", 3, "in the last epoch's training batches"),
    ),
    "concentration": (
        Indicator("cam/entropy", "entropy, nats", "lower", 3, "how much area is active"),
        Indicator("cam/area", "elliptical area, cells", "lower", 3, "how tight the active area is"),
        Indicator("cam/dispersion", "dispersion", "higher", 2, "how uneven the map is; follows the entropy"),
        Indicator("cam/contrast", "contrast", "higher", 2, "active against inactive cells, in means of the map"),
        Indicator("cam/gini", "Gini index", "higher", 3, "how unequal the cells are"),
        Indicator("cam/top_tenth", "mass in the top tenth", "higher", 3, "share of the map in its highest cells"),
    ),
    "plausibility": (
        Indicator("cam/energy_in_mask", "energy in mask", "higher", 3, "share of the map on the object"),
        Indicator("cam/pointing", "pointing", "higher", 3, "share of images whose map peaks on the object"),
        Indicator("cam/iou", "overlap (IoU)", "higher", 3, "of the map above its best threshold with the object"),
        Indicator("cam/box_accuracy", "box accuracy", "higher", 3, "MaxBoxAccV2: boxes round it, at IoU .3, .5, .7"),
        Indicator("cam/pxap", "pixel precision", "higher", 3, "PxAP: average precision of the map's pixels"),
    ),
    "faithfulness": (
        Indicator("faithfulness/drop", "drop in confidence", "lower", 3, "of the class, when only the map is shown"),
        Indicator("faithfulness/increase", "increase in confidence", "higher", 3, "share of images where it rises"),
        Indicator("faithfulness/deletion", "deletion", "lower", 3, "confidence while the map's best is hidden first"),
        Indicator("faithfulness/insertion", "insertion", "higher", 3, "confidence while the map's best is shown first"),
        Indicator("faithfulness/road", "ROAD", "higher", 3, "removing the map's worst against its best, repaired"),
    ),
    "stability": (
        Indicator("stability/flip", "mirrored", "higher", 3, "likeness of the maps of an image and its mirror image"),
        Indicator("stability/shift", "moved", "higher", 3, "the same for an image moved by an eighth of its side"),
    ),
    "sanity": (
        Indicator("sanity/head", "fresh last layer", "lower", 3, "likeness of maps before and after it is randomised"),
        Indicator("sanity/all", "fresh network", "lower", 3, "the same after all layers are; near 0 for a sound map"),
    ),
    "health": (
        Indicator("cam/dead_rate", "dead rate", "lower", 3, "share of images without any map"),
        Indicator("cam/border_mass", "mass at the border", "lower", 3, "share of the map in the outermost cells"),
        Indicator("cam/peak_entropy", "spread of peaks", "", 3, "0: all maps peak in one cell, 1: everywhere alike"),
    ),
    "determination": (
        Indicator("confidence/top_probability", "top probability", "", 3, "mean probability of the predicted class"),
        Indicator("confidence/margin", "margin", "", 3, "mean lead of the predicted class over the next"),
        Indicator("confidence/entropy", "entropy of the prediction", "", 3, "nats; lower is more determined"),
        Indicator("confidence/calibration_error", "calibration error", "lower", 3, "of stated against actual accuracy"),
    ),
    "learning": (
        Indicator("settling/epoch", "maps settled at epoch", "", 0, "from there on alike those of the last, above 0.9"),
        Indicator("effort/epochs_to_90", "epochs to 90 %", "lower", 1, "of the final accuracy"),
        Indicator(
            "effort/mean_performance",
            "performance, all epochs",
            "higher",
            3,
            "mean; difference: area between curves",
        ),
        Indicator(
            "effort/cam_share", "share of learning effort", "", 3, "of the CAM term in the gradient at the layer"
        ),
        Indicator("effort/cam_weight", "weight of the CAM term", "", 2, "mean over the last epoch"),
    ),
    "training": (Indicator("time/step", "step time, ms", "lower", 1, "median of a training step, last epoch"),),
}
"""What is told, by what it speaks of; families are never merged into one number."""

CONCENTRATION = tuple(indicator.tag for indicator in FAMILIES["concentration"])
