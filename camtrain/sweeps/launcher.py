"""Hydra's launcher of our sweeps: each job in a process of its own, whose end leaves the others alone."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from camtrain.config.arguments import SWEEP_FLAGS, parsed, quoted, repeated
from camtrain.config.hydra_store import typed
from camtrain.config.options import AUTO, Task
from camtrain.config.schema import FakeConfig, ShapesConfig
from camtrain.errors import BROKEN_PIPE, USAGE, UserError
from camtrain.interrupts import handed_on
from camtrain.runs import lock
from camtrain.runs.search import completed_run
from camtrain.runs.settings import of_reference
from camtrain.sweeps.process import Child, outcome, paused_together
from camtrain.sweeps.record import COMPLETED, FAILED, RUNNING, Job, Sweep, finals, former_seconds, objective

log = logging.getLogger("camtrain")

OF_THE_SWEEP = ("sweep.", "resume", "hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")
"""Beginnings of keys that are not handed on to jobs."""

TO_COMPLETE = (Task.train, Task.resume)
"""Tasks that leave a run."""


LOOK_EVERY = 0.1
"""Seconds between looks at whether a job has ended."""

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""Knows all jobs before the first one runs, if it does not divide them into batches."""

DEVICES = "CUDA_VISIBLE_DEVICES"


class FailedFast(Exception):
    """`sweep.fail_fast`: a job was not completed, and the others wait."""


@dataclass
class Jobs:
    """What Hydra is given to call for a job, and what this launcher needs of the command instead."""

    here: Callable[[DictConfig], float | list[float] | None]  # a job in this process, for other launchers
    full_error: bool  # show tracebacks
    implied: Collection[str] = ()  # keys that the user did not set, and that each process finds again
    sweep: Sweep | None = None  # is kept by the launcher

    def __call__(self, cfg: DictConfig) -> float | list[float] | None:
        return self.here(cfg)


@dataclass
class Planned:
    """A job that is about to run."""

    job: Job
    arguments: list[str]
    log: Path
    task: Task
    config: Any  # what the settings are, all checked; None where they are at fault
    fault: str | None  # by which it will end then
    reference: str | None  # settings of its reference arm, if other jobs may have the same one
    images: tuple[str, str] | None  # data set and fingerprint of a complete run, which is to be compared with its files
    told: JobReturn  # what the sweeper gets

    common: frozenset[str] = frozenset()  # settings that all jobs have

    @property
    def label(self) -> str:
        own = [text for text in self.job.overrides if text not in self.common]
        return f"#{self.job.number}: {' '.join(own)}"


@dataclass
class Running:
    """A job whose process has been started, or is about to be."""

    plan: Planned
    child: Child
    slot: int  # of those that run at the same time, from 0
    started: float = field(default_factory=time.monotonic)
    log_size: int = 0  # bytes of its log before


class Processes(Launcher):
    """Runs each job by the plain command."""

    here = True
    """Whether jobs share the CPUs and devices of this machine."""

    prints = True
    """Whether a job that runs alone prints to this terminal."""

    def at_once(self, jobs: int) -> int:  # noqa: ARG002
        """How many of so many jobs run, or are handed over, at the same time."""
        most: int = self.config.sweep.jobs
        return most

    def child(self) -> Child:
        """The process of a job, before it is started."""
        return Child()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        assert isinstance(task_function, Jobs)
        self.loader: ConfigLoader = hydra_context.config_loader
        self.jobs, self.config = task_function, config
        self.sweep = task_function.sweep = Sweep(Path(str(config.hydra.sweep.dir)).absolute())
        # Further jobs follow, which nobody knows yet.
        self.open = config.hydra.sweeper._target_ != BASIC_SWEEPER
        self.seconds = former_seconds(self.sweep.folder)
        self.compared: set[tuple[str, str] | None] = {None}  # images that are those of before; None: nothing to compare
        # The sweeper replaces it before it asks for jobs, some of which may be refused.
        self.former = self.sweep.folder / "multirun.yaml"
        self.content = self.former.read_bytes() if self.former.is_file() else None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs, as many at the same time as `sweep.jobs` says.

        Raises:
            UserError: the folder of a job holds a run of other settings, or the sweep's is in use. Nothing was run.
            FailedFast: the others wait.
            KeyboardInterrupt: a signal stopped the job that ran.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        try:
            self.sweep.folder.mkdir(parents=True, exist_ok=True)
            with lock.held(self.sweep.folder):
                plans = [self.plan(number, list(own)) for number, own in enumerate(job_overrides, initial_job_idx)]
                if all(plan.task is Task.plan for plan in plans):
                    say_costs(plans)
                    return [plan.told for plan in plans]
                share_references(plans, self.sweep.folder / "baselines", everywhere=self.open)
                self.sweep.jobs += [plan.job for plan in plans]
                self.sweep.write()
                common = frozenset(self.config.hydra.overrides.task)
                if not self.open:
                    log.info("%d job%s, each in a process of its own", len(plans), "s" * (len(plans) > 1))
                    common = frozenset.intersection(*(frozenset(plan.job.overrides) for plan in plans))
                for plan in plans if len(plans) > 1 or self.open else ():
                    plan.common = common
                self.carry_out(plans)
        except UserError:
            if self.content is not None:
                self.former.write_bytes(self.content)
            raise
        return [plan.told for plan in plans]

    def plan(self, number: int, overrides: list[str]) -> Planned:
        """How a job is to run.

        Raises:
            UserError: its folder holds a run of other settings.
        """
        cfg = self.loader.load_sweep_config(self.config, overrides)
        with open_dict(cfg):
            cfg.hydra.job.id, cfg.hydra.job.num = str(number), number
        HydraConfig.instance().set_config(cfg)  # what ${hydra:...} stands for
        settings = copy.deepcopy(cfg)
        with read_write(settings), open_dict(settings):
            del settings["hydra"]
        config = fault = images = reference = None
        folder = Path(str(cfg.hydra.sweep.dir), str(cfg.hydra.sweep.subdir)).absolute()
        job = Job(number, [text for text in overrides if not self.is_of_the_sweep(text)], str(folder))
        try:
            config = typed(settings)
        except UserError as error:
            fault = str(error)
        else:
            if config.task is Task.resume:
                job.folder = str(config.run)
            if config.task is Task.train and config.trainer.baselines == AUTO:
                reference = of_reference(config)
            if config.task is Task.train and config.resume is not None and (run := completed_run(folder, config)):
                job.status, job.exit_code = COMPLETED, 0
                if run.images and not isinstance(config.dataset, ShapesConfig | FakeConfig):  # which settings determine
                    images = repr(config.dataset), run.images
        job.seconds = self.seconds.get(job.folder, 0.0)
        told = JobReturn(overrides=job.overrides, cfg=settings, hydra_cfg=cfg, working_dir=str(Path.cwd()))
        told.status = JobStatus.COMPLETED  # also of a job that failed: the others run
        arguments = self.arguments(job, folder, resume=cfg.resume is not None)
        own_log = Path(job.folder, f"{cfg.hydra.job.name}.log")
        return Planned(job, arguments, own_log, cfg.task, config, fault, reference, images, told)

    def is_of_the_sweep(self, override: str) -> bool:
        key = parsed(override).key_or_group
        return key.startswith(OF_THE_SWEEP) or key in self.jobs.implied

    def arguments(self, job: Job, folder: Path, resume: bool) -> list[str]:
        """Those of the command that carries out one job as this one would."""
        flags = [text for text in sys.argv[1:] if text.startswith("-") or not ("=" in text or text.startswith("~"))]
        ours = [text for text in self.config.hydra.overrides.hydra if not self.is_of_the_sweep(text)]
        return [
            *(flag for flag in flags if flag not in SWEEP_FLAGS),
            *ours,
            *map(repeated, job.overrides),
            *(["resume=auto"] if resume else []),
            *(f"hydra.job.num={job.number}", f"hydra.job.id={job.number}", f"hydra.run.dir={quoted(str(folder))}"),
        ]

    def carry_out(self, plans: Sequence[Planned]) -> None:
        """Run jobs to their ends, but those that are complete, and keep what became of each.

        Raises:
            BrokenPipeError: their output was no longer read.
            FailedFast: one was not completed, and the others are to wait.
            KeyboardInterrupt: a signal stopped those that ran.
        """
        waiting, running, failed = list(plans), list[Running](), False
        alone = any(plan.task not in TO_COMPLETE for plan in plans)  # what they print is their result
        most = 1 if alone and self.prints else self.at_once(len(plans))
        quiet = most > 1 or not self.prints
        if quiet:
            how = f"{most} at a time" if self.here else "handed over"
            log.info("%s; what they print is in %s", how, self.sweep.folder / "JOB" / plans[0].log.name)
        if most > 1 and self.here:
            divide_threads(plans, most)

        def hand_on(number: int) -> None:
            for one in running:
                one.child.signal(number)

        try:
            with handed_on(hand_on) as came, paused_together(hand_on):
                while running or (waiting and not came and not failed):
                    while waiting and len(running) < most and not (came or failed):
                        plan = waiting.pop(next_of(waiting, [one.plan for one in running]))
                        if plan.job.status == COMPLETED and plan.images in self.compared:
                            log.info("%s: is complete", plan.label)
                            self.tell(plan)
                            continue
                        slot = min(set(range(most)) - {one.slot for one in running})
                        running.append(Running(plan, self.child(), slot))
                        self.begin(running[-1], quiet)
                    ended = [one for one in running if one.child.code() is not None]
                    for one in ended:
                        running.remove(one)
                        self.end(one, came, quiet)
                        failed |= self.config.sweep.fail_fast and one.plan.job.status != COMPLETED
                    if not ended:
                        time.sleep(LOOK_EVERY)
        finally:
            for one in running:
                one.child.stop()
        if failed:
            raise FailedFast

    def begin(self, one: Running, quiet: bool) -> None:
        """Start a job. The first complete one of all with the same images is run, too: it has nothing left to do but to
        look at them."""
        plan = one.plan
        log.info("%s", plan.label)
        plan.log.parent.mkdir(parents=True, exist_ok=True)
        plan.log.touch()  # what was there before a job stays, even if this ends before it has made anything
        one.log_size = plan.log.stat().st_size
        environment = {"HYDRA_FULL_ERROR": str(int(self.jobs.full_error))}
        devices = [device for device in os.environ.get(DEVICES, "").split(",") if device]
        if quiet and self.here and len(devices) > 1:
            environment[DEVICES] = devices[one.slot % len(devices)]
        plan.job.status = RUNNING
        self.sweep.write()
        one.child.start(plan.arguments, environment, quiet)

    def end(self, one: Running, came: Sequence[int], quiet: bool) -> None:
        """Keep what became of a job whose process has ended.

        Raises:
            BrokenPipeError: its output was no longer read.
        """
        plan, job, code = one.plan, one.plan.job, one.child.code()
        assert code is not None, "it has ended"
        complete = plan.task not in TO_COMPLETE or finals(Path(job.folder)) is not None
        job.status, job.reason = outcome(code, came, complete, written_since(plan.log, one.log_size))
        if plan.fault and code == USAGE:
            job.reason = plan.fault
        if job.status == FAILED and one.child.lost:
            job.reason = one.child.lost
        took = time.monotonic() - one.started
        job.exit_code, job.seconds = code, round(job.seconds + took, 3)
        self.sweep.write()
        if code == BROKEN_PIPE:
            raise BrokenPipeError
        if job.status == COMPLETED:
            self.compared.add(plan.images)
        if quiet:
            why = f": {job.reason}, see {plan.log}" if job.reason else ""
            log.info("%s: %s after %.0f s%s", plan.label, job.status, took, why)
        self.tell(plan)

    def tell(self, plan: Planned) -> None:
        """Tell the sweeper what a job found."""
        asked = self.config.sweep.objectives
        plan.told.return_value = objective(Path(plan.job.folder), asked) if plan.job.status == COMPLETED else None


def next_of(waiting: Sequence[Planned], running: Sequence[Planned]) -> int:
    """Which of the waiting jobs to begin: the first one whose reference arm is not in training, if there is one."""
    trained = {plan.reference for plan in running if plan.reference is not None}
    return next((at for at, plan in enumerate(waiting) if plan.reference not in trained), 0)


def divide_threads(plans: Sequence[Planned], jobs: int) -> None:
    """Let jobs that run at the same time share the CPUs, where nobody said how many threads they have."""
    from camtrain.device import cpus

    for plan in plans:
        if plan.config is not None and plan.config.trainer.threads is None:
            processes = jobs * (plan.config.trainer.processes or 1)
            plan.arguments.append(f"trainer.threads={max(1, cpus() // processes)}")


def say_costs(plans: Sequence[Planned]) -> None:
    """Print what the jobs would cost together.

    Raises:
        UserError: a job's settings are at fault.
    """
    from camtrain.tasks.plan import plan_sweep

    fault = next((plan.fault for plan in plans if plan.fault), None)
    if fault is not None:
        raise UserError(fault)
    print(plan_sweep([(plan.job.overrides, plan.config) for plan in plans if plan.config is not None]), flush=True)


def share_references(plans: Sequence[Planned], folder: Path, everywhere: bool = False) -> None:
    """Let jobs whose reference arm another one has as well find it in a folder, or leave it there; or all of them."""
    known = [plan.reference for plan in plans]
    for plan in plans:
        if plan.reference is not None and (everywhere or known.count(plan.reference) > 1):
            plan.arguments.append(f"trainer.baselines={quoted(str(folder))}")


def written_since(path: Path, size: int) -> str:
    """What a file holds behind so many bytes; nothing if it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_bytes()[size:].decode(errors="backslashreplace")
    return ""
