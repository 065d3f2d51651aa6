"""Networks as a user names them: RUN/ARM, NAME or NAME@FILE."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from camtrain.files import absolute, expanded

RESULT = "result.json"  # camtrain.runs.result.NAME, which would import torch

AT = "@"

NO_WEIGHTS = "none"


class Given(NamedTuple):
    """What a user means by a network."""

    text: str
    run: Path | None = None  # folder of a finished run
    arm: str = ""  # of the run; empty where the run alone was named
    name: str = ""  # where it is no run's: of torchvision, timm/NAME, package.module:function
    weights: str | None = None  # file, name of weights, or none; None where there was no @

    @classmethod
    def of(cls, text: str) -> Given:
        """What the text means: an arm of a run where its folder holds one, or it can be nothing else."""
        place = expanded(text)
        if (place / RESULT).is_file():
            return cls(text, run=place)
        name, at, weights = text.partition(AT)
        path = "/" in text and not (name.startswith("timm/") or ":" in name or at)
        if path or ((place.parent / RESULT).is_file() and "/" in text):
            return cls(text, run=place.parent, arm=place.name)
        return cls(text, name=name, weights=weights if at else None)

    def absolute(self) -> str:
        """The text, of which paths mean the same from any folder."""
        if self.run is not None:
            return absolute(self.text)
        if self.weights and (self.weights.startswith("~") or expanded(self.weights).is_file()):
            return f"{self.name}{AT}{absolute(self.weights)}"
        return self.text

    def short(self) -> str:
        """The text without folders, for headings."""
        if self.run is not None:
            return f"{self.run.name}/{self.arm}"
        return self.name if self.weights is None else f"{self.name}{AT}{Path(self.weights).name}"
