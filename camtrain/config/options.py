"""The choices that settings offer, by name. Nothing but enumerations: every package may import this one."""

from __future__ import annotations

import enum


class DatasetName(enum.Enum):
    shapes = "shapes"
    folder = "folder"
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
    explain = "explain"
    report = "report"


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


class GradientPath(enum.Enum):
    auto = "auto"
    closed = "closed"
    autograd = "autograd"


class Stem(enum.Enum):
    auto = "auto"
    keep = "keep"


class BatchNorm(enum.Enum):
    batch = "batch"
    frozen = "frozen"


class Precision(enum.Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Optimiser(enum.Enum):
    adamw = "adamw"
    adam = "adam"
    sgd = "sgd"


class LrSchedule(enum.Enum):
    constant = "constant"
    cosine = "cosine"


class OnError(enum.Enum):
    fail = "fail"
    skip = "skip"


class Device(enum.Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


AUTO = "auto"
