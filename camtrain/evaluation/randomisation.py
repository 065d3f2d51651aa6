"""Whether the maps of trained networks depend on what was learnt."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.distribution import likeness
from camtrain.data.batches import Batch
from camtrain.evaluation.accumulate import Measured, Values
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import Evaluated, image_of_each_map
from camtrain.evaluation.forward import forward_maps
from camtrain.metrics.randomisation import cascade
from camtrain.networks.capture import Captured


class Randomisation(NamedTuple):
    measured: Measured
    curves: dict[str, list[float]]  # by arm: mean similarity after each stage of the cascade, 1 before it


def randomisation_test(context: EvaluationContext, evaluated: Evaluated, batches: Sequence[Batch]) -> Randomisation:
    """Likeness of each map to that of the network after its weights were replaced, from the last layer to the first.

    `sanity/head` after the last layer alone, `sanity/all` after every layer.

    Args:
        context: the networks, their untrained weights, and which map.
        evaluated: of these images, among others.
        batches: the images.
    """
    values = Values(context.networks, context.count)
    curves: dict[str, list[float]] = {}
    numbers = torch.cat([image_of_each_map(batch) for batch in batches])
    for name, network in context.networks.items():
        trained = [evaluated.maps_of(name, batch) for batch in batches]
        other = _with_weights(network, context.untrained(name))
        stages = []
        for replaced in cascade(other.backbone, network.backbone.state_dict()):
            maps = [
                forward_maps(other, batch.images, batch.targets, context.method).maps if replaced else before
                for batch, before in zip(batches, trained, strict=True)
            ]
            stages.append(likeness(torch.cat(trained), torch.cat(maps)))
        curves[name] = [float(alike.double().nanmean()) for alike in stages]
        values.add(name, numbers, {"sanity/head": stages[1], "sanity/all": stages[-1]})
    return Randomisation(values.measured(), curves)


def _with_weights(network: Captured, weights: Mapping[str, Tensor]) -> Captured:
    """A copy of a network with other weights."""
    other = copy.deepcopy(network)
    other.backbone.load_state_dict(weights)
    return other
