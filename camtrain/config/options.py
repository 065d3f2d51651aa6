"""Plain options: the choices that settings offer, how a setting is declared, and the settings of the CAM term.

Nothing but enumerations and dataclasses of the standard library: every package may import this module, the mathematics
included.
"""

from __future__ import annotations

import copy
import enum
import math
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, get_type_hints

from camtrain.errors import UserError

AUTO = "auto"
"""For settings that are chosen to suit the others."""


class DatasetName(enum.Enum):
    shapes = "shapes"
    folder = "folder"
    python = "python"
    fake = "fake"
    voc2007 = "voc2007"
    voc2012 = "voc2012"
    oxford_pet = "oxford_pet"
    cub200 = "cub200"
    cifar10 = "cifar10"
    cifar100 = "cifar100"
    fashion_mnist = "fashion_mnist"
    imagenette = "imagenette"
    imagenet = "imagenet"
    eurosat = "eurosat"


class Task(enum.Enum):
    train = "train"
    layers = "layers"
    data = "data"
    evaluate = "evaluate"
    compare = "compare"
    explain = "explain"
    report = "report"
    resume = "resume"
    baselines = "baselines"
    plan = "plan"
    export = "export"


class CamVariant(enum.Enum):
    """Maps that can be measured; all but :data:`EVALUATION_ONLY` can also be trained through."""

    cam = "cam"
    gradcam = "gradcam"
    gradcampp = "gradcampp"
    hirescam = "hirescam"
    xgradcam = "xgradcam"
    layercam = "layercam"
    eigencam = "eigencam"
    scorecam = "scorecam"


EVALUATION_ONLY = (CamVariant.eigencam, CamVariant.scorecam)
TRAINABLE = tuple(variant for variant in CamVariant if variant not in EVALUATION_ONLY)


class Term(enum.Enum):
    entropy = "entropy"
    area = "area"
    dispersion = "dispersion"
    total_variation = "total_variation"
    energy_outside = "energy_outside"
    none = "none"


class ViewKind(enum.Enum):
    """Transformations of which further views of images are made."""

    auto = "auto"
    none = "none"
    mirror = "mirror"
    symmetries = "symmetries"
    paste = "paste"


class Score(enum.Enum):
    logit = "logit"
    centred = "centred"
    log_prob = "log_prob"


class EntropyUnit(enum.Enum):
    normalised = "normalised"
    nats = "nats"


class Conflict(enum.Enum):
    keep = "keep"
    project = "project"


class BalanceOver(enum.Enum):
    """What the term's share of the gradient is held for."""

    batch = "batch"
    image = "image"


class GradientPath(enum.Enum):
    auto = "auto"
    closed = "closed"
    autograd = "autograd"


class Stem(enum.Enum):
    auto = "auto"
    keep = "keep"


class BatchNorm(enum.Enum):
    auto = "auto"
    batch = "batch"
    frozen = "frozen"


class Precision(enum.Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float64 = "float64"


class Optimiser(enum.Enum):
    adamw = "adamw"
    adam = "adam"
    sgd = "sgd"


class LrSchedule(enum.Enum):
    constant = "constant"
    cosine = "cosine"


class Fit(enum.Enum):
    crop = "crop"
    pad = "pad"
    stretch = "stretch"


class OnError(enum.Enum):
    fail = "fail"
    skip = "skip"


class Resume(enum.Enum):
    auto = "auto"


class Objective(enum.Enum):
    """What a sweeper that optimises goes by; higher is better."""

    accuracy = "accuracy"
    gain = "gain"


class Device(enum.Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class ExportFormat(enum.Enum):
    """Files of exported networks."""

    onnx = "onnx"
    executorch = "executorch"
    torch = "torch"
    web = "web"


class Range(NamedTuple):
    """Values from `low` to `high`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # `low` itself is excluded

    def holds(self, value: float) -> bool:
        """Whether the value is finite and within the range."""
        lower = value > self.low if self.above else value >= self.low
        return math.isfinite(value) and lower and value <= self.high

    def __str__(self) -> str:
        lower = f"above {self.low}" if self.above else f"at least {self.low}"
        return f"{lower} and at most {self.high}" if self.high < math.inf else lower


def check_range(key: str, value: float | str, bounds: Range) -> None:
    """Raise :class:`UserError` for a value that is neither within the range nor `auto`."""
    if isinstance(value, str):
        if value != AUTO:
            raise UserError(f"{key}: {value} does not fit; it must be a number or {AUTO}")
    elif not bounds.holds(value):
        finite = " and finite" if math.isinf(value) and math.isinf(bounds.high) else ""
        shown = value if isinstance(value, int) else f"{value:g}"
        raise UserError(f"{key}={shown} is out of range: it must be {bounds}{finite}")


def setting(
    default: Any,
    doc: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    choices: tuple[enum.Enum, ...] | None = None,
    accepts: str | None = None,
) -> Any:
    """A dataclass field that carries its documentation and its range.

    Args:
        default: its value; a list or mapping is copied for every configuration.
        doc: its meaning in a line, for the reference of all settings.
        low: smallest value, of each item if it is a list.
        high: largest value.
        above: whether `low` itself is excluded.
        choices: members of its enumeration that it accepts; all if not given.
        accepts: what it may hold in words, where its type does not say so.
    """
    bounds = Range(low, high, above)
    metadata = {"doc": doc, "range": bounds if bounds != Range() else None, "choices": choices, "accepts": accepts}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class CamConfig:
    """The map that is trained through, and the term that the loss adds for it."""

    variant: CamVariant = setting(CamVariant.gradcam, "the class activation map; `cam=NAME` sets it", choices=TRAINABLE)
    score: Score = setting(
        Score.centred,
        "what the map explains: the class's logit, the logit less the mean of all, or the log-probability",
    )
    term: Term = setting(
        Term.entropy, "what is minimised of the map; `energy_outside` needs masks or boxes; none: the other terms alone"
    )
    weight: int | float | str = setting(
        AUTO, "weight of the term in the loss; auto: keeps the term's gradient at `cam.share`", low=0
    )
    share: float | None = setting(
        None,
        "the term's share of the gradient at the target layer, multiplied by the mean confidence, for"
        " `cam.weight=auto` and, image by image, for `cam.balance=image`; null: 1/2 from scratch, 1/3 with pretrained"
        " weights",
        low=0,
        high=0.99,
        above=True,
    )
    balance: BalanceOver = setting(
        BalanceOver.batch,
        "image: no image's share of the gradient at the target layer may exceed `cam.share` times its confidence, so"
        " that the term fades in images that are learnt; batch: only the batch's share is looked at",
    )
    anchor: float = setting(
        0.0,
        "weight of the divergence of an arm's predictions from those of the network as it was at `trainer.fork`; 0:"
        " none, and in arms without a term",
        low=0,
    )
    consistency: float = setting(
        1.0,
        "weight, within the term, of the distance between the moved map of an image and the map of the moved image,"
        " where there are `cam.views`",
        low=0,
    )
    views: ViewKind = setting(
        ViewKind.auto,
        "further views of some images of each batch, which every arm learns from; mirror: left and right exchanged;"
        " symmetries: turned and mirrored, for square images that have no up; paste: at another size and place before"
        " another image; none; auto: symmetries for square images of `shapes` and `eurosat`, if `dataset.flip`, else"
        " none",
    )
    views_share: float = setting(1 / 8, "share of each batch of which there are views", low=0, high=1, above=True)
    contrastive: float = setting(
        0.0,
        "weight, within the term, of the contrastive loss of maps (CGC): the map of the moved image should be more like"
        " the moved map of the image than like maps of others; needs `cam.views`; 0: none",
        low=0,
    )
    keep: float = setting(
        0.0,
        "weight of the cross-entropy of the image of which only what the map shows is sharp; takes a further pass;"
        " 0: none",
        low=0,
    )
    masked_kl: float = setting(
        0.0,
        "weight of the divergence of what the network says of the map's best quarter of the image from what it says of"
        " the image; takes a further pass; 0: none",
        low=0,
    )
    saliency_guided: float = setting(
        0.0,
        "weight of the divergence of what the network says of the image with noise in the half of its pixels that have"
        " the smallest input gradient from what it says of the image (SGT); takes two further passes; 0: none",
        low=0,
    )
    confidence_exponent: float = setting(
        2.0,
        "the term of a map counts by p to this power, p being the probability of its class; 0: all count fully",
        low=0,
    )
    conflict: Conflict = setting(
        Conflict.project,
        "project: remove the component of the term's gradient that opposes classification; keep: keep it",
    )
    unit: EntropyUnit = setting(EntropyUnit.normalised, "entropy divided by ln(number of cells), or in nats")
    enough: float | None = setting(
        None,
        "cells that a map may cover: the entropy counts by what it is above that of a map evenly spread over so many;"
        " null: every map is to be concentrated further",
        low=1,
    )
    start: float = setting(0.0, "epochs before the term is added", low=0)
    ramp: float = setting(0.0, "epochs over which the term's weight rises linearly to its full value", low=0)
    path: GradientPath = setting(
        GradientPath.auto, "how gradients of the map are obtained; auto: in closed form where a probe finds it exact"
    )


SECOND_PASS = ("keep", "masked_kl", "saliency_guided")
"""Weights of the terms that look at what the network makes of the image with parts of it hidden."""


def trains_maps(cam: CamConfig, views: bool) -> bool:
    """Whether anything is asked of the maps themselves, with or without views, for the weight to multiply."""
    return cam.term is not Term.none or (views and (cam.consistency != 0 or cam.contrastive != 0))


def second_pass_terms(cam: CamConfig) -> list[str]:
    """Which of :data:`SECOND_PASS` are on."""
    return [name for name in SECOND_PASS if getattr(cam, name)]


def check_enough(cam: CamConfig, prefix: str = "") -> None:
    """Raise :class:`UserError` for `enough` with a term that is not counted in cells."""
    if cam.enough is not None and cam.weight != 0 and cam.term is not Term.entropy:
        raise UserError(
            f"{prefix}enough={cam.enough:g} belongs to the entropy, not to {prefix}term={cam.term.value}: leave it out,"
            f" or set {prefix}enough=null"
        )


def cam_config(**settings: Any) -> CamConfig:
    """The settings of a CAM term by name, choices as words or as members of their enumeration.

    Raises:
        UserError: there is no such setting, or a value does not fit.
    """
    kinds, entries = get_type_hints(CamConfig), {entry.name: entry for entry in fields(CamConfig)}
    chosen = {}
    for name, value in settings.items():
        if name not in entries:
            raise UserError(f"{name}: the CAM term has no such setting; it has {', '.join(entries)}")
        kind, bounds = kinds[name], entries[name].metadata["range"]
        if isinstance(kind, enum.EnumMeta):
            choices: dict[Any, enum.Enum] = {
                choice.name: choice for choice in entries[name].metadata["choices"] or kind
            }
            value = choices.get(getattr(value, "name", value))
            if value is None:
                raise UserError(f"{name}={settings[name]} does not fit; it must be one of {', '.join(choices)}")
        elif bounds is not None and value is not None:
            check_range(name, value, bounds)
        chosen[name] = value
    cam = CamConfig(**chosen)
    check_enough(cam)
    return cam
