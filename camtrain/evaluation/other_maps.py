"""Maps by other methods than the measured one, of trained networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from camtrain.cam.distribution import correlation
from camtrain.config.options import CamVariant
from camtrain.data.batches import Batch
from camtrain.evaluation.accumulate import Measured, Values, tagged
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.every_epoch import map_metrics
from camtrain.evaluation.faithfulness import class_probability, curve_areas
from camtrain.evaluation.forward import forward_several
from camtrain.metrics import faithfulness


def measure_other_maps(
    context: EvaluationContext, batches: Iterable[Batch], methods: Sequence[CamVariant], faithfully: Tensor
) -> Measured:
    """Indicators of other maps than the trained one: `other_maps/<map>/entropy`, `.../deletion` and so on.

    `.../with_trained` is its correlation with the trained map, `.../like_<map>` that with another one: near 1 it is the
    same map under another name, and no evidence of its own. Behind global average pooling and one linear layer HiResCAM
    is Grad-CAM, and Grad-CAM++ hardly differs from LayerCAM.

    Args:
        context: the networks, and the method of the trained map.
        batches: the measured images.
        methods: which maps.
        faithfully: (images,) bool, for which of them deletion and insertion are measured.
    """
    values = Values(context.networks, context.count)
    for images, target, regions, numbers in batches:
        chosen = faithfully[numbers].to(images.device)
        for name, network in context.networks.items():
            _, targets, maps = forward_several(network, images, target, [context.method, *methods])
            of_map, rows = targets.expand(numbers.to(images.device)), targets.expand(chosen)
            own, placement = targets.regions(regions), network.placement(images)
            normalised, of_class = class_probability(network, images, targets.select(rows))
            known = faithfulness.ends(normalised, of_class) if len(normalised) else None
            for at, method in enumerate(methods):
                group = f"other_maps/{method.value}"
                figures = map_metrics(maps[method], own, placement)
                figures["with_trained"] = correlation(maps[method], maps[context.method])
                for other in methods[:at]:
                    figures[f"like_{other.value}"] = correlation(maps[method], maps[other])
                values.add(name, of_map, tagged(group, figures))
                if known is not None:
                    found = curve_areas(normalised, maps[method][rows], of_class, known, placement)
                    values.add(name, of_map[rows], tagged(group, found))
    return values.measured()
