"""`sweep.json`: the jobs of a sweep, and what became of each; and the figures that a job left."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from camtrain.arms import CONTROL
from camtrain.config.options import Objective
from camtrain.errors import CRASHED, DIVERGED, MACHINE, MALFORMED, USAGE
from camtrain.files import write_text
from camtrain.metrics.tags import ENERGY, primary_tag
from camtrain.runs.search import COMPLETED as COMPLETED
from camtrain.runs.search import RESULT

NAME = "sweep.json"

WAITING, RUNNING, FAILED, INTERRUPTED, DIVERGENT = "waiting", "running", "failed", "interrupted", "diverged"
"""Statuses of a job beside :data:`COMPLETED`."""

Finals = Mapping[str, Mapping[str, float]]
"""The last figures of each arm by tag, the reference first."""


@dataclass
class Job:
    """A line of `sweep.json`."""

    number: int
    overrides: list[str]
    folder: str
    status: str = WAITING
    reason: str | None = None  # in one line, why it was not completed
    exit_code: int | None = None  # negative: the signal that ended it
    seconds: float = 0.0  # of its processes, also of those that broke off


@dataclass
class Sweep:
    """The jobs that are known so far: sweepers that optimise choose further ones by the figures of these."""

    folder: Path
    jobs: list[Job] = field(default_factory=list)

    def write(self) -> None:
        """Write `sweep.json`, whole or not at all."""
        text = json.dumps([asdict(job) for job in self.jobs], indent=1, ensure_ascii=False)
        write_text(self.folder / NAME, f"{text}\n")

    def exit_codes(self) -> list[int]:
        """Those of the jobs that were not completed, as the command's; that of a crash where it is none."""
        ended = [job.exit_code for job in self.jobs if job.status not in (COMPLETED, WAITING)]
        return [code if code in (USAGE, DIVERGED, MACHINE) else CRASHED for code in ended]


def former_seconds(folder: Path) -> dict[str, float]:
    """How long the processes of each job have run that an earlier command left in the folder of a sweep, by its own
    folder."""
    try:
        lines = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return {str(line["folder"]): float(line["seconds"]) for line in lines}
    except (OSError, *MALFORMED):
        return {}


def finals(folder: Path) -> Finals | None:
    """What a completed run found; None if the folder holds none. A figure that is not defined is nan."""
    found = _found(folder)
    return found and found[0]


def objective(folder: Path, asked: Sequence[Objective]) -> float | list[float] | None:
    """What a sweeper that optimises is told of a run: of the first arm that is compared with the reference, or of the
    only one.

    Args:
        folder: of the run.
        asked: which figures.

    Returns:
        One figure, or as many as were asked for; nan where it is not defined. None if the run is not complete.
    """
    found = _found(folder)
    if found is None:
        return None
    arms, control = found
    treatment = [*arms.values()][:2][-1]  # the only arm, if there is one
    figures = {
        Objective.accuracy: treatment[primary_tag(treatment)],
        Objective.gain: treatment.get(ENERGY, math.nan) - control.get(ENERGY, math.nan),
    }
    told = [figures[one] for one in asked]
    return told if len(told) > 1 else told[0]


def _found(folder: Path) -> tuple[Finals, Mapping[str, float]] | None:
    """The last figures of a completed run: of its arms, and of the baseline that is as sharp as the first treatment."""
    try:
        tree = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        if tree["status"] != COMPLETED:
            return None
        arms = {name: _figures(arm["final"]) for name, arm in tree["arms"].items()}
        return arms, _figures(tree.get(CONTROL, {"final": {}})["final"])
    except (OSError, *MALFORMED):
        return None


def _figures(final: Mapping[str, float | None]) -> dict[str, float]:
    return {tag: math.nan if value is None else float(value) for tag, value in final.items()}
