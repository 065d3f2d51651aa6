"""The command `camtrain`: Hydra's command line, with errors as one line and exit code 2.

torch is imported when a job starts, so that `--help`, `--cfg job` and a mistyped override answer at once.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from camtrain.complaints import CONFIG_ERRORS, explain
from camtrain.config import Config, check, register
from camtrain.errors import UserError

log = logging.getLogger("camtrain")

HERE = Path(__file__).resolve().parent

# Beside the package in a checkout, inside it in a wheel.
CONF = next((path for path in (HERE / "conf", HERE.parent / "conf") if path.is_dir()), HERE / "conf")

USAGE, INTERRUPTED = 2, 130


def main() -> None:
    """Entry point of the `camtrain` command."""
    if sys.argv[1:] == ["--version"]:
        print(f"camtrain {importlib.metadata.version('camtrain')}")
        return
    full_error = os.environ.setdefault("HYDRA_FULL_ERROR", "0") == "1"
    if not full_error:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to us, instead of Hydra printing its own
    failures: list[UserError] = []
    register()
    try:
        preflight(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(lambda cfg: job(cfg, failures))()
    except KeyboardInterrupt:
        print("\ncamtrain: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (UserError, *CONFIG_ERRORS) as error:
        if full_error:
            raise
        fail(str(error) if isinstance(error, UserError) else explain(error))
    except OSError as error:
        if full_error:
            raise
        fail(
            f"{error.filename or 'output'}: {error.strerror or error}; choose another folder with hydra.run.dir=FOLDER"
        )
    if failures:
        sys.exit(USAGE)


def fail(message: str) -> None:
    """Print the one line and end with exit code 2."""
    print(f"camtrain: error: {message}", file=sys.stderr)
    sys.exit(USAGE)


def typed(cfg: DictConfig) -> Config:
    """The composed configuration as checked dataclasses."""
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{key} is not set: give it as {key}=VALUE")
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    check(config)
    return config


def preflight(arguments: list[str]) -> None:
    """Compose and check every job of the command before anything is written.

    In a sweep every value is tried with the first value of the others. Commands that only show something (`--help`,
    `--cfg`) or change where the configuration comes from are left to Hydra.
    """
    flags = {argument for argument in arguments if argument.startswith("-")}
    if not flags <= {"-m", "--multirun"}:
        return
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    choices = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if flags and override.is_discrete_sweep():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([str(override.input_line)])
    first = [options[0] for options in choices]
    jobs = [first] + [
        [*first[:position], value, *first[position + 1 :]]
        for position, options in enumerate(choices)
        for value in options[1:]
    ]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for job_overrides in jobs:
            typed(hydra.compose("config", overrides=job_overrides))


def job(cfg: DictConfig, failures: list[UserError]) -> float | None:
    """One run. A user's error ends it in one line; the other jobs of a sweep go on.

    Returns:
        The regularised arm's validation accuracy, for sweepers that optimise.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        config = typed(cfg)
        from camtrain.experiment import run

        result = run(config, folder)
    except UserError as error:
        log.error("camtrain: error: %s", error)
        discard(folder)
        failures.append(error)
        return None
    except KeyboardInterrupt:
        discard(folder)
        raise
    except Exception:
        log.exception("camtrain: unexpected error")
        raise
    return float(result["arms"]["regularised"]["final"]["accuracy/val"])


def discard(folder: Path) -> None:
    """Remove a run folder in which no run began: only Hydra's own files are in it."""
    if {entry.name for entry in folder.iterdir()} - {".hydra", "camtrain.log"}:
        return
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder:
            handler.close()
            logging.getLogger().removeHandler(handler)
    shutil.rmtree(folder)
    for parent in list(folder.parents)[:2]:
        if parent.name in ("runs", "sweeps", "outputs") and not any(parent.iterdir()):
            parent.rmdir()
