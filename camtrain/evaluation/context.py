"""Trained networks in front of validation images: what every measurement after training needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from camtrain.arms import Contrast, contrasts
from camtrain.config.options import CamVariant
from camtrain.config.schema import EvaluateConfig
from camtrain.data.batches import Batch
from camtrain.data.images import rarest_class
from camtrain.evaluation.folds import two_folds
from camtrain.evaluation.subset import choose_images, stratified
from camtrain.networks.capture import Captured

UNTRAINED_IMAGES = 500
"""Images on which faithfulness is measured by default, where nothing was trained."""

LEAST_IMAGES = 64
"""The same after a training too short to pay for more."""

PASSES_OF_ORDER = 20
"""Passes of an image for the curves of deletion and insertion in one order of its pixels; measured, 10 to 31."""


@dataclass
class EvaluationContext:
    """Networks by arm, and the images that they are measured on.

    Args:
        networks: by arm, the reference first; each with the route of its gradients.
        targets: of the validation images, (images,) class numbers or (images, classes) of 0 and 1, on the CPU.
        batches: the validation images, or the chosen ones, (images,) bool, in ascending order of their numbers; of
            several ranks this one's.
        method: of the maps that are measured, of networks that have none of their own.
        settings: how many images each measurement takes.
        seed: of the choice of images, of their two folds, and of the noise in what ROAD puts in place of pixels.
        untrained: of an arm, by its name, the state dict of an untrained network of its architecture.
        progress: called with what is being done.
        training_passes: passes of an image that the training took, over what there are maps of an image in the mean;
            None where nothing was trained.
    """

    networks: Mapping[str, Captured]
    targets: Tensor
    batches: Callable[..., Iterable[Batch]]
    method: CamVariant
    settings: EvaluateConfig
    seed: int
    untrained: Callable[[str], Mapping[str, Tensor]]
    progress: Callable[[str], object] = lambda _: None
    training_passes: float | None = None

    def __post_init__(self) -> None:
        self.measured, self.shown = choose_images(self.targets, self.settings, self.seed)
        self.fold = two_folds(self.count, self.seed)

    @property
    def count(self) -> int:
        """Of validation images."""
        return len(self.targets)

    def some(self, chosen: Tensor, count: int) -> Tensor:
        """`count` of the chosen images, (images,) bool, stratified by class."""
        return stratified(chosen, count, rarest_class(self.targets), self.seed)

    @cached_property
    def contrasts(self) -> list[Contrast]:
        """Which arms are compared."""
        return contrasts(self.networks)

    @property
    def faithfulness_images(self) -> int:
        """On how many of the measured images faithfulness is measured.

        As configured. By default on all of them, or as many as cost a third of the training, :data:`LEAST_IMAGES` at
        least; on :data:`UNTRAINED_IMAGES` where there was no training. The cost is counted in forward passes, so that
        it is the same on every machine. Of each image every network has two for the ends of the curves, one for what
        its map shows, and those of the curves in the order of its map, in three fixed orders and in those of the other
        methods; every sharpened baseline has one for what its map shows, and those of its order.
        """
        count = self.settings.faithfulness_images
        if count is None and self.training_passes is None:
            count = UNTRAINED_IMAGES
        elif count is None:
            assert self.training_passes is not None
            others = len(set(self.settings.maps) - {self.method})
            orders = len(self.networks) * (4 + others) + len(self.contrasts)
            passes = 3 * len(self.networks) + len(self.contrasts) + PASSES_OF_ORDER * orders
            count = max(LEAST_IMAGES, int(self.training_passes / 3 / passes))
        return min(count, int(self.measured.sum()))
