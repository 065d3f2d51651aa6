"""The command `camtrain`: Hydra's command line, with errors as one line and exit code 2.

torch is imported only when a job starts, so that `--help`, `--cfg job` and a mistyped override answer at once.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from omegaconf import DictConfig, open_dict

from camtrain.config.hydra_store import register, typed
from camtrain.config.messages import CONFIG_ERRORS, message
from camtrain.config.options import Task
from camtrain.config.schema import RENAMED, Config
from camtrain.config.validate import check_taken
from camtrain.errors import Diverged, UserError

if TYPE_CHECKING:
    from camtrain.runs.result import RunResult

log = logging.getLogger("camtrain")

HERE = Path(__file__).resolve().parent

# Beside the package in a checkout, inside it in a wheel.
CONF = next((path for path in (HERE / "conf", HERE.parent / "conf") if path.is_dir()), HERE / "conf")

USAGE, DIVERGED, INTERRUPTED, BROKEN_PIPE = 2, 3, 130, 141

SWEEP_FLAGS = {"-m", "--multirun"}
HYDRA_FLAGS = {
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--info"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"),
}

RESULT = "result.json"  # camtrain.runs.result.NAME, which would import torch
WRITTEN = {
    RESULT: "a run",
    "explanations.csv": "explanations",  # camtrain.tasks.explain.TABLE
    "comparison.json": "a comparison",  # camtrain.tasks.report.TABLE
}
"""Files by which a folder is known to be in use, and what it holds then."""


class FinishedJob(NamedTuple):
    """A job of this command that measured something."""

    folder: Path
    overrides: list[str]
    result: RunResult


def main() -> None:
    """Entry point of the `camtrain` command."""
    try:
        command()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            exit_on_broken_pipe()


def command() -> None:
    """Parse the command line, and run each job that it asks for."""
    if sys.argv[1:] == ["--version"]:
        print(version())
        return
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function, instead of being printed by Hydra
    # argparse accepts overrides on one side of an option only.
    sys.argv[1:] = sorted(map(current_name, sys.argv[1:]), key=lambda argument: argument not in SWEEP_FLAGS)
    failed: dict[Path, int] = {}
    finished: list[FinishedJob] = []
    logging.raiseExceptions = False  # a run continues when its output is no longer read
    register()
    try:
        existing = preflight(sys.argv[1:])
        task = functools.partial(job, existing=existing, failed=failed, finished=finished)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except KeyboardInterrupt as interrupt:
        print(f"camtrain: interrupted{interrupt}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (UserError, *CONFIG_ERRORS) as error:
        if full_error:
            raise
        print_error(str(error) if isinstance(error, UserError) else message(error))
        sys.exit(USAGE)
    except BrokenPipeError:
        exit_on_broken_pipe()
    except OSError as error:
        if full_error:
            raise
        where, why = error.filename or "output", error.strerror or str(error)
        print_error(f"{where}: {why}; choose another folder with hydra.run.dir=FOLDER")
        sys.exit(USAGE)
    if len(finished) > 1:
        summarise(finished)
    if failed:
        remove_if_only(next(reversed(failed)).parent, {"multirun.yaml"})
        sys.exit(min(failed.values()))


def version() -> str:
    """Name and version, with the commit in a git checkout."""
    commit = checked_out_commit(HERE.parent)
    return f"camtrain {importlib.metadata.version('camtrain')}{f' (commit {commit})' if commit else ''}"


def checked_out_commit(folder: Path) -> str | None:
    """First seven digits of the commit that is checked out in the root folder of a git checkout; None elsewhere."""
    git = folder / ".git"
    try:
        if git.is_file():  # of a worktree
            git = folder / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:7]
        branch = head.removeprefix("ref: ")
        shared = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
        if (shared / branch).exists():
            return (shared / branch).read_text()[:7]
        packed = (shared / "packed-refs").read_text().splitlines()
    except OSError:
        return None
    return next((line[:7] for line in packed if line.endswith(f" {branch}")), None)


def current_name(argument: str) -> str:
    """An override under the key's present name: `class=NAME`, which is short for `class_name`, and former names.

    No field of a Python class can be called `class`.
    """
    written = re.fullmatch(r"([+~]*)([^=]*)(=.*)?", argument, re.DOTALL)
    assert written is not None
    prefix, key, value = written[1], written[2], written[3] or ""
    if key == "class" and value:
        return f"{prefix}class_name{value}"
    if key not in RENAMED:
        return argument
    print(f"camtrain: {key} is now called {RENAMED[key]}", file=sys.stderr)
    return f"{prefix}{RENAMED[key]}{value}"


def summarise(finished: list[FinishedJob]) -> None:
    """Print one line per job of a sweep, and where its results are."""
    from camtrain.report.console import tensorboard_command
    from camtrain.report.tables import sweep_text

    common = set.intersection(*(set(done.overrides) for done in finished))
    jobs = []
    for done in finished:
        own = " ".join(override for override in done.overrides if override not in common)
        finals = {arm: part.final for arm, part in done.result.arms.items()}
        jobs.append((f"{done.folder.name}: {own}", finals))
    sweep = finished[0].folder.parent
    print(f"\n{sweep_text(jobs)}\n\nsweep        {sweep}")
    print(f"compare      camtrain task=report runs={shlex.quote(str(sweep))}")
    print(f"TensorBoard  {tensorboard_command()} --logdir {shlex.quote(str(sweep))}")


def print_error(message: str) -> None:
    """Print an error as one line."""
    print(f"camtrain: error: {message}", file=sys.stderr)


def preflight(arguments: list[str]) -> set[Path]:
    """Compose and check every job of the command before anything is written.

    Commands that only show something (`--help`, `--cfg`) or change where the configuration comes from, and sweeps over
    a glob, are left to Hydra.

    Returns:
        The run folder, if it existed before.

    Raises:
        UserError: a value out of range, or a run folder that already holds a run.
    """
    flags = {argument for argument in arguments if argument.startswith("-")}
    for flag in sorted(flags - HYDRA_FLAGS):
        if flag.startswith("--") and "=" not in flag:
            raise UserError(f"{flag}: no such flag; settings are written KEY=VALUE, for instance trainer.epochs=3")
    if not flags <= SWEEP_FLAGS:
        return set()
    existing: set[Path] = set()
    jobs = jobs_to_check([part for part in arguments if not part.startswith("-")], sweep=bool(flags))
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for overrides in jobs:
            folder = checked_folder(overrides, sweep=bool(flags))
            if folder is not None and folder.exists():
                refuse_used(folder)
                existing.add(folder)
    return existing


def jobs_to_check(arguments: list[str], sweep: bool) -> list[list[str]]:
    """Overrides of the jobs of a command; in a sweep each value is tried with the first value of the others.

    Returns:
        Nothing for a sweep over a glob, whose values only Hydra knows.

    Raises:
        UserError: several values for a key, although it is no sweep.
    """
    choices = []
    for override in OverridesParser.create().parse_overrides(arguments):
        if override.is_sweep_override() and not sweep:
            raise UserError(f"{override.input_line}: several values for one key are a sweep; write camtrain -m ...")
        if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            return []
        if override.is_discrete_sweep():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([str(override.input_line)])
    first = [options[0] for options in choices]
    others = [
        [*first[:position], value, *first[position + 1 :]]
        for position, options in enumerate(choices)
        for value in options[1:]
    ]
    return [first, *others]


def checked_folder(overrides: list[str], sweep: bool) -> Path | None:
    """Compose and check a job; its run folder, or None for a job of a sweep."""
    try:
        cfg = hydra.compose("config", overrides=overrides, return_hydra_config=True)
    except ValueError as error:  # Hydra's way to refuse a group that is not set to a name
        wrong = [text for text in overrides if "." not in text.partition("=")[0]]
        raise UserError(f"{' '.join(wrong)}: a group is set to the name of one of its choices") from error
    folder = None if sweep else Path(cfg.hydra.run.dir).absolute()
    with open_dict(cfg):
        del cfg["hydra"]
    typed(cfg)
    return folder


def refuse_used(folder: Path) -> None:
    """Raise :class:`UserError` if the folder holds what an earlier command wrote."""
    for name, what in WRITTEN.items():
        if (folder / name).exists():
            raise UserError(f"{folder} already holds {what}: choose another hydra.run.dir=FOLDER")


def job(cfg: DictConfig, existing: set[Path], failed: dict[Path, int], finished: list[FinishedJob]) -> float | None:
    """One run. A user's error ends it in one line; the other jobs of a sweep continue.

    Args:
        cfg: the composed configuration.
        existing: folders that existed before the command and are not removed.
        failed: gets the run folder and the exit code of a job that a user's error ended.
        finished: gets every job that measured something.

    Returns:
        The first treatment's validation accuracy (mean average precision), for sweepers that optimise.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        config = typed(cfg)
        check_taken(config.task, set_by_user())
        result = perform(config, folder)
    except UserError as error:
        print_error(f"{error}{left_in(folder)}")
        note(f"camtrain: error: {error}")
        discard(folder, existing)
        failed[folder] = DIVERGED if isinstance(error, Diverged) else USAGE
        return None
    except KeyboardInterrupt as interrupt:
        discard(folder, existing)
        raise KeyboardInterrupt(left_in(folder)) from interrupt
    except BrokenPipeError:
        discard(folder, existing)
        exit_on_broken_pipe()
    except Exception:
        log.exception("camtrain: unexpected error")
        raise
    if config.task is Task.layers:
        discard(folder, existing)
    if result is None:
        return None
    finished.append(FinishedJob(folder, list(HydraConfig.get().overrides.task), result))
    return treatment_accuracy(result)


def perform(config: Config, folder: Path) -> RunResult | None:
    """Carry out the task; what `result.json` holds, if it measures something."""
    match config.task:
        case Task.train:
            from camtrain.tasks.train import train

            return train(config, folder)
        case Task.evaluate:
            from camtrain.tasks.evaluate import evaluate_run

            return evaluate_run(config, folder, set_by_user())
        case Task.explain:
            from camtrain.tasks.explain import explain_images

            explain_images(config, folder)
        case Task.report:
            from camtrain.tasks.report import report_runs

            report_runs(config, folder)
        case Task.data:
            from camtrain.tasks.data import inspect_data

            inspect_data(config, folder)
        case Task.layers:
            from camtrain.tasks.layers import list_layers

            print(list_layers(config), flush=True)
    return None


def set_by_user() -> set[str]:
    """Keys and groups that the command line sets."""
    return {override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task}


def treatment_accuracy(result: RunResult) -> float:
    """Validation accuracy or mean average precision of the first arm that is compared with the reference."""
    from camtrain.analysis.comparison import primary_tag

    final = result.arms[result.contrasts[0].treatment].final
    return float(final[primary_tag(final)])


def exit_on_broken_pipe() -> NoReturn:
    """End silently: the reader of the output, such as head, has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(BROKEN_PIPE)


def left_in(folder: Path) -> str:
    """Where the unfinished results are, if there are any."""
    return f"; what was done so far is in {folder}" if any((folder / name).exists() for name in WRITTEN) else ""


def note(message: str) -> None:
    """Write a line to the run's log file only: the terminal shows it already."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def discard(folder: Path, existing: set[Path]) -> None:
    """Remove a run folder to which nothing was written: it contains only Hydra's own files."""
    if any((folder / name).exists() for name in WRITTEN):
        return
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder:
            handler.close()
            logging.getLogger().removeHandler(handler)
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    (folder / "camtrain.log").unlink(missing_ok=True)
    if folder not in existing:
        remove_if_only(folder, set())


def remove_if_only(folder: Path, names: set[str]) -> None:
    """Remove a folder that holds nothing but these files, and then `runs`, `sweeps` and `outputs` if they are empty."""
    if folder.is_dir() and {entry.name for entry in folder.iterdir()} <= names:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
        if folder.parent.name in ("runs", "sweeps", "outputs"):
            remove_if_only(folder.parent, set())
