"""Trained reference arms that runs share: what an arm becomes does not depend on the others, so that a sweep over what
only the others use trains it once.

Each is a file whose name is the arm's signature: a hash of the settings that it uses, of its initial weights, of the
images, and of what computes it (versions, threads, camtrain's own code).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from torch import nn

from camtrain.data.images import ImageSet
from camtrain.errors import MALFORMED, UserError, out_of_memory
from camtrain.packed import Damaged, read_packed, write_packed
from camtrain.runs.facts import fingerprint
from camtrain.runs.lock import Lock
from camtrain.training.state import TrainingState

SUFFIX = ".safetensors"

DIGITS = 16
"""Of a signature, hexadecimal."""

CODE = Path(__file__).resolve().parent.parent

log = logging.getLogger("camtrain")


def signature(uses: str, network: nn.Module, splits: Iterable[ImageSet], environment: dict[str, str]) -> str:
    """A name for what training a plain arm computes.

    Args:
        uses: its settings, by :func:`camtrain.runs.settings.of_reference`.
        network: with its initial weights.
        splits: training and validation images; of files their sizes and times count too.
        environment: what is computed on.
    """
    machine = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    digest = hashlib.sha256(json.dumps([uses, environment, machine, _code()], sort_keys=True).encode())
    for images in splits:
        digest.update(fingerprint(images).encode())
        for path in images.files:
            about = path.stat()
            digest.update(f"{about.st_size} {about.st_mtime_ns} ".encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGITS]


def _code() -> str:
    """A hash of camtrain's own modules."""
    digest = hashlib.sha256()
    for path in sorted(CODE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass
class Place:
    """Where the reference arm of a run is kept, once it is trained."""

    path: Path
    about: str = ""  # what it is, in words
    lock: Lock | None = None  # while this run trains it

    def take(self, state: TrainingState, measured: Callable[[], dict[str, float]]) -> None:
        """Let the first arm be the one that is kept here, or else hold the place for it until :meth:`put`.

        Waits while another process holds it.

        Args:
            state: before its first step.
            measured: figures of the first arm as it is then, by tag.
        """
        lock = Lock(self.path.with_suffix(".lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("%-9s another run trains the same one: waiting for it (%s)", "baseline", self.path)
                lock.acquire()
        except OSError as error:  # this run does not need it
            log.warning("Note: %s: %s; this run trains its own baseline", self.path.parent, error.strerror)
            return
        self.lock = lock  # which is released at the end, however that comes
        if self._load(state, measured):
            self.release()

    def _load(self, state: TrainingState, measured: Callable[[], dict[str, float]]) -> bool:
        try:
            found = read_packed(self.path)
        except FileNotFoundError:
            return False
        except (Damaged, OSError) as error:
            log.warning("%s is damaged, and trained anew: %s", self.path, error)
            return False
        arm = state.arms[0]
        fresh = copy.deepcopy(state.part(arm))
        try:
            if found["signature"] != self.path.stem:
                raise ValueError("another signature")
            with state.changing():  # what is taken in part is never saved
                state.take(arm, found["arm"], found["history"], str(found["run"]), str(self.path))
        except (*MALFORMED, RuntimeError) as error:
            if out_of_memory(error):
                raise
            raise UserError(f"{self.path}: not a trained arm of these settings; remove it") from error
        other = differing(found["history"][-1], measured())
        if other:
            with state.changing():
                state.give_back(arm, fresh)
            log.warning(
                "Note: %s gives other figures here than where it was trained (%s); it is trained anew", self.path, other
            )
            return False
        with contextlib.suppress(OSError):
            os.utime(self.path)  # by which task=baselines knows when it was used last
        log.info("%-9s as %s has trained it", "baseline", found["run"])
        return True

    def put(self, state: TrainingState, run: Path) -> None:
        """Keep the first arm as it is at the end of training, if this run has trained all of it, and with success."""
        arm = state.arms[0]
        if self.lock is not None and arm.name not in state.stopped:
            tree = {
                "signature": self.path.stem,
                "about": self.about,
                "run": str(run),
                "arm": state.part(arm),
                "history": state.history[arm.name],
            }
            try:
                write_packed(self.path, tree)
            except OSError as error:  # this run does not need it
                log.warning("Note: %s: %s; other runs train the baseline again", self.path, error.strerror)
        self.release()

    def release(self) -> None:
        """Let others have the place."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None


@contextlib.contextmanager
def held(place: Place | None) -> Iterator[None]:
    """Release the place at the end of the block, however it ends."""
    try:
        yield
    finally:
        if place is not None:
            place.release()


def differing(then: dict[str, float], now: dict[str, float]) -> str:
    """Tags of figures that are not equal to the last bit, in words; empty if all are."""
    other = [tag for tag, value in now.items() if not _equal(then.get(tag), value)]
    return ", ".join(other[:3]) + ", ..." * (len(other) > 3)


def _equal(one: float | None, other: float) -> bool:
    return one is not None and (one == other or (math.isnan(one) and math.isnan(other)))


def kept(folder: Path) -> Iterator[tuple[Path, Any]]:
    """The trained arms in a folder, with what their files say; None where that is damaged."""
    for path in sorted(folder.glob(f"{'[0-9a-f]' * DIGITS}{SUFFIX}")):
        with contextlib.suppress(OSError):
            try:
                yield path, read_packed(path)
            except Damaged:
                yield path, None
