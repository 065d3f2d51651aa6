"""The command `camtrain`: Hydra's command line, with errors as one line and exit code 2.

torch is imported when a job starts, so that `--help`, `--cfg job` and a mistyped override answer at once.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from omegaconf import DictConfig, OmegaConf, open_dict

from camtrain.config.hydra_store import register
from camtrain.config.messages import CONFIG_ERRORS, message
from camtrain.config.options import Task
from camtrain.config.schema import Config
from camtrain.config.validate import check, check_taken
from camtrain.errors import UserError

log = logging.getLogger("camtrain")


HERE = Path(__file__).resolve().parent

# Beside the package in a checkout, inside it in a wheel.
CONF = next((path for path in (HERE / "conf", HERE.parent / "conf") if path.is_dir()), HERE / "conf")

USAGE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141

HYDRA_FLAGS = {
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--info"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"),
}

RESULT = "result.json"  # camtrain.runs.result.NAME, which would bring torch with it
EXPLANATIONS = "explanations.csv"  # camtrain.tasks.explain.TABLE
COMPARISON = "comparison.json"  # camtrain.tasks.report.TABLE


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
        print(f"camtrain {importlib.metadata.version('camtrain')}")
        return
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to us, instead of Hydra printing its own
    # argparse takes overrides on one side of an option only.
    sys.argv[1:] = sorted(map(renamed, sys.argv[1:]), key=lambda argument: argument not in ("-m", "--multirun"))
    failed: list[Path] = []
    finished: list[tuple[Path, list[str], dict[str, Any]]] = []
    logging.raiseExceptions = False  # a run goes on where nobody reads its output any more
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
        remove_if_only(failed[-1].parent, {"multirun.yaml"})
        sys.exit(USAGE)


def renamed(argument: str) -> str:
    """What is written `class=NAME` as the key that it is: no field of a Python class can be called `class`."""
    key, equals, value = argument.partition("=")
    return f"class_name={value}" if key == "class" and equals else argument


def summarise(finished: list[tuple[Path, list[str], dict[str, Any]]]) -> None:
    """Print one line per job of a sweep and where all of it is."""
    from camtrain.report.console import tensorboard_command
    from camtrain.report.tables import sweep_text

    common = set.intersection(*(set(overrides) for _, overrides, _ in finished))
    jobs = []
    for folder, overrides, result in finished:
        own = " ".join(override for override in overrides if override not in common)
        jobs.append((f"{folder.name}: {own}", {arm: part["final"] for arm, part in result["arms"].items()}))
    sweep = finished[0][0].parent
    print(f"\nbaseline > regularised\n{sweep_text(jobs)}\n\nsweep        {sweep}")
    print(f"compare      camtrain task=report runs={shlex.quote(str(sweep))}")
    print(f"TensorBoard  {tensorboard_command()} --logdir {shlex.quote(str(sweep))}")


def print_error(message: str) -> None:
    """Print the one line."""
    print(f"camtrain: error: {message}", file=sys.stderr)


def typed(cfg: DictConfig) -> Config:
    """The composed configuration as checked dataclasses."""
    for key in unknown_keys(cfg):
        raise UserError(f"{key}: no such key; a + in front of it does not make one")
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{key} is not set: give it as {key}=VALUE")
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    check(config)
    return config


def unknown_keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys that the schema has not: Hydra adds them where an override begins with +."""
    node: Any = OmegaConf.get_type(cfg)
    known = {entry.name for entry in dataclasses.fields(node)}
    for name in map(str, cfg):
        if name not in known:
            yield f"{prefix}{name}"
        elif not OmegaConf.is_missing(cfg, name) and isinstance(cfg[name], DictConfig):
            yield from unknown_keys(cfg[name], f"{prefix}{name}.")


def preflight(arguments: list[str]) -> set[Path]:
    """Compose and check every job of the command before anything is written.

    In a sweep every value is tried with the first value of the others. Commands that only show something (`--help`,
    `--cfg`) or change where the configuration comes from, and sweeps over a glob, are left to Hydra.

    Returns:
        The run folder, if it was there before.

    Raises:
        UserError: a value out of range, or a run folder that already holds a run.
    """
    flags = {argument for argument in arguments if argument.startswith("-")}
    for flag in sorted(flags - HYDRA_FLAGS):
        if flag.startswith("--") and "=" not in flag:
            raise UserError(f"{flag}: no such flag; settings are written KEY=VALUE, for instance trainer.epochs=3")
    if not flags <= {"-m", "--multirun"}:
        return set()
    overrides = OverridesParser.create().parse_overrides([part for part in arguments if not part.startswith("-")])
    choices = []
    for override in overrides:
        if override.is_sweep_override() and not flags:
            raise UserError(f"{override.input_line}: several values for one key are a sweep; write camtrain -m ...")
        if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            return set()
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
    existing: set[Path] = set()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for of_job in (first, *others):
            try:
                cfg = hydra.compose("config", overrides=of_job, return_hydra_config=True)
            except ValueError as error:  # Hydra's way to refuse a group that is not set to a name
                wrong = [text for text in of_job if "." not in text.partition("=")[0]]
                raise UserError(f"{' '.join(wrong)}: a group is set to the name of one of its choices") from error
            with open_dict(cfg):
                folder = None if flags else Path(cfg.pop("hydra").run.dir).absolute()
                cfg.pop("hydra", None)
            typed(cfg)
            if folder is not None and folder.exists():
                existing.add(folder)
                for name, what in ((RESULT, "a run"), (EXPLANATIONS, "explanations"), (COMPARISON, "a comparison")):
                    if (folder / name).exists():
                        raise UserError(f"{folder} already holds {what}: choose another hydra.run.dir=FOLDER")
    return existing


def job(
    cfg: DictConfig, existing: set[Path], failed: list[Path], finished: list[tuple[Path, list[str], dict[str, Any]]]
) -> float | None:
    """One run. A user's error ends it in one line; the other jobs of a sweep go on.

    Args:
        cfg: the composed configuration.
        existing: folders that were there before the command and are not removed.
        failed: gets the run folder of a job that a user's error ended.
        finished: gets the run folder, overrides and result of every other.

    Returns:
        The regularised arm's validation accuracy (mean average precision), for sweepers that optimise.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        config = typed(cfg)
        check_taken(config.task, set_by_user())
        if config.task is Task.explain:
            from camtrain.tasks.explain import explain_images

            explain_images(config, folder)
            return None
        if config.task is Task.report:
            from camtrain.tasks.report import report_runs

            report_runs(config, folder)
            return None
        if config.task is Task.evaluate:
            from camtrain.tasks.evaluate import evaluate_run

            result = evaluate_run(config, folder, set_by_user())
            return accuracy_of(folder, result, finished)
        if config.task is Task.layers:
            from camtrain.tasks.layers import list_layers

            print(list_layers(config), flush=True)
            discard(folder, existing)
            return None
        if config.task is Task.data:
            from camtrain.tasks.data import inspect_data

            inspect_data(config, folder)
            return None
        from camtrain.tasks.train import train

        result = train(config, folder)
    except UserError as error:
        print_error(f"{error}{left_in(folder)}")
        note(f"camtrain: error: {error}")
        discard(folder, existing)
        failed.append(folder)
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
    return accuracy_of(folder, result, finished)


def set_by_user() -> set[str]:
    """Keys and groups that the command line sets."""
    return {override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task}


def accuracy_of(folder: Path, result: dict[str, Any], finished: list[tuple[Path, list[str], dict[str, Any]]]) -> float:
    """Note what was finished; the regularised arm's validation accuracy or mean average precision."""
    from camtrain.analysis.comparison import primary_tag

    finished.append((folder, list(HydraConfig.get().overrides.task), result))
    final = result["arms"]["regularised"]["final"]
    return float(final[primary_tag(final)])


def exit_on_broken_pipe() -> NoReturn:
    """End without a word: the reader of the output, such as head, has had enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(BROKEN_PIPE)


def left_in(folder: Path) -> str:
    """Where what was done so far is, if a run had begun."""
    return f"; what was done so far is in {folder}" if (folder / RESULT).exists() else ""


def note(message: str) -> None:
    """Write a line to the run's log file alone: the terminal has it already."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def discard(folder: Path, existing: set[Path]) -> None:
    """Remove a run folder in which no run began: only Hydra's own files are in it."""
    if (folder / RESULT).exists():
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
    """Remove a folder of ours that holds nothing but these files, and then `runs`, `sweeps` and `outputs` if empty."""
    if folder.is_dir() and {entry.name for entry in folder.iterdir()} <= names:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
        if folder.parent.name in ("runs", "sweeps", "outputs"):
            remove_if_only(folder.parent, set())
