"""`task=report`: finished runs together, over seeds and settings: what they say, and whether the statements hold."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camtrain.analysis.folds import join_folds
from camtrain.analysis.intervals import Interval
from camtrain.analysis.over_seeds import Comparison, Run, Summary, group_by_settings, summarise
from camtrain.analysis.over_seeds import notes as notes_on
from camtrain.analysis.planning import CLIFF, missed
from camtrain.analysis.verdict import Claim, Condition, margins_of
from camtrain.config.schema import Config
from camtrain.errors import Diverged, UserError
from camtrain.files import write_text
from camtrain.report import build, tables
from camtrain.report.browser import show
from camtrain.runs.facts import data_name
from camtrain.runs.images import NAME as IMAGES
from camtrain.runs.images import read_classes, read_images
from camtrain.runs.load import read
from camtrain.runs.result import NAME, finite

log = logging.getLogger("camtrain")

TABLE = "comparison.json"


def report_runs(config: Config, folder: Path) -> None:
    """Compare finished runs, and leave `report.html` and `comparison.json` in the folder.

    Args:
        config: checked; `runs` and `report` are used.
        folder: where the files go; exists.

    Raises:
        UserError: there is no finished run, or runs that cannot be compared. Nothing was written then but the log.
        Diverged: all of them diverged.
    """
    assert config.runs is not None
    runs, left_out, diverged = collect(config.runs)
    joined, incomplete = join_folds(runs)
    summaries = [summarise(label, group, config.report) for label, group in group_by_settings(joined).items()]
    several = len(summaries) > 1
    notes = [] if several else notes_on(summaries[0])
    notes += [*incomplete, *(f"left out: {reason}" for reason in left_out)]
    if diverged:
        notes.append(f"{len(diverged)} diverged run{'s' * (len(diverged) > 1)} left out: {', '.join(diverged)}.")
    repeated = len(runs) - sum(len(run.folders) for one in summaries for run in one.runs)
    if repeated:
        notes.append(f"{repeated} run{'s' * (repeated > 1)} left out: later ones have the same settings and seed.")
    if several and len({measured_on(run) for one in summaries for run in one.runs}) > 1:
        notes.append("the settings were measured on different images: their figures cannot be compared directly.")
    for one in summaries:
        if several:
            log.info("\n%s", one.label)
        log_summary(one)
        for note in notes_on(one) if several else ():
            log.warning("Note: %s", note)
    if several:
        lines = [
            (f"{one.label}, {one.counted}: {verdicts(one)}", {arm: one.final[arm] for arm in one.arms})
            for one in summaries
        ]
        log.info("\n%s\n", tables.sweep_text(lines))
    for note in notes:
        log.warning("Note: %s", note)
    build.write(folder / build.NAME, title(summaries), summaries, notes)
    write_text(folder / TABLE, json.dumps(finite([as_json(one) for one in summaries]), indent=1) + "\n")
    log.info("report       %s", folder / build.NAME)
    if config.report.open:
        show(folder / build.NAME)


def log_summary(one: Summary) -> None:
    """Print the seeds, the tables and the claims of one setting."""
    log.info("seed%s %s\n", "s" * (len(one.runs) > 1), ", ".join(map(str, one.seeds)))
    log.info("%s\n", tables.as_text(one))
    log.info("%s\n", tables.claims_text(one))


def verdicts(one: Summary) -> str:
    """The statements with their outcomes; of several treatments, each one's."""
    words = {
        each.contrast.treatment: ", ".join(f"{name} {outcome.value}" for name, outcome in each.claim.statements.items())
        for each in one.comparisons
    }
    if len(words) == 1:
        return next(iter(words.values()))
    return "; ".join(f"{name}: {text}" for name, text in words.items())


def measured_on(run: Run) -> tuple[str, int, bool]:
    """What tells apart the images that runs were measured on."""
    return data_name(run.result.config.dataset), run.result.data.val, run.result.trained_seed is not None


def collect(runs: str) -> tuple[list[Run], list[str], list[str]]:
    """Every finished run below a folder, or below those that a pattern matches, why others were left out, and the
    folders of those that diverged.

    Args:
        runs: the folder or pattern.

    Raises:
        UserError: there is none.
        Diverged: all diverged.
    """
    pattern = str(Path(runs).expanduser())
    places = [Path(pattern)] if Path(pattern).is_dir() else sorted(map(Path, glob.glob(pattern)))  # noqa: PTH207
    folders = sorted({path.parent for place in places for path in place.rglob(NAME)}, key=_natural)
    found, left_out, diverged = [], [], []
    for folder in folders:
        try:
            finished = read(folder)
            each = read_images(folder)
            whole = finished.result.data.val
            if any(len(values) != whole for tags in each.values() for values in tags.values()):
                raise UserError(f"{folder}: its {IMAGES} does not hold its {whole} images; repeat the run")
            found.append(Run(folder, finished.result, each, classes=read_classes(folder)))
        except Diverged:
            diverged.append(str(folder))
        except UserError as error:
            left_out.append(str(error))
    if diverged and not found and not left_out:
        raise Diverged(f"runs={runs}: every run there diverged ({', '.join(diverged)}); lower optim.lr")
    if not found:
        reason = f"; the first: {left_out[0]}" if left_out else f" ({NAME} in it or below)"
        raise UserError(f"runs={runs}: no finished run there{reason}")
    if len({run.result.data.multilabel for run in found}) > 1:
        raise UserError(f"runs={runs}: some have one class per image, some several; report them separately")
    return found, left_out, diverged


def _natural(path: Path) -> tuple[str, int, str]:
    """Job 10 after job 9."""
    return str(path.parent), int(path.name) if path.name.isdecimal() else -1, path.name


def title(summaries: Sequence[Summary]) -> str:
    names = dict.fromkeys(data_name(run.result.config.dataset) for one in summaries for run in one.runs)
    networks = dict.fromkeys(run.result.config.model.name for one in summaries for run in one.runs)
    runs = sum(len(run.folders) for one in summaries for run in one.runs)
    return f"{', '.join(names)}; {', '.join(networks)}; {runs} run{'s' * (runs > 1)}"


def as_json(one: Summary) -> dict[str, Any]:
    """For programs: claims with their conditions, and every indicator with its interval."""
    treatments = {each.contrast.treatment: _comparison(each) for each in one.comparisons}
    first = next(iter(treatments.values()), {})
    return {
        "label": one.label,
        "seeds": one.seeds,
        "runs": [str(folder) for run in one.runs for folder in run.folders],
        **first,
        **({"treatments": treatments} if len(treatments) > 1 else {}),
        "final": one.final,
    }


def _comparison(each: Comparison) -> dict[str, Any]:
    reference, treatment = each.contrast[:2]
    return {
        "claim": _claim(each.claim),
        "indicators": {
            row.indicator.tag: {
                reference: row.reference,
                treatment: row.treatment,
                "control": row.control,
                "control_area": row.control_area,
                **_interval(row.interval),
                "p_holm": row.adjusted,
                "both_right": _interval(row.both_correct),
                "verdict": row.verdict,
            }
            for rows in each.rows.values()
            for row in rows
        },
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "outcome": claim.outcome.value,
        "statements": {name: outcome.value for name, outcome in claim.statements.items()},
        "margins": margins_of(claim.margins),
        "same_maps": [method.value for method in claim.equivalent],
        "conditions": [_condition(claim, condition) for condition in claim.conditions],
        "beside": [_condition(claim, condition) for condition in claim.beside],
        "cliffs": [{"seed": cliff.seed, "name": cliff.name, **_interval(cliff.found)} for cliff in claim.cliffs],
        "missed_cliffs": {"share_of_seeds": CLIFF, "probability": missed(len(claim.seeds))},
    }


def _interval(found: Interval) -> dict[str, float]:
    return {"difference": found.estimate, "margin_95": found.margin, "p": found.p}


def _condition(claim: Claim, condition: Condition) -> dict[str, Any]:
    plan = claim.needed(condition)
    return {
        "part": condition.part,
        "name": condition.name,
        "asked": condition.asked,
        **_interval(condition.found),
        "margin_90": condition.found.bound,
        "outcome": condition.outcome.value,
        "power": plan.power if plan else None,
        "more_seeds": plan.seeds if plan else None,
        "images_needed": plan.images if plan else None,
    }
