"""TensorBoard: one writer per arm with the same tags, so that every chart shows all arms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams


class Board:
    """Writers of a run, `<folder>/<arm>/`. The step of everything is the number of epochs done."""

    def __init__(self, folder: Path, arms: Sequence[str]) -> None:
        self.writers = {arm: SummaryWriter(str(folder / arm)) for arm in arms}

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self.writers.values():
            writer.close()

    def scalars(self, figures: Mapping[str, Mapping[str, float]], epochs_done: int) -> None:
        """Every finite figure of every arm under its tag."""
        for arm, tags in figures.items():
            for tag, value in tags.items():
                if math.isfinite(value):
                    self.writers[arm].add_scalar(tag, value, epochs_done)
            self.writers[arm].flush()

    def strips(self, arm: str, strips: Sequence[NDArray[np.uint8]], epochs_done: int) -> None:
        """Images with the maps of all arms, under one of them."""
        for number, pixels in enumerate(strips):
            self.writers[arm].add_image(f"maps/{number:02d}", pixels, epochs_done, dataformats="HWC")

    def text(self, tag: str, text: str, epochs_done: int = 0) -> None:
        """The same text for every arm."""
        for writer in self.writers.values():
            writer.add_text(tag, text, epochs_done)

    def hparams(self, parameters: Mapping[str, str | float | bool], final: Mapping[str, Mapping[str, float]]) -> None:
        """Hyperparameters and final figures, through each arm's own writer: `add_hparams` would open a third run."""
        for arm, writer in self.writers.items():
            metrics = {tag: value for tag, value in final[arm].items() if math.isfinite(value)}
            assert writer.file_writer is not None
            for summary in hparams({**parameters, "arm": arm}, metrics):
                writer.file_writer.add_summary(summary)
