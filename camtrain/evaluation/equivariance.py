"""How stable the maps of trained networks are when images are mirrored or moved."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import Tensor

from camtrain.config.options import CamVariant
from camtrain.data.batches import Batch
from camtrain.evaluation.accumulate import Measured, Values, tagged
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated, image_of_each_map
from camtrain.evaluation.forward import forward_maps
from camtrain.metrics.equivariance import stability
from camtrain.networks.capture import Captured


def measure_equivariance(context: EvaluationContext, evaluated: Evaluated, batches: Iterable[Batch]) -> Measured:
    """The tags of :class:`camtrain.metrics.equivariance.Stability`, of every arm.

    Args:
        context: the networks.
        evaluated: of these images.
        batches: the measured images.
    """
    values = Values(context.networks, context.count)
    for batch in batches:
        for name, network in context.networks.items():
            maps_of = partial(_maps, network, batch.targets, context.method)
            figures = stability(batch.images, evaluated.maps_of(name, batch), maps_of, network.placement(batch.images))
            values.add(name, image_of_each_map(batch), tagged("stability", figures._asdict()))
    return values.measured()


def _maps(network: Captured, target: Tensor, method: CamVariant, images: Tensor) -> Tensor:
    return forward_maps(network, images, target, method).maps
