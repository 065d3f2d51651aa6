"""TensorBoard: one writer per arm with the same tags, so that every chart shows all arms."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from camtrain.errors import UserError
from camtrain.files import printable


class Board:
    """Writers of a run, `<folder>/<arm>/`. The step of everything is the number of epochs done."""

    def __init__(self, folder: Path, arms: Sequence[str]) -> None:
        self.writers: dict[str, SummaryWriter] = {}
        with contextlib.ExitStack() as opened:
            opened.enter_context(_errors_come_back())
            for arm in arms:
                self.writers[arm] = SummaryWriter(str(folder / arm))
                opened.callback(self.writers[arm].close)
            self._opened = opened.pop_all()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

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
        shown = {key: printable(value) if isinstance(value, str) else value for key, value in parameters.items()}
        for arm, writer in self.writers.items():
            metrics = {tag: value for tag, value in final[arm].items() if math.isfinite(value)}
            assert writer.file_writer is not None
            for summary in hparams({**shown, "arm": arm}, metrics):
                writer.file_writer.add_summary(summary)


def check_name(folder: Path) -> None:
    """Raise :class:`UserError` for a folder that TensorBoard cannot write into because its name is not UTF-8."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{folder}: TensorBoard cannot write into a folder whose name is not UTF-8; choose another"
            " hydra.run.dir=FOLDER"
        ) from None


@contextlib.contextmanager
def _errors_come_back() -> Iterator[None]:
    """A writer's thread says nothing of an error such as a full disk: its writer raises it at the next call."""
    former = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            former(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = former
