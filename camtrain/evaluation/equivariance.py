"""How stable the maps of trained networks, and sharpened maps, are when images are mirrored or moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from camtrain.data.batches import Batch
from camtrain.evaluation.accumulate import Measured, Values, tagged
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated, image_of_each_map
from camtrain.evaluation.forward import forward_maps
from camtrain.evaluation.sharpened import changes
from camtrain.metrics.equivariance import Changed, changed, stability


def measure_equivariance(
    context: EvaluationContext, evaluated: Evaluated, batches: Iterable[Batch], powers: Mapping[str, Tensor]
) -> Measured:
    """The tags of :class:`camtrain.metrics.equivariance.Stability`: of each network's own maps, and of the sharpened
    maps of the reference's network.

    Args:
        context: the networks, and which are compared.
        evaluated: of these images.
        batches: the measured images.
        powers: by sharpened baseline, of the images of either fold, (2,).
    """
    values = Values([*context.networks, *(contrast.control for contrast in context.contrasts)], context.count)
    for batch in batches:
        of_map = image_of_each_map(batch)
        size = (batch.images.shape[2], batch.images.shape[3])
        for name, network in context.networks.items():
            own, placement = evaluated.maps_of(name, batch), network.placement(batch.images)
            after = [
                forward_maps(network, images, batch.targets, context.method).maps
                for images in changed(batch.images, (own.shape[1], own.shape[2]), placement)
            ]
            for kind, change in changes(name, context.contrasts, powers, context.fold[of_map]).items():
                figures = stability(change(own), Changed(*map(change, after)), size, placement)
                values.add(kind, of_map, tagged("stability", figures._asdict()))
    return values.measured()
