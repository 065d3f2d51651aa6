"""For loops of one's own: maps of images, and what the command measures, of any captured network.

Networks are those of :func:`camtrain.networks.capture.capture` or of :func:`load_run`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from camtrain.analysis.comparison import rows
from camtrain.analysis.intervals import Interval
from camtrain.analysis.over_seeds import differences
from camtrain.arms import contrasts, is_control
from camtrain.cam.stretch import upsample
from camtrain.cam.targets import is_multilabel
from camtrain.config.options import CamVariant, cam_config, check_range
from camtrain.config.schema import EvaluateConfig
from camtrain.data.batches import Batch
from camtrain.data.views import Views, check_view_kind, draw_views, with_views
from camtrain.errors import Diverged, UserError
from camtrain.evaluation.accumulate import joined
from camtrain.evaluation.after_training import measure_after_training
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import evaluate
from camtrain.evaluation.forward import forward_maps
from camtrain.networks.capture import Captured
from camtrain.networks.classifier import Classifier
from camtrain.networks.layers import evaluating
from camtrain.report.tables import comparison_text
from camtrain.runs import load
from camtrain.runs.result import RunResult

Given = Iterable[Sequence[Tensor]]
"""Batches as a data loader gives them: (images, targets) or (images, targets, regions)."""


def maps(
    net: Captured,
    images: Tensor,
    target: Tensor | int | None = None,
    method: str = "gradcam",
    stretched: bool = False,
) -> Tensor:
    r"""Class activation maps :math:`L` before ReLU, in evaluation mode and detached.

    Args:
        net: a captured network.
        images: (batch, channels, height, width), as the network takes them.
        target: (batch,) int64 class numbers, (batch, classes) of 0 and 1, or one class number for all; None: the class
            that the network predicts.
        method: cam, gradcam, gradcampp, hirescam, xgradcam, layercam, eigencam or scorecam; formulas and sources are
            in :mod:`camtrain.cam.methods`.
        stretched: :math:`L^+` at the size of the images, from where the cells lie in them
            (:mod:`camtrain.networks.geometry`; as other tools do where `net.registered` is false).

    Returns:
        (maps, cells in height, cells in width), float32 or wider: a map for each image, or, of several classes per
        image, for each positive class. What speaks for the class is :math:`L^+ = \max(L, 0)`. If `stretched`,
        (maps, height, width).

    Raises:
        UserError: there is no such method, or it is not defined for this network.

    Example:
        >>> import torch, camtrain
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        ...     torch.nn.Linear(8, 5),
        ... )
        >>> camtrain.maps(camtrain.capture(model, layer="0"), torch.rand(2, 3, 16, 16), target=4).shape
        torch.Size([2, 16, 16])
    """
    chosen = _method(method)
    if images.dim() != 4:
        raise UserError(f"images: {' x '.join(map(str, images.shape))}; give a batch (batch, channels, height, width)")
    with _evaluating(net):
        images = images.clone() if images.is_inference() else images
        if isinstance(target, Tensor):
            classes = target.clone() if target.is_inference() else target
        elif target is not None:
            classes = torch.full((len(images),), target, device=images.device)
        else:
            with torch.no_grad():
                classes = net(images).logits.argmax(1)
        made = forward_maps(net, images, classes, chosen).maps
        if not stretched:
            return made
        return upsample(made, (images.shape[2], images.shape[3]), net.placement(images))


class Seen(NamedTuple):
    """A batch with views of some of its images behind them."""

    images: Tensor  # (batch + views, channels, height, width)
    target: Tensor  # (batch + views,) or (batch + views, classes)
    views: Views


def views(images: Tensor, target: Tensor, kind: str = "mirror", share: float = 1 / 8) -> Seen:
    """A batch with further views of its first images, for `CamLoss(consistency=...)`.

    Pass on all three: `criterion(*net(seen.images), seen.target, views=seen.views)`. The batch should be in random
    order. What is drawn is drawn by torch's global generator.

    Args:
        images: (batch, channels, height, width), normalised or not.
        target: (batch,) int64 class numbers, or (batch, classes) of 0 and 1.
        kind: mirror, symmetries or paste; see :func:`camtrain.data.views.draw_views`.
        share: of the images of which there are views, above 0 and at most 1.

    Raises:
        UserError: there are no such views, or not of these images.

    Example:
        >>> import torch, camtrain
        >>> seen = camtrain.views(torch.rand(8, 3, 16, 16), torch.arange(8), kind="symmetries", share=0.25)
        >>> seen.images.shape, seen.target.tolist()
        (torch.Size([10, 3, 16, 16]), [0, 1, 2, 3, 4, 5, 6, 7, 0, 1])
    """
    settings = cam_config(views=kind, views_share=share)
    size = (images.shape[2], images.shape[3])
    check_view_kind(settings.views, size, is_multilabel(target), "kind")
    generator = np.random.default_rng(int(torch.randint(2**62, ())))
    drawn = draw_views(settings.views, share, target.cpu(), size, generator)
    nothing = torch.zeros((), dtype=torch.uint8, device=images.device).expand(len(images), *size)
    together, _ = with_views(images, nothing, drawn)
    return Seen(together, torch.cat([target, target[drawn.rows.to(target.device)]]), drawn)


@dataclass(frozen=True)
class Compared:
    """What :func:`compare` found; printed, it is the table that the command prints."""

    figures: dict[str, dict[str, float]]
    """By network and tag, the mean; likewise of the first one's maps, sharpened to the mean entropy of another's (under
    `control`) and to their mean elliptical area (`control_area`)."""

    each: dict[str, dict[str, Tensor]]
    """Likewise of every image, (images,), nan where it is not defined."""

    intervals: dict[str, dict[str, Interval]]
    """By network but the first, and tag: the difference to the first one over images, with its 95 % interval."""

    def __str__(self) -> str:
        names = [name for name in self.figures if not is_control(name)]
        return "\n\n".join(
            comparison_text(
                contrast,
                rows(
                    self.figures[contrast.reference],
                    self.figures[contrast.treatment],
                    self.intervals[contrast.treatment],
                    self.figures.get(contrast.control),
                    control_area=self.figures.get(contrast.control_area),
                ),
            )
            for contrast in contrasts(names)
        )


def measure(net: Captured, batches: Given, method: str = "gradcam", **settings: Any) -> dict[str, float]:
    """Accuracy, confidence and every indicator of the maps, by the command's tags; docs/indicators.md explains them.

    Args:
        net: a captured network.
        batches: as for :func:`compare`.
        method: of the maps that are measured.
        settings: as for :func:`compare`.

    Returns:
        The mean of each tag, over images or over maps.

    Raises:
        UserError, Diverged: as for :func:`compare`.

    Example:
        >>> import torch, camtrain
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        ...     torch.nn.Linear(8, 5),
        ... )
        >>> batches = [(torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]))]
        >>> found = camtrain.measure(camtrain.capture(model, layer="0"), batches, faithfulness_images=0)
        >>> 0 <= found["accuracy/val"] <= 1, found["cam/entropy"] > 0
        (True, True)
    """
    return _measured({"network": net}, batches, method, settings).figures["network"]


def compare(networks: Mapping[str, Captured], batches: Given, method: str = "gradcam", **settings: Any) -> Compared:
    """Networks on the same images: the command's figures of each, and their differences with intervals over images.

    Args:
        networks: by name, the reference first.
        batches: (images, targets) or (images, targets, regions); images as the networks take them, targets (batch,)
            int64 class numbers or (batch, classes) of 0 and 1, regions (batch, height, width) uint8: 0 background, 255
            void, other values the object, of several classes its class number plus 1. All are kept in memory.
        method: of the maps that are measured.
        settings: those of the configuration's section `evaluate`: `max_images`, `maps`, `faithfulness_images`,
            `road_images`, `scorecam_images`, `registered`. The randomisation test needs fresh networks and is left to
            the command.

    Raises:
        UserError: there is no such method or setting, or there are no images.
        Diverged: logits or maps are not finite.

    Example:
        >>> import torch, camtrain
        >>> def network():
        ...     return camtrain.capture(torch.nn.Sequential(
        ...         torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        ...         torch.nn.Linear(8, 5),
        ...     ), layer="0")
        >>> batches = [(torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]))]
        >>> found = camtrain.compare({"one": network(), "other": network()}, batches, faithfulness_images=0)
        >>> sorted(found.figures), "cam/entropy" in found.intervals["other"]
        (['control', 'control_area', 'one', 'other'], True)
    """
    if not isinstance(networks, Mapping) or len(networks) < 2:
        raise UserError("networks: two at least are compared, by name: {'one': net, 'other': net}")
    return _measured(networks, batches, method, settings)


def _measured(networks: Mapping[str, Captured], batches: Given, method: str, settings: Mapping[str, Any]) -> Compared:
    """Of one network or more."""
    odd = next(filter(is_control, networks), None)
    if odd is not None:
        raise UserError(f"{odd}: this name is taken, the first network's sharpened maps have it; choose another one")
    made = list(_numbered(batches))
    if not made:
        raise UserError("batches: there are none; an iterator may have been used up")
    targets = torch.cat([batch.targets.cpu() for batch in made])

    def chosen_batches(chosen: Tensor | None) -> Iterator[Batch]:
        for batch in made:
            rows = torch.ones(len(batch.indices), dtype=torch.bool) if chosen is None else chosen[batch.indices]
            if bool(rows.any()):
                yield batch.select(rows)

    context = EvaluationContext(
        networks, targets, chosen_batches, _method(method), _settings(settings), seed=0, untrained=lambda _: {}
    )
    with _evaluating(*networks.values(), registered=context.settings.registered):
        evaluated = evaluate(networks, chosen_batches(None), context.method, context.measured)
        if evaluated.not_finite:
            raise Diverged(", ".join(evaluated.not_finite.values()))
        found = joined([evaluated.measured, measure_after_training(context, evaluated).measured])
    intervals = {
        contrast.treatment: differences([found.each], contrast.reference, contrast.treatment, shared=True)
        for contrast in context.contrasts
    }
    return Compared(found.means, found.each, intervals)


@dataclass(frozen=True)
class LoadedRun:
    """A finished run of the command."""

    folder: Path
    result: RunResult  # what `result.json` holds
    networks: dict[str, Classifier]  # by arm, in evaluation mode; they take images of 0..1


def load_run(folder: str | Path, device: str | torch.device = "cpu", allow: Collection[str] = ()) -> LoadedRun:
    """The result and the trained networks of a finished run.

    Args:
        folder: of the run.
        device: where the networks are put.
        allow: `package.module:function` that may be called, where the run's network is made by it.

    Raises:
        UserError: no finished run is there, or its weights are missing or damaged.

    Example:
        >>> import camtrain
        >>> camtrain.load_run("nowhere")
        Traceback (most recent call last):
        ...
        camtrain.errors.UserError: nowhere: no finished run is here, there is no result.json; give a run's folder
    """
    finished = load.read(Path(folder))
    load.check_own_code(finished.config, allow, "model.name")
    return LoadedRun(finished.folder, finished.result, load.networks(finished, torch.device(device)))


@contextmanager
def _evaluating(*networks: Captured, registered: bool = True) -> Iterator[None]:
    """Evaluation mode in the networks' own precision for as long as it lasts; then all is as it was."""
    for network in networks:
        if not isinstance(network, Captured):
            raise UserError(f"{type(network).__name__}: the network is not captured; give camtrain.capture(model)")
    before = [network.registered for network in networks]
    for network in networks:
        network.registered &= registered
    full = torch.autocast(next(networks[0].parameters()).device.type, enabled=False)
    try:
        with evaluating(*networks), torch.inference_mode(False), full:
            yield
    finally:
        for network, own in zip(networks, before, strict=True):
            network.registered = own


def _numbered(batches: Given) -> Iterator[Batch]:
    """Batches whose images are numbered in their order."""
    first = 0
    for images, target, *others in batches:
        region = others[0] if others else images.new_zeros((len(images), *images.shape[2:]), dtype=torch.uint8)
        if region.shape != (len(images), *images.shape[2:]):
            sizes = (" x ".join(map(str, part.shape)) for part in (region, images))
            raise UserError("regions: {} do not fit images {}; give (batch, height, width)".format(*sizes))
        yield Batch(images, target, region.to(torch.uint8), torch.arange(first, first + len(images)))
        first += len(images)


OTHERS = ("images", "image_epochs", "sanity_images")
"""Settings of `evaluate` that have no meaning here."""


def _method(name: str | CamVariant, key: str = "method") -> CamVariant:
    known = {variant.name: variant for variant in CamVariant}
    found = known.get(name) if isinstance(name, str) else name
    if found is None:
        raise UserError(f"{key}={name}: no such map; choose one of {', '.join(known)}")
    return found


def _settings(settings: Mapping[str, Any]) -> EvaluateConfig:
    ours = EvaluateConfig(sanity_images=0, images=0, maps=[])
    known = {entry.name: entry for entry in dataclasses.fields(ours) if entry.name not in OTHERS}
    for name, value in settings.items():
        if name not in known:
            raise UserError(f"{name}: no such setting; there are {', '.join(known)}")
        allowed = known[name].metadata["range"]
        if name != "maps" and value is not None and allowed is not None:
            check_range(name, value, allowed)
    named = {"maps": [_method(each, "maps") for each in settings["maps"]]} if "maps" in settings else {}
    return dataclasses.replace(ours, **{**settings, **named})
