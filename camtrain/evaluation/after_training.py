"""Measure what takes longer, once, after training.

Tags are those of :mod:`camtrain.evaluation.every_epoch`, of every arm and, where it makes a difference, of the
sharpened baselines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from camtrain.config.options import CamVariant
from camtrain.evaluation.accumulate import Measured, joined
from camtrain.evaluation.context import EvaluationContext
from camtrain.evaluation.equivariance import measure_equivariance
from camtrain.evaluation.every_epoch import Evaluated
from camtrain.evaluation.faithfulness import measure_faithfulness
from camtrain.evaluation.kept import Keep, make_all
from camtrain.evaluation.localisation import SizeGroup, measure_localisation
from camtrain.evaluation.other_maps import measure_other_maps
from camtrain.evaluation.randomisation import randomisation_test


@dataclass
class AfterTraining:
    """What was measured once."""

    measured: Measured  # of every arm and sharpened baseline
    by_size: list[SizeGroup]
    powers: dict[str, Tensor]  # by sharpened baseline: of the images of either fold, (2,)
    randomisation: dict[str, list[float]] = field(default_factory=dict)  # by arm; empty where it was not measured


def measure_after_training(context: EvaluationContext, evaluated: Evaluated, keep: Keep = make_all) -> AfterTraining:
    """Localisation, equivariance, other maps, faithfulness and randomisation.

    Args:
        context: networks and images.
        evaluated: of the same images, by :func:`camtrain.evaluation.every_epoch.evaluate`.
        keep: keeps each part as soon as it is made.
    """
    measured, wanted, progress = context.measured, context.settings, context.progress
    progress("measuring localisation")
    lies = keep("localisation", lambda: measure_localisation(context, evaluated, context.batches(measured)))
    progress("measuring stability")
    stable = keep("stability", lambda: measure_equivariance(context, evaluated, context.batches(measured), lies.powers))
    parts = [lies.measured, stable]
    own = {network.method or context.method for network in context.networks.values()}
    methods = [method for method in dict.fromkeys(wanted.maps) if own != {method}]
    others = []
    quick = [method for method in methods if method is not CamVariant.scorecam]
    if quick:
        progress("measuring other maps")
        others.append(keep("other_maps", lambda: measure_other_maps(context, context.batches(measured), quick)))
    if CamVariant.scorecam in methods:
        progress("measuring scorecam")
        some = context.some(measured, wanted.scorecam_images)
        others.append(
            keep("scorecam", lambda: measure_other_maps(context, context.batches(some), [CamVariant.scorecam]))
        )
    parts += [other.measured for other in others]
    if context.faithfulness_images:
        progress("measuring faithfulness")
        faithfully = context.some(measured, context.faithfulness_images)
        imputed = context.some(faithfully, wanted.road_images)
        parts.append(
            keep(
                "faithfulness",
                lambda: measure_faithfulness(context, evaluated, faithfully, lies.powers, imputed, others),
            )
        )
    curves = {}
    if wanted.sanity_images:
        progress("measuring randomisation")
        few = context.some(measured, wanted.sanity_images)
        checked = keep(
            "randomisation",
            lambda: randomisation_test(context, evaluated, list(context.batches(few))),
        )
        parts.append(checked.measured)
        curves = checked.curves
    return AfterTraining(joined(parts), lies.by_size, lies.powers, curves)
