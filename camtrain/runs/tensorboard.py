"""TensorBoard: one writer per arm with the same tags, so that every chart shows all arms."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.tensorflow_stub.errors import DataLossError
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

from camtrain.errors import MALFORMED, UserError
from camtrain.files import printable

log = logging.getLogger("camtrain")


class Board:
    """Writers of a run, `<folder>/<arm>/`. The step of everything is the number of epochs done.

    Where a run goes on, what is in these folders is written anew: figures from the history, and of the images those of
    epochs that are in it. Files that broke off in the middle do no harm, and no step is there twice or missing.

    Args:
        folder: of all arms.
        history: of each arm, the figures of the epochs that are done.
    """

    def __init__(self, folder: Path, history: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
        self.folder, self.given_up = folder, False
        self.writers: dict[str, SummaryWriter] = {}
        self._opened = contextlib.ExitStack()
        with contextlib.ExitStack() as opened, self._or_without():
            opened.enter_context(_errors_come_back())
            for arm, rows in history.items():
                former = sorted((folder / arm).glob("events.out.tfevents.*"))
                images = list(_images(former, len(rows)))
                self.writers[arm] = SummaryWriter(str(folder / arm))
                opened.callback(self.writers[arm].close)
                for event in images:
                    _file(self.writers[arm]).add_event(event, event.step, event.wall_time)
                for number, figures in enumerate(rows):
                    self.scalars({arm: figures}, number + 1)
                self.writers[arm].flush()
                for path in former:
                    path.unlink()
            self._opened = opened.pop_all()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._or_without():
            self._opened.__exit__(kind, error, trace)

    def scalars(self, figures: Mapping[str, Mapping[str, float]], epochs_done: int) -> None:
        """Every finite figure of every arm under its tag."""
        with self._or_without():
            for arm in self.writers.keys() & figures.keys():
                for tag, value in figures[arm].items():
                    if math.isfinite(value):
                        self.writers[arm].add_scalar(tag, value, epochs_done)
                self.writers[arm].flush()

    def strips(self, arm: str, strips: Sequence[NDArray[np.uint8]], epochs_done: int) -> None:
        """Images with the maps of all arms, under one of them."""
        with self._or_without():
            for number, pixels in enumerate(strips if arm in self.writers else ()):
                self.writers[arm].add_image(f"maps/{number:02d}", pixels, epochs_done, dataformats="HWC")
            if arm in self.writers:
                self.writers[arm].flush()  # before a checkpoint says that the epoch is done

    def text(self, tag: str, text: str, epochs_done: int = 0) -> None:
        """The same text for every arm."""
        with self._or_without():
            for writer in self.writers.values():
                writer.add_text(tag, text, epochs_done)

    def hparams(self, parameters: Mapping[str, str | float | bool], final: Mapping[str, Mapping[str, float]]) -> None:
        """Hyperparameters and final figures, through each arm's own writer: `add_hparams` would open a third run."""
        shown = {key: printable(value) if isinstance(value, str) else value for key, value in parameters.items()}
        with self._or_without():
            for arm, writer in self.writers.items():
                metrics = {tag: value for tag, value in final[arm].items() if math.isfinite(value)}
                for summary in hparams({**shown, "arm": arm}, metrics):  # type: ignore[no-untyped-call]
                    _file(writer).add_summary(summary)

    @contextlib.contextmanager
    def _or_without(self) -> Iterator[None]:
        """What cannot be written to these files must not end a training: it goes on without them."""
        try:
            yield
        except OSError as error:
            if not self.given_up:
                log.warning("Note: %s: %s; TensorBoard shows no more of this run", self.folder, error.strerror or error)
            self.given_up, self.writers = True, {}


def _file(writer: SummaryWriter) -> FileWriter:
    assert writer.file_writer is not None
    return writer.file_writer


def check_name(folder: Path) -> None:
    """Raise :class:`UserError` for a folder that TensorBoard cannot write into because its name is not UTF-8."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{folder}: TensorBoard cannot write into a folder whose name is not UTF-8; choose another"
            " hydra.run.dir=FOLDER"
        ) from None


def _images(files: Iterable[Path], epochs: int) -> Iterator[Any]:
    """Each image of these epochs once, from event files that may break off in the middle."""
    found = {}
    for path in files:
        with contextlib.suppress(DataLossError, DecodeError, MemoryError, *MALFORMED):  # also what was made up
            for event in LegacyEventFileLoader(str(path)).Load():  # type: ignore[no-untyped-call]
                for value in event.summary.value if event.step <= epochs else ():
                    if value.HasField("image"):
                        found[event.step, value.tag] = event
    yield from found.values()


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
