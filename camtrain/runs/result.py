"""What a run found, as dataclasses: RunResult, and its JSON form, `result.json`, which is what programs read."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camtrain.arms import Contrast, contrasts
from camtrain.cam.routes import GradientRoute, Routes
from camtrain.cam.stretch import Axis, Placement
from camtrain.config.hydra_store import from_tree, to_tree
from camtrain.config.schema import Config
from camtrain.data.depth import ALL_16_BITS, Span
from camtrain.data.listing import Skipped
from camtrain.errors import UserError
from camtrain.evaluation.localisation import SizeGroup
from camtrain.files import write_text

SCHEMA = 1

NAME = "result.json"

DIVERGED = "diverged"
"""Status of a run that ended because a network's numbers were no longer finite."""

Figures = Mapping[str, float]
"""By tag."""


@dataclass
class ArmResult:
    """An arm's figures of every epoch, by tag; those that are measured once are in the last epoch's."""

    epochs: Sequence[Figures]

    @property
    def final(self) -> Figures:
        return self.epochs[-1] if self.epochs else {}


@dataclass
class DataFacts:
    name: str
    classes: list[str]
    train: int | None  # images; None where nothing was trained
    val: int
    val_with_region: int
    middle_side: int  # median of the images' shorter sides, pixels
    multilabel: bool
    skipped: dict[str, list[Skipped]]  # by split: images that could not be read
    notes: dict[str, list[str]] = field(default_factory=dict)  # by split: how the files were understood
    intensity_range: Span | None = None  # black and white of images of more than 8 bits; None where there were none
    val_per_class: list[int] | None = None  # validation images of each class; None as former versions wrote it
    fingerprint: str | None = None  # of both splits; None where nothing was trained, and as former versions wrote it


@dataclass
class ModelFacts:
    name: str
    layer: str
    grid: tuple[int, int]
    channels: int
    stem_strides_lowered: list[str]
    relu_left_out: str | None
    parameters: int
    gradient_path: Routes
    cells: Placement | None = None  # where the map's cells lie in the image; former versions did not look


@dataclass
class NetworkFacts:
    """A network that was compared as it is."""

    given: str  # as the user named it
    method: str  # of its maps
    model: ModelFacts
    outputs: int
    mean: list[float]  # of each channel, by which its images are normalised
    std: list[float]
    classes: dict[str, list[str]] | None = None  # its outputs that each class stands for; None: as they are
    notes: list[str] = field(default_factory=list)  # what was assumed


@dataclass
class Timing:
    seconds: float  # of the whole run
    step: dict[str, float] | None = None  # by arm, median seconds of a training step; None where nothing was trained

    def ratio(self, contrast: Contrast) -> float | None:
        """The treatment's step time over the reference's, where both are known."""
        step = self.step or {}
        known = contrast.reference in step and contrast.treatment in step
        return step[contrast.treatment] / step[contrast.reference] if known else None


@dataclass
class Control:
    """A sharpened baseline: the reference's maps raised to a power that gives them a treatment's entropy, or area."""

    power: float  # geometric mean over the two folds of the images
    final: Figures


@dataclass
class MapCaption:
    """What stands under a map."""

    predicted: str
    probability: float
    peak: float  # multiple of uniform attention; 0 of a dead map
    figures: Figures  # by name, as `energy_in_mask`


@dataclass
class GalleryEntry:
    """An image of the report with every arm's map."""

    file: str  # relative to the run folder
    why: str  # best, worst or random
    image: str
    truth: str
    arms: dict[str, MapCaption]
    share: float = math.nan  # of the image, that the object takes; nan where none is known, and of former versions


@dataclass(kw_only=True)
class RunResult:
    """Everything that a run leaves for programs; what is not known yet has its default."""

    status: str  # running, completed, interrupted, diverged or failed
    config: Config
    arms: dict[str, ArmResult]  # the reference first
    data: DataFacts
    model: ModelFacts
    learning_rate: float
    cam_shares: dict[str, float | None]  # by treatment: share of the gradient; None where the weight is a number
    environment: dict[str, str]  # versions, and what is computed on
    timing: Timing
    trained_seed: int | None = None  # of a run that was measured again
    reference_from: str | None = None  # folder of the run that has trained the reference arm; None: this one
    differences: Mapping[str, Figures] = field(default_factory=dict)  # by treatment and tag: treatment minus reference
    margins: Mapping[str, Figures] = field(default_factory=dict)  # half of the 95 % interval of each over images
    controls: dict[str, Control] = field(default_factory=dict)  # by treatment: as sharp as its maps
    controls_area: dict[str, Control] = field(default_factory=dict)  # as tight as its maps; former versions had none
    by_size: list[SizeGroup] | None = None
    faithfulness_images: int | None = None  # on how many it was measured; None as former versions wrote it
    sanity: dict[str, list[float]] | None = None  # by arm: likeness after each stage of randomisation
    gallery: list[GalleryEntry] | None = None
    gallery_by: str | None = None  # label of the indicator that best and worst go by
    networks: dict[str, NetworkFacts] = field(default_factory=dict)  # by arm, where networks were compared as they are

    @property
    def contrasts(self) -> list[Contrast]:
        return contrasts(self.arms)

    @property
    def seed(self) -> int:
        """Of the training, also where the images were chosen by another one when it was measured again."""
        return self.config.seed if self.trained_seed is None else self.trained_seed

    def finals(self) -> dict[str, Figures]:
        """The last figures of every arm and sharpened baseline."""
        found = {name: arm.final for name, arm in self.arms.items()}
        for pair in self.contrasts:
            for name, controls in ((pair.control, self.controls), (pair.control_area, self.controls_area)):
                if pair.treatment in controls:
                    found[name] = controls[pair.treatment].final
        return found

    def to_json(self) -> dict[str, Any]:
        """The content of `result.json`; figures that are not defined are nan."""
        pairs = self.contrasts
        first, several = pairs[0].treatment if pairs else "", len(pairs) > 1
        tree: dict[str, Any] = {
            "schema": SCHEMA,
            "status": self.status,
            "seed": self.config.seed,
            "config": to_tree(self.config),
            "arms": {name: {"final": arm.final, "epochs": list(arm.epochs)} for name, arm in self.arms.items()},
            "difference": self.differences.get(first, {}),
            "difference_95": self.margins.get(first, {}),
            "differences": self.differences,
            "differences_95": self.margins,
            "timing": _timing(self.timing, pairs),
            "data": _data(self.data),
            "model": _model(self.model),
            "learning_rate": self.learning_rate,
            "cam_share": self.cam_shares.get(first),
            **({"cam_shares": self.cam_shares} if several else {}),
            **({} if self.trained_seed is None else {"trained_seed": self.trained_seed}),
            **({} if self.reference_from is None else {"reference_from": self.reference_from}),
            "environment": self.environment,
        }
        for suffix, controls in (("", self.controls), ("_area", self.controls_area)):
            if first in controls:
                tree[f"control{suffix}"] = vars(controls[first])
            if several and controls:
                tree[f"controls{suffix}"] = {name: vars(control) for name, control in controls.items()}
        if self.by_size is not None:
            tree["by_size"] = [
                {"size": group.size, "pictures": group.images, "from": group.low, "to": group.high, **group.figures}
                for group in self.by_size
            ]
        if self.faithfulness_images is not None:
            tree["faithfulness_images"] = self.faithfulness_images
        if self.sanity is not None:
            tree["sanity"] = self.sanity
        if self.gallery is not None:
            tree |= {"wall": [_entry(entry) for entry in self.gallery], "wall_by": self.gallery_by}
        if self.networks:
            tree["networks"] = {name: {**vars(one), "model": _model(one.model)} for name, one in self.networks.items()}
        return tree

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> RunResult:
        """Read what :meth:`to_json` gives, or an earlier version gave for its two arms.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: it is something else.
        """
        names, config = list(tree["arms"]), from_tree(tree["config"])
        if names != [*config.arms]:
            raise ValueError("other arms than in its configuration")
        first, *_ = *names[1:], ""
        data, timing = dict(tree["data"]), tree["timing"]
        data["intensity_range"] = _span(data.get("intensity_range", ALL_16_BITS))
        data["skipped"] = {name: [Skipped(**entry) for entry in some] for name, some in data["skipped"].items()}
        return cls(
            status=tree["status"],
            config=config,
            arms={name: ArmResult([_figures(row) for row in part["epochs"]]) for name, part in tree["arms"].items()},
            data=DataFacts(**data),
            model=_read_model(tree["model"]),
            learning_rate=float(tree["learning_rate"]),
            cam_shares=dict(tree.get("cam_shares") or {first: tree["cam_share"]}),
            environment=dict(tree["environment"]),
            timing=Timing(float(timing["seconds"]), dict(timing["step"]) if "step" in timing else None),
            trained_seed=tree.get("trained_seed"),
            reference_from=tree.get("reference_from"),
            differences=_by_name(tree.get("differences") or {first: tree["difference"]}),
            margins=_by_name(tree.get("differences_95") or {first: tree["difference_95"]}),
            controls=_controls(tree, first),
            controls_area=_controls(tree, first, "_area"),
            by_size=[_size_group(line) for line in tree["by_size"]] if tree.get("by_size") is not None else None,
            faithfulness_images=tree.get("faithfulness_images"),
            sanity=(
                {name: [_number(value) for value in curve] for name, curve in tree["sanity"].items()}
                if "sanity" in tree
                else None
            ),
            gallery=[_read_entry(entry, names) for entry in tree["wall"]] if "wall" in tree else None,
            gallery_by=tree.get("wall_by"),
            networks={
                name: NetworkFacts(**{**one, "model": _read_model(one["model"])})
                for name, one in tree.get("networks", {}).items()
            },
        )


def _model(model: ModelFacts) -> dict[str, Any]:
    return {
        **vars(model),
        "grid": list(model.grid),
        "gradient_path": {mode: route.value for mode, route in model.gradient_path._asdict().items()},
        "cells": model.cells and {name: axis._asdict() for name, axis in model.cells._asdict().items()},
    }


def _read_model(tree: Mapping[str, Any]) -> ModelFacts:
    route = tree["gradient_path"]
    routes = Routes(GradientRoute(route["training"]), GradientRoute(route["evaluation"]))
    read = {"grid": tuple(tree["grid"]), "cells": _placement(tree.get("cells")), "gradient_path": routes}
    return ModelFacts(**{**tree, **read})


def _placement(tree: Mapping[str, Any] | None) -> Placement | None:
    """JSON has no infinite field either."""
    if tree is None:
        return None
    axes = {name: Axis(**{**axis, "field": axis["field"] or math.inf}) for name, axis in tree.items()}
    return Placement(**axes)


def _data(data: DataFacts) -> dict[str, Any]:
    """Runs of a former version, which took all of 16 bits, have no range."""
    tree = {
        **vars(data),
        "skipped": {split: [entry._asdict() for entry in some] for split, some in data.skipped.items()},
    }
    if not any(data.notes.values()):
        del tree["notes"]
    if data.intensity_range == ALL_16_BITS:
        del tree["intensity_range"]
    return tree


def _span(given: Sequence[float] | None) -> Span | None:
    return None if given is None else (float(given[0]), float(given[1]))


def _timing(timing: Timing, pairs: Sequence[Contrast]) -> dict[str, Any]:
    if timing.step is None:
        return {"seconds": timing.seconds}
    several = {"step_ratios": {pair.treatment: timing.ratio(pair) for pair in pairs}} if len(pairs) > 1 else {}
    return {"seconds": timing.seconds, "step": timing.step, "step_ratio": timing.ratio(pairs[0]), **several}


SHARE = "object-share"
"""Beside the arms' names in an entry of the gallery; with a hyphen, which no arm has: one may be called `share`."""


def _entry(entry: GalleryEntry) -> dict[str, Any]:
    captions = {
        name: {"predicted": part.predicted, "probability": part.probability, "peak": part.peak, **part.figures}
        for name, part in entry.arms.items()
    }
    share = {SHARE: entry.share} if math.isfinite(entry.share) else {}
    return {"file": entry.file, "why": entry.why, "picture": entry.image, "truth": entry.truth, **share, **captions}


def _read_entry(tree: Mapping[str, Any], names: Sequence[str]) -> GalleryEntry:
    captions = {}
    for name in names:
        figures = dict(tree[name])
        predicted, probability, peak = (figures.pop(key) for key in ("predicted", "probability", "peak"))
        captions[name] = MapCaption(predicted, _number(probability), _number(peak), _figures(figures))
    share = _number(tree.get(SHARE))
    return GalleryEntry(tree["file"], tree["why"], tree["picture"], tree["truth"], captions, share)


def _size_group(tree: Mapping[str, Any]) -> SizeGroup:
    line = dict(tree)
    size, images, low, high = (line.pop(key) for key in ("size", "pictures", "from", "to"))
    return SizeGroup(size, images, _number(low), _number(high), _by_name(line))


def _controls(tree: Mapping[str, Any], first: str, suffix: str = "") -> dict[str, Control]:
    """Sharpened baselines by treatment; with one treatment there is one key, with several another."""
    one = {first: tree[f"control{suffix}"]} if f"control{suffix}" in tree else {}
    found = tree.get(f"controls{suffix}") or one
    return {name: Control(_number(part["power"]), _figures(part["final"])) for name, part in found.items()}


def _by_name(tree: Mapping[str, Any]) -> dict[str, Figures]:
    return {name: _figures(figures) for name, figures in tree.items()}


def _figures(tree: Mapping[str, Any]) -> dict[str, float]:
    return {tag: _number(value) for tag, value in tree.items()}


def _number(value: Any) -> float:
    """A figure; what JSON could not hold is not defined."""
    return math.nan if value is None else float(value)


def check_unused(folder: Path) -> None:
    """Raise :class:`UserError` if the folder holds a run."""
    if (folder / NAME).exists():
        raise UserError(f"{folder} already holds a run: choose another hydra.run.dir=FOLDER")


def mark(folder: Path, status: str) -> None:
    """Set the status in the `result.json` that is there, in its own place: on a full disk it must not grow."""
    with contextlib.suppress(OSError, ValueError), (folder / NAME).open("r+b", buffering=0) as opened:
        whole = opened.read()
        shorter = json.dumps(json.loads(whole) | {"status": status}, ensure_ascii=False)  # without what indents lines
        opened.seek(0)
        # As long as before, in one go: what ends the program meanwhile leaves the one or the other.
        opened.write(shorter.encode(errors="backslashreplace").ljust(len(whole)))


def write(folder: Path, result: RunResult) -> dict[str, Any]:
    """Write `result.json`, whole or not at all, and return its content."""
    tree = result.to_json()
    write_text(folder / NAME, json.dumps(finite(tree), indent=1, ensure_ascii=False) + "\n")
    return tree


def finite(value: Any) -> Any:
    """JSON has no nan: a figure that is not defined becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value
