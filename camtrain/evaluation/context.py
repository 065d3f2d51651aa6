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


@dataclass
class EvaluationContext:
    """Networks by arm, and the images that they are measured on.

    Args:
        networks: by arm, the reference first; each with the route of its gradients.
        targets: of the validation images, (images,) class numbers or (images, classes) of 0 and 1, on the CPU.
        batches: the validation images, or the chosen ones, (images,) bool, in ascending order of their numbers.
        method: of the maps that are measured.
        settings: how many images each measurement takes.
        seed: of the choice of images, of their two folds, and of the noise in what ROAD puts in place of pixels.
        untrained: state dict of an untrained network of the arms' architecture.
        progress: called with what is being done.
    """

    networks: Mapping[str, Captured]
    targets: Tensor
    batches: Callable[[Tensor | None], Iterable[Batch]]
    method: CamVariant
    settings: EvaluateConfig
    seed: int
    untrained: Callable[[], Mapping[str, Tensor]]
    progress: Callable[[str], object] = lambda _: None

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
