"""Whether trained networks use what their maps show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from camtrain.cam.scores import probability
from camtrain.cam.stretch import Placement
from camtrain.cam.targets import MapTargets
from camtrain.data.batches import Batch
from camtrain.evaluation.accumulate import Measured, Values, tagged
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated
from camtrain.evaluation.sharpened import sharpened
from camtrain.metrics import faithfulness
from camtrain.metrics.road import road
from camtrain.networks.capture import Captured
from camtrain.streams import Stream, stream


def measure_faithfulness(
    context: EvaluationContext,
    evaluated: Evaluated,
    batches: Iterable[Batch],
    powers: Mapping[str, Tensor],
    imputed: Tensor,
) -> Measured:
    """`faithfulness/drop` and so on: of each network's own maps, and of the sharpened maps of the reference's network.

    Three forward passes of each network, some 30 for each map, and 8 more for :func:`camtrain.metrics.road.road`.

    Args:
        context: the networks, and which are compared.
        evaluated: of these images, among others.
        batches: the images.
        powers: by sharpened baseline, of the images of either fold, (2,).
        imputed: (images,) bool, for which of them ROAD is measured.
    """
    values = Values([*context.networks, *(contrast.control for contrast in context.contrasts)], context.count)
    for batch in batches:
        device = batch.images.device
        with_road = imputed[batch.indices].to(device)
        noise = _noise(batch, with_road, context.seed)
        targets = MapTargets.of(batch.targets)
        of_map, rows = targets.expand(batch.indices.to(device)), targets.expand(with_road)
        some = targets.select(rows)
        for name, network in context.networks.items():
            seen = {name: evaluated.maps_of(name, batch)}
            for contrast in context.contrasts:
                if contrast.reference == name:
                    power = powers[contrast.control][context.fold[of_map.cpu()]]
                    seen[contrast.control] = sharpened(seen[name], power)
            figures = confidence_metrics(network, batch.images, targets, [*seen.values()])
            for shown, of_kind in zip(seen, figures, strict=True):
                values.add(shown, of_map, tagged("faithfulness", of_kind))
            if len(some.rows):
                normalised, of_class = class_probability(network, batch.images, some)
                for shown, maps in seen.items():
                    found = road(normalised, maps[rows], of_class, noise[some.rows], network.placement(batch.images))
                    values.add(shown, of_map[rows], {"faithfulness/road": found})
    return values.measured()


def _noise(batch: Batch, with_road: Tensor, seed: int) -> Tensor:
    """Standard normal draws in the images' shape, an image's the same for all maps; nothing if no image needs any."""
    noise = np.zeros(batch.images.shape if bool(with_road.any()) else (0,), np.float32)
    for row in with_road.nonzero().flatten().tolist():
        drawn = stream(seed, Stream.road, step=int(batch.indices[row]))
        noise[row] = drawn.standard_normal(batch.images.shape[1:], np.float32)
    return torch.from_numpy(noise).to(batch.images.device)


def confidence_metrics(
    network: Captured, images: Tensor, targets: MapTargets, several: Sequence[Tensor]
) -> list[dict[str, Tensor]]:
    """Every figure of :mod:`camtrain.metrics.faithfulness` by name, (maps,) each; for each of several kinds of maps."""
    normalised, of_class = class_probability(network, images, targets)
    known, placement = faithfulness.ends(normalised, of_class), network.placement(images)
    return [
        {
            **faithfulness.confidence(normalised, maps, of_class, known.whole, placement)._asdict(),
            **curve_areas(normalised, maps, of_class, known, placement),
        }
        for maps in several
    ]


def curve_areas(
    normalised: Tensor,
    maps: Tensor,
    of_class: Callable[[Tensor], Tensor],
    known: faithfulness.Ends,
    placement: Placement | None,
) -> dict[str, Tensor]:
    """The areas under the deletion and the insertion curve, by name, (maps,) each."""
    found = faithfulness.curves(normalised, maps, of_class, known, placement)
    return {name: faithfulness.area_under(curve) for name, curve in found._asdict().items()}


def class_probability(
    network: Captured, images: Tensor, targets: MapTargets
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A normalised image for each map, and from such images, changed, to the probability of each map's class."""
    network.eval()
    own = targets.apart()

    def of_class(changed: Tensor) -> Tensor:
        with torch.no_grad():
            return probability(network.forward_normalised(changed).logits, own)

    return network.normalised(images)[targets.rows], of_class
