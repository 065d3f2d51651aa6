"""The command `camtrain`: Hydra's command line, with errors as one line and exit code 2.

torch is imported only when a job starts, so that `--help`, `--cfg job` and a mistyped override answer at once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import io
import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

import camtrain.importing  # noqa: F401 - before Hydra changes the folder
from camtrain.config.arguments import (
    FOLDERS,
    SWEEP_FLAGS,
    dataset_of_run,
    jobs_to_check,
    owners,
    prepared,
    quoted,
    raw_text,
)
from camtrain.config.hydra_store import make_absolute, prefer, register, typed
from camtrain.config.messages import CONFIG_ERRORS, message
from camtrain.config.options import Task
from camtrain.config.schema import Config
from camtrain.config.validate import check_taken
from camtrain.distributed.environment import follows, restarts, world_size
from camtrain.errors import (
    BROKEN_PIPE,
    DIVERGED,
    MACHINE,
    SIGNALLED,
    USAGE,
    Diverged,
    MachineError,
    UserError,
    first_line,
    of_system,
    out_of_memory,
)
from camtrain.files import printable
from camtrain.interrupts import Stopped, interruption, raised
from camtrain.runs import lock
from camtrain.runs.search import RESULT, unfinished_run
from camtrain.sweeps import record
from camtrain.sweeps.launcher import FailedFast, Jobs
from camtrain.sweeps.record import COMPLETED, Finals, Sweep, finals, objective

if TYPE_CHECKING:
    from camtrain.runs.result import RunResult

log = logging.getLogger("camtrain")

HERE = Path(__file__).resolve().parent

# Beside the package in a checkout, inside it in a wheel.
CONF = next((path for path in (HERE / "conf", HERE.parent / "conf") if path.is_dir()), HERE / "conf")

HYDRA_FLAGS = {
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--info"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"),
}

sys.path.append(str(HERE / "sweeps" / "plugins"))  # where Hydra finds our launcher, the first time that it looks

STANDARD_OUTPUT = "standard output"

CHECKPOINT = "checkpoint.safetensors"  # camtrain.training.checkpoint.CHECKPOINT, which would import torch
WRITTEN = {
    RESULT: "a run",
    "explanations.csv": "explanations",  # camtrain.tasks.explain.TABLE
    "export.json": "an exported network",  # camtrain.tasks.export.RECORD
    "comparison.json": "a comparison",  # camtrain.tasks.report.TABLE
}
"""Files by which a folder is known to be in use, and what it holds then."""


class FinishedJob(NamedTuple):
    """A job of this command that measured something."""

    folder: Path
    overrides: list[str]
    final: Finals


class Place(NamedTuple):
    """Where a command writes, as it was before: what was there is the user's."""

    target: Path  # folder of the run or sweep
    base: Path  # the same, or the nearest folder above it that was there
    held: frozenset[str] | None  # names of what was in it; None: that could not be seen

    def made(self, path: Path) -> bool:
        """Whether something that is there now was made by this command."""
        inner = path.relative_to(self.base).parts if path.is_relative_to(self.base) else ()
        return bool(inner) and self.held is not None and inner[0] not in self.held

    def is_output(self, path: Path) -> bool:
        """Whether a path is one that the choice of the run folder decides on."""
        return path.is_relative_to(self.base.joinpath(*self.target.relative_to(self.base).parts[:1]))

    def remove_empty(self, folder: Path) -> None:
        """Remove a folder and those above it, as far as they are empty and this command made them."""
        with contextlib.suppress(OSError):
            while self.made(folder):
                folder.rmdir()
                folder = folder.parent


@dataclass
class Command:
    """What is known of a command while its jobs run."""

    place: Place | None  # None: not known, and nothing is removed
    implied: set[str]  # keys that the user did not set, but that follow from others
    full_error: bool  # show tracebacks
    said: list[str]  # arguments as the user typed them
    failed: list[int] = field(default_factory=list)  # exit codes of jobs that an error ended
    finished: list[FinishedJob] = field(default_factory=list)


def main() -> None:
    """Entry point of the `camtrain` command."""
    if follows():
        follow_rank_0()
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold any bytes
    with raised():
        try:
            run()
        finally:
            try:
                sys.stdout.flush()
            except BrokenPipeError:
                end_output(BROKEN_PIPE)
            except OSError as error:
                print_error(trouble(error, None, STANDARD_OUTPUT))
                end_output(USAGE)


def follow_rank_0() -> None:
    """Do what rank 0 of a training tells this process; where it is to show something only, nothing."""
    if not any(argument.startswith("-") for argument in sys.argv[1:]):
        os.environ["TQDM_DISABLE"] = "1"  # which tqdm reads when it is imported
        from camtrain.tasks.train import follow

        follow()


def check_together(arguments: list[str]) -> list[str]:
    """What torchrun's restart of a training adds to its arguments.

    Raises:
        UserError: torchrun has started what is no training.
    """
    if world_size() is None:
        return []
    task = next((part.removeprefix("task=") for part in arguments if part.startswith("task=")), Task.train.value)
    if task not in (Task.train.value, Task.resume.value):
        raise UserError(f"task={task} runs in one process; start it without torchrun")
    if not SWEEP_FLAGS.isdisjoint(arguments):
        raise UserError("a sweep starts its processes itself: run it without torchrun, with trainer.processes=N")
    begun_before = any(part.startswith("resume=") for part in arguments) or task == Task.resume.value
    return ["resume=auto"] if restarts() and not begun_before else []


def run() -> None:
    """Parse the command line, and run each job that it asks for."""
    if sys.argv[1:] == ["--version"]:
        print(version())
        return
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function, instead of being printed by Hydra
    logging.raiseExceptions = False  # a run continues when its output is no longer read
    register()
    prefer(CONF)
    command = Command(None, set(), full_error, sys.argv[1:])
    jobs = Jobs(functools.partial(job, command=command), full_error)
    try:
        sys.argv[1:] = prepared([*sys.argv[1:], *check_together(sys.argv[1:])])
        implied = dataset_of_run(sys.argv[1:])
        sys.argv[1:] = beside(sys.argv[1:], implied)
        jobs.implied = command.implied = {override.partition("=")[0] for override in implied}
        command.place = preflight(sys.argv[1:])
        sys.argv += pinned(sys.argv[1:], command.place)
        with contextlib.suppress(FailedFast):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(jobs)()
        finish(command, jobs.sweep)
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT
        said = f"stopped by {signal.Signals(number).name}" if isinstance(interrupt, Stopped) else "interrupted"
        tidy(command)
        complain(f"camtrain: {said}{interrupt}{'; '.join(['', *how_to_go_on(jobs.sweep, command.said)])}")
        sys.exit(SIGNALLED + number)
    except (UserError, *CONFIG_ERRORS) as error:
        if full_error:
            raise
        print_error(str(error) if isinstance(error, UserError) else message(error))
        tidy(command)
        sys.exit(USAGE)
    except BrokenPipeError:
        end_output(BROKEN_PIPE)
    except OSError as error:
        if full_error:
            raise
        found = in_words(error, command.place)
        print_error(str(found))
        if command.place is not None:
            discard(command.place.target, command.place)
        sys.exit(code_of(found))


def finish(command: Command, sweep: Sweep | None) -> None:
    """Print what the jobs found, if there are several, and what is left; end with the exit code.

    Args:
        command: knows the jobs that ran in this process.
        sweep: those that ran in others.
    """
    for one in sweep.jobs if sweep else ():
        final = finals(Path(one.folder)) if one.status == COMPLETED else None
        if final:
            command.finished.append(FinishedJob(Path(one.folder), one.overrides, final))
    if len(command.finished) > 1:
        summarise(command.finished)
    codes = command.failed + (sweep.exit_codes() if sweep else [])
    if sweep and not sweep.jobs:  # only planned
        tidy(command)
    if sweep and codes:
        left = [one for one in sweep.jobs if one.status != COMPLETED]
        said = [f"{len(left)} of {len(sweep.jobs)} jobs are not complete, see {sweep.folder / record.NAME}"]
        complain(f"camtrain: {'; '.join(said + how_to_go_on(sweep, command.said))}")
    if codes:
        tidy(command)
        sys.exit(min(codes))


def how_to_go_on(sweep: Sweep | None, said: list[str]) -> list[str]:
    """Which command goes on with a sweep, in words; nothing if none does."""
    others = {f"task={task.value}" for task in Task if task is not Task.train}
    if sweep is None or not others.isdisjoint(said):
        return []
    kept = [part for part in said if not part.startswith(("resume=", "hydra.sweep.dir="))]
    more = ["resume=auto", raw_text(f"hydra.sweep.dir={sweep.folder}", sweep=False)]
    return [f"go on with {shlex.join(['camtrain', *kept, *more])}"]


def beside(arguments: list[str], implied: list[str]) -> list[str]:
    """The arguments with further settings behind the task: argparse accepts settings on one side of a flag only."""
    at = next((place for place, argument in enumerate(arguments, 1) if argument.startswith("task=")), 0)
    return [*arguments[:at], *implied, *arguments[at:]]


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


def summarise(finished: list[FinishedJob]) -> None:
    """Print one line per job of a sweep, and where its results are."""
    from camtrain.report.console import tensorboard_command
    from camtrain.report.tables import sweep_text

    common = set.intersection(*(set(done.overrides) for done in finished))
    jobs = []
    for done in finished:
        own = " ".join(override for override in done.overrides if override not in common)
        jobs.append((f"{done.folder.name}: {own}", done.final))
    sweep = finished[0].folder.parent
    print(f"\n{sweep_text(jobs)}\n\nsweep        {sweep}")
    print(f"compare      camtrain task=report runs={shlex.quote(str(sweep))}")
    print(f"TensorBoard  {tensorboard_command()} --logdir {shlex.quote(str(sweep))}")


def print_error(message: str) -> None:
    """Print an error as one line."""
    complain(f"camtrain: error: {message}")


def complain(line: str) -> None:
    """Print to the terminal what is no result, as long as there is one."""
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr)


def code_of(error: BaseException | None) -> int:
    """Exit code after an error in words."""
    return DIVERGED if isinstance(error, Diverged) else MACHINE if isinstance(error, MachineError) else USAGE


def in_words(error: BaseException, place: Place | None) -> UserError | None:
    """What to say of an error of the system or of memory; None for others."""
    if out_of_memory(error):
        return MachineError(
            "out of memory; lower trainer.batch_size, dataset.image_size or the number of arms, or choose a smaller"
            " network"
        )
    if isinstance(error, OSError):
        return of_system(error, trouble(error, place))
    return None


def trouble(error: OSError, place: Place | None, where: str = "") -> str:
    """An error of the system: what, where, and what to do."""
    if isinstance(error.filename, str | bytes):
        where = os.fsdecode(error.filename)
    elif place is not None:
        where = where or str(place.target)
    ours = place is not None and bool(where) and place.is_output(Path(os.path.abspath(where)))  # noqa: PTH100
    elsewhere = "choose another folder with hydra.run.dir=FOLDER"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = f"; make room there{f', or {elsewhere}' if ours else ''}"
    elif ours:
        remedy = f"; {elsewhere}"
    elif error.errno in (errno.EACCES, errno.EPERM):
        remedy = "; allow this account to use it, or choose another"
    else:
        remedy = ""
    return f"{f'{where}: ' if where else ''}{error.strerror or first_line(error)}{remedy}"


def preflight(arguments: list[str]) -> Place | None:
    """Compose and check every job of the command before anything is written.

    Commands that only show something (`--help`, `--cfg`) or change where the configuration comes from, and sweeps over
    a glob, are left to Hydra.

    Returns:
        Where the command will write; None where only Hydra knows.

    Raises:
        UserError: a value out of range, or a run folder that already holds a run.
    """
    flags = {argument for argument in arguments if argument.startswith("-")}
    for flag in sorted(flags):
        check_flag(flag)
    if not flags <= SWEEP_FLAGS:
        return None
    place = None
    jobs = jobs_to_check([part for part in arguments if not part.startswith("-")], sweep=bool(flags))
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for overrides in jobs:
            folder, config = checked(overrides, sweep=bool(flags))
            chosen = any(part.startswith(("hydra.run.dir", "hydra.sweep.dir")[bool(flags)]) for part in overrides)
            folder = folder_of_sweep(folder, config, chosen) if flags else folder_of_job(folder, config, chosen)
            place = place or place_of(folder)
    return place


def check_flag(flag: str) -> None:
    """Raise :class:`UserError` for a flag that Hydra does not have, such as a setting with dashes in front."""
    bare = flag.lstrip("-")
    section = bare.partition("=")[0].partition(".")[0]
    is_setting = section in {key.partition(".")[0] for key in owners()} and flag not in HYDRA_FLAGS
    if is_setting or (flag.startswith("--") and flag.partition("=")[0] not in HYDRA_FLAGS):
        example = shlex.quote(bare) if "=" in bare else "trainer.epochs=3"
        raise UserError(f"{flag}: no such flag; settings are written KEY=VALUE, for instance {example}")


def folder_of_job(folder: Path, config: Config, chosen: bool) -> Path:
    """Where a job is to write.

    Args:
        folder: as configured.
        config: of the job.
        chosen: whether the user chose the folder.

    Raises:
        UserError: the folder holds what an earlier command wrote, and the job does not go on with it.
    """
    if config.task is Task.resume:
        folder = Path(str(config.run))
    elif config.resume is not None and config.task is Task.train:
        folder = folder if chosen else unfinished_run(folder.parent, config) or folder
    else:
        refuse_used(folder)
        return folder
    refuse_links(folder.rglob("*"))
    return folder


def folder_of_sweep(folder: Path, config: Config, chosen: bool) -> Path:
    """Where a sweep is to write; arguments as for :func:`folder_of_job`, of any of its jobs.

    Raises:
        UserError: the folder holds what an earlier command wrote, and the sweep does not go on with it, or it is to go
            on in no folder.
    """
    if config.resume is not None and config.task is Task.train:
        if not chosen:
            raise UserError("resume=auto: name the folder of the sweep that is to go on, hydra.sweep.dir=FOLDER")
        refuse_links(folder.glob("*"))  # each job looks at its own folder
        return folder
    used = [place / name for place in (folder, *folder.glob("*/")) for name in (record.NAME, *WRITTEN)]
    if any(os.path.exists(path) for path in used):  # noqa: PTH110 - not an error where one may not look
        raise UserError(
            f"{folder} already holds runs: go on with them by resume=auto, or choose another hydra.sweep.dir=FOLDER"
        )
    return folder


def refuse_links(paths: Iterable[Path]) -> None:
    """Raise :class:`UserError` for the first link, through which files elsewhere would be replaced or removed."""
    for path in paths:
        if path.is_symlink():
            raise UserError(
                f"{path} is a link, and what goes on in a folder is written there alone; copy what it leads to"
            )


def checked(overrides: list[str], sweep: bool) -> tuple[Path, Config]:
    """Compose and check a job; its run folder, or that of the sweep, and its configuration."""
    try:
        cfg = hydra.compose("config", overrides=overrides, return_hydra_config=True)
    except ValueError as error:  # Hydra's way to refuse a group that is not set to a name
        wrong = [text for text in overrides if "." not in text.partition("=")[0]]
        raise UserError(f"{' '.join(wrong)}: a group is set to the name of one of its choices") from error
    folder = os.path.abspath(cfg.hydra.sweep.dir if sweep else cfg.hydra.run.dir)  # noqa: PTH100
    with open_dict(cfg):
        del cfg["hydra"]
    return Path(folder), typed(cfg)


def place_of(folder: Path) -> Place:
    """Where a command is going to write."""
    base = next(above for above in (folder, *folder.parents) if os.path.isdir(above))  # noqa: PTH112
    try:
        return Place(folder, base, frozenset(os.listdir(base)))  # noqa: PTH208
    except OSError:
        return Place(folder, base, None)


def pinned(arguments: list[str], place: Place | None) -> list[str]:
    """The folder that was found by the time of day, as an override: Hydra would look at the clock again."""
    if place is None:
        return []
    if f"task={Task.resume.value}" in arguments:  # its configuration is not that of the run in the folder
        return [f"hydra.run.dir={quoted(str(place.target))}", "hydra.output_subdir=null"]
    if any(argument.lstrip("+").startswith(FOLDERS) for argument in arguments):
        return []
    key = "hydra.run.dir" if SWEEP_FLAGS.isdisjoint(arguments) else "hydra.sweep.dir"
    return [f"{key}={quoted(str(place.target))}"]


def refuse_used(folder: Path) -> None:
    """Raise :class:`UserError` if the folder holds what an earlier command wrote."""
    for name, what in WRITTEN.items():
        if os.path.exists(folder / name):  # noqa: PTH110 - not an error where one may not look
            raise UserError(f"{folder} already holds {what}: choose another hydra.run.dir=FOLDER")


def job(cfg: DictConfig, command: Command) -> float | list[float] | None:
    """One run. A user's error ends it in one line; the other jobs of a sweep continue.

    Args:
        cfg: the composed configuration.
        command: is told of it.

    Returns:
        Of the first treatment what `sweep.objectives` names, for sweepers that optimise.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    chosen = set_by_user() - command.implied
    try:
        with contextlib.chdir(HydraConfig.get().runtime.cwd):  # where a user's paths start, hydra.job.chdir or not
            config = typed(cfg)
            if HydraConfig.get().job.chdir:
                make_absolute(config, ["images"])
        check_taken(config.task, chosen)
        result = perform(config, folder, chosen)
    except BrokenPipeError:
        discard(folder, command.place)
        end_output(BROKEN_PIPE)
    except (Exception, KeyboardInterrupt) as error:
        interrupt = interruption(error)
        if not command.full_error:
            error = in_words(error, command.place) or error
        refused = type(error) is UserError and (cfg.task == Task.resume or cfg.resume is not None)
        left = discard(folder, command.place, may_go_on=not refused and not isinstance(error, Diverged))
        if interrupt is not None:
            interrupt.args = (left,)
            raise interrupt  # noqa: B904
        if not isinstance(error, UserError):
            log.exception("camtrain: unexpected error")
            raise
        print_error(f"{error}{left}")
        note(f"camtrain: error: {error}")
        command.failed.append(code_of(error))
        return None
    if config.task in (Task.layers, Task.baselines, Task.plan):
        discard(folder, command.place)
    if result is None:
        return None
    final = {name: arm.final for name, arm in result.arms.items()}
    command.finished.append(FinishedJob(folder, list(HydraConfig.get().overrides.task), final))
    return objective(folder, config.sweep.objectives)


def perform(config: Config, folder: Path, chosen: set[str]) -> RunResult | None:
    """Carry out the task, of which the user chose these keys; what `result.json` holds, if it measures something."""
    match config.task:
        case Task.train:
            from camtrain.tasks.train import train

            if config.resume is not None:
                from camtrain.tasks.resume import resume_or_train

                return resume_or_train(config, folder)
            return train(config, folder)
        case Task.resume:
            from camtrain.tasks.resume import resume_run

            return resume_run(config, folder, chosen - {"task", "run"})
        case Task.evaluate:
            from camtrain.tasks.evaluate import evaluate_run

            return evaluate_run(config, folder, chosen)
        case Task.compare:
            from camtrain.tasks.compare import compare

            return compare(config, folder, chosen)
        case Task.explain:
            from camtrain.tasks.explain import explain_images

            explain_images(config, folder, chosen)
        case Task.report:
            from camtrain.tasks.report import report_runs

            report_runs(config, folder)
        case Task.data:
            from camtrain.tasks.data import inspect_data

            inspect_data(config, folder)
        case Task.layers:
            from camtrain.tasks.layers import list_layers

            show(list_layers(config))
        case Task.baselines:
            from camtrain.tasks.baselines import list_baselines

            show(list_baselines(config))
        case Task.plan:
            from camtrain.tasks.plan import plan

            show(plan(config))
        case Task.export:
            from camtrain.tasks.export import export_run

            export_run(config, folder, chosen)
    return None


def show(text: str) -> None:
    """Print a result; an error names the output then, which an exception of Python's does not."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from error


def set_by_user() -> set[str]:
    """Keys and groups that the command line sets."""
    return {override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task}


def end_output(code: int) -> NoReturn:
    """End with this exit code: the output is no longer read, as by head, or cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def note(message: str) -> None:
    """Write a line to the run's log file only: the terminal shows it already."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def discard(folder: Path, place: Place | None, may_go_on: bool = True) -> str:
    """Remove what Hydra put into a run folder, and the folder, if the job has made nothing of its own there.

    Returns:
        Else, how a message about the end of the job goes on.
    """
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    logs = {Path(handler.baseFilename): handler for handler in handlers}
    own = {folder / ".hydra", folder / lock.NAME, *logs}
    if may_go_on and (folder / RESULT).exists() and (folder / CHECKPOINT).exists():
        return f"; go on with camtrain task=resume run={shlex.quote(str(folder))}"
    if place is None or not folder.is_dir():
        return f"; what was done so far is in {folder}" if (folder / RESULT).exists() else ""
    if any(place.made(path) for path in set(folder.iterdir()) - own):
        return f"; what was done so far is in {folder}"
    for path, handler in logs.items():
        if path.parent == folder and place.made(path):
            logging.getLogger().removeHandler(handler)
            with contextlib.suppress(OSError):
                handler.close()
                path.unlink(missing_ok=True)
    if place.made(folder / lock.NAME):
        (folder / lock.NAME).unlink(missing_ok=True)
    if place.made(folder / ".hydra"):
        shutil.rmtree(folder / ".hydra", ignore_errors=True)
    place.remove_empty(folder)
    return ""


def tidy(command: Command) -> None:
    """Remove the folder of a sweep of which no job has left anything."""
    place = command.place
    if place is None or not place.made(place.target) or not place.target.is_dir():
        return
    left = [*place.target.iterdir()]
    if {path.name for path in left} <= {"multirun.yaml", lock.NAME}:
        for path in left:
            path.unlink()
        place.remove_empty(place.target)
