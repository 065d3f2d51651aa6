"""Maps by other methods than the measured one, of trained networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camtrain.cam.distribution import correlation
from camtrain.config.options import CamVariant
from camtrain.data.batches import Batch
from camtrain.evaluation.accumulate import Measured, Values, tagged
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import image_of_each_map, map_metrics
from camtrain.evaluation.forward import forward_several
from camtrain.metrics.catalogue import OTHER_MAPS


class OtherMaps(NamedTuple):
    """Maps by other methods, and what was measured of them."""

    measured: Measured
    maps: dict[str, dict[CamVariant, Tensor]]  # by network: (maps, height, width), before ReLU
    image_of_map: Tensor  # (maps,) int64, on the CPU: number of the image of each map

    def of(self, name: str, batch: Batch) -> tuple[Tensor, dict[CamVariant, Tensor]]:
        """Which maps of a batch's images are there, bool, and these; in both, images come in the same order."""
        own = image_of_each_map(batch)
        chosen = torch.isin(self.image_of_map, own)
        device = batch.images.device
        maps = {method: maps[chosen.to(device)] for method, maps in self.maps[name].items()}
        return torch.isin(own, self.image_of_map).to(device), maps


def measure_other_maps(
    context: EvaluationContext, batches: Iterable[Batch], methods: Sequence[CamVariant]
) -> OtherMaps:
    """Indicators of other maps than the trained one: `other_maps/<map>/entropy` and so on, but for faithfulness.

    `.../with_trained` is its correlation with the trained map, `.../like_<map>` that with another one: near 1 it is the
    same map under another name, and no evidence of its own. Behind global average pooling and one linear layer HiResCAM
    is Grad-CAM, and Grad-CAM++ hardly differs from LayerCAM.

    Args:
        context: the networks, and the method of the trained map.
        batches: the measured images.
        methods: which maps.
    """
    values = Values(context.networks, context.count)
    kept: dict[str, dict[CamVariant, list[Tensor]]] = {
        name: {method: [] for method in methods} for name in context.networks
    }
    numbers = []
    for batch in batches:
        numbers.append(image_of_each_map(batch))
        of_map = numbers[-1].to(batch.images.device)
        for name, network in context.networks.items():
            trained = network.method or context.method
            several = list(dict.fromkeys([trained, *methods]))
            _, targets, maps = forward_several(network, batch.images, batch.targets, several)
            own, placement = targets.regions(batch.regions), network.placement(batch.images)
            for at, method in enumerate(methods):
                figures = map_metrics(maps[method], own, placement)
                figures["with_trained"] = correlation(maps[method], maps[trained])
                for other in methods[:at]:
                    figures[f"like_{other.value}"] = correlation(maps[method], maps[other])
                values.add(name, of_map, tagged(f"{OTHER_MAPS}/{method.value}", figures))
                kept[name][method].append(maps[method])
    made = {name: {method: torch.cat(maps) for method, maps in those.items()} for name, those in kept.items()}
    return OtherMaps(values.measured(), made, torch.cat(numbers))
