"""Finished runs together, over seeds and settings: what they say, and whether the claim holds."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from camtrain.analysis.intervals import Interval
from camtrain.analysis.over_seeds import Run, Summary, group_by_settings, summarise
from camtrain.analysis.over_seeds import notes as notes_on
from camtrain.analysis.verdict import VERDICTS, Condition, sentences
from camtrain.config.schema import Config
from camtrain.errors import UserError
from camtrain.files import write_text
from camtrain.report import build, tables
from camtrain.runs import facts
from camtrain.runs.load import read
from camtrain.runs.result import NAME, finite, read_images

log = logging.getLogger("camtrain")


TABLE = "comparison.json"


def report_runs(config: Config, folder: Path) -> None:
    """Compare finished runs, and leave `report.html` and `comparison.json` in the folder.

    Args:
        config: checked; of it `runs` and `report` count.
        folder: where the files go; exists.

    Raises:
        UserError: there is no finished run, or what one left is not whole. Nothing was written then but the log.
    """
    assert config.runs is not None
    runs, left_out = collect(config.runs)
    summaries = [summarise(label, of_label, config.report) for label, of_label in group_by_settings(runs).items()]
    used = sum(len(one.runs) for one in summaries)
    notes = [f"left out: {reason}" for reason in left_out]
    if len(summaries) == 1:
        notes = notes_on(summaries[0]) + notes
    if used < len(runs):
        count = len(runs) - used
        notes.append(f"{count} run{'s' * (count > 1)} left out: later ones have the same settings and seed.")
    measured_on = {
        (facts.data_name(run.config), run.result["data"]["val"], "trained_seed" in run.result)
        for one in summaries
        for run in one.runs
    }
    if len(summaries) > 1 and len(measured_on) > 1:
        notes.append("the settings were measured on different images: their figures cannot be compared directly.")
    for one in summaries:
        if len(summaries) > 1:
            log.info("\n%s", one.label)
        log.info("seed%s %s\n", "s" * (len(one.runs) > 1), ", ".join(map(str, one.seeds)))
        log.info("%s\n", tables.as_text(one.final, one.rows))
        log.info("%s\n", "\n".join(sentences(one.claim, one.seeds)))
        for note in notes_on(one) if len(summaries) > 1 else ():
            log.warning("Note: %s", note)
    if len(summaries) > 1:
        lines = [(f"{one.label}, {one.counted}: {VERDICTS[one.claim.outcome]}", one.final) for one in summaries]
        log.info("\nbaseline > regularised\n%s\n", tables.sweep_text(lines))
    for note in notes:
        log.warning("Note: %s", note)
    build.write(folder / build.NAME, title(summaries), summaries, notes)
    write_text(folder / TABLE, json.dumps(finite([as_json(one) for one in summaries]), indent=1) + "\n")
    log.info("report       %s", folder / build.NAME)


def collect(runs: str) -> tuple[list[Run], list[str]]:
    """Every finished run below a folder, or below those that a pattern matches, and what was left out.

    Args:
        runs: the folder or pattern.

    Raises:
        UserError: there is none.
    """
    pattern = str(Path(runs).expanduser())
    places = [Path(pattern)] if Path(pattern).is_dir() else sorted(map(Path, glob.glob(pattern)))  # noqa: PTH207
    folders = sorted({path.parent for place in places for path in place.rglob(NAME)}, key=_natural)
    found, left_out = [], []
    for folder in folders:
        try:
            finished = read(folder)
            each = read_images(folder)
            whole = finished.result["data"]["val"]
            if any(len(values) != whole for tags in each.values() for values in tags.values()):
                raise UserError(f"{folder}: its pictures.csv does not hold its {whole} images; repeat the run")
            found.append(Run(*finished, each))
        except UserError as error:
            left_out.append(str(error))
    if not found:
        reason = f"; the first: {left_out[0]}" if left_out else f" ({NAME} in it or below)"
        raise UserError(f"runs={runs}: no finished run there{reason}")
    measures = {bool(run.result["data"]["multilabel"]) for run in found}
    if len(measures) > 1:
        raise UserError(f"runs={runs}: some have one class per image, some several; compare them apart")
    return found, left_out


def _natural(path: Path) -> tuple[str, int, str]:
    """Job 10 after job 9."""
    return str(path.parent), int(path.name) if path.name.isdecimal() else -1, path.name


def title(summaries: Sequence[Summary]) -> str:
    names = dict.fromkeys(facts.data_name(run.config) for one in summaries for run in one.runs)
    networks = dict.fromkeys(run.config.model.name for one in summaries for run in one.runs)
    runs = sum(len(one.runs) for one in summaries)
    return f"{', '.join(names)}; {', '.join(networks)}; {runs} run{'s' * (runs > 1)}"


def as_json(one: Summary) -> dict[str, Any]:
    """For programs: the claim with its conditions, and every indicator with its interval."""
    return {
        "label": one.label,
        "seeds": one.seeds,
        "runs": [str(run.folder) for run in one.runs],
        "claim": {
            "outcome": one.claim.outcome.value,
            "margins": asdict(one.claim.margins),
            "same_maps": [variant.value for variant in one.claim.doubles],
            "conditions": [_condition(condition) for condition in one.claim.conditions],
            "beyond": [_condition(condition) for condition in one.claim.beyond],
        },
        "indicators": {
            row.indicator.tag: {
                "baseline": row.baseline,
                "regularised": row.regularised,
                "control": row.control,
                **_interval(row.interval),
                "p_holm": row.adjusted,
                "both_right": _interval(row.both_right),
                "verdict": row.verdict,
            }
            for rows in one.rows.values()
            for row in rows
        },
        "final": one.final,
    }


def _interval(found: Interval) -> dict[str, float]:
    return {"difference": found.estimate, "margin_95": found.margin, "p": found.p}


def _condition(condition: Condition) -> dict[str, Any]:
    return {
        "part": condition.part,
        "name": condition.name,
        "asked": condition.asked,
        **_interval(condition.found),
        "outcome": condition.outcome.value,
    }
