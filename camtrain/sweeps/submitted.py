"""Launchers on submitit: jobs of a sweep as jobs of SLURM, or, to try that, as processes under a time limit."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from camtrain.errors import CRASHED, UserError, first_line
from camtrain.importing import optional
from camtrain.interrupts import STOPPING
from camtrain.sweeps.elsewhere import Carried, ignored
from camtrain.sweeps.launcher import Processes
from camtrain.sweeps.process import Child

log = logging.getLogger("camtrain")

LOOK_EVERY, ASK_EVERY = 1.0, 30.0
"""Seconds between looks at whether a job of SLURM has left a result, and between questions whether it is known."""

BASE = (
    "name",
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "stderr_to_stdout",
)
"""Parameters that executors have in common; those of SLURM alone begin with its name."""


class Submitted(Child):
    """A job of an executor, which outlives this process."""

    def __init__(self, executor: Any, cluster: str) -> None:
        super().__init__()
        self.executor, self.local, self.name = executor, cluster == "local", f"hydra/launcher=submitit_{cluster}"
        self.job: Any = None
        self.ended: int | None = None  # its exit code
        self.stopped = False
        self.look = self.ask = 0.0  # when to look, and to ask, again
        self.missed = 0  # how often SLURM did not know it

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], quiet: bool = False) -> None:  # noqa: ARG002
        try:
            with ignored(*[signal.SIGINT] * self.local):  # of the terminal: it reaches the job through this process
                self.job = self.executor.submit(Carried(arguments, environment, str(Path.cwd())))
        except Exception as error:  # such as what sbatch says
            raise UserError(f"{self.name}: {first_line(error)}") from error
        while self.early:
            self.signal(self.early.pop(0))

    def signal(self, number: int) -> None:
        """Let the job write a checkpoint and end."""
        if self.job is None:
            self.early.append(number)
        elif number in STOPPING:
            self.stop()

    def code(self) -> int | None:
        if self.ended is None and (self.job.done() if self.local else self.gone()):
            self.ended = self.result()
        return self.ended

    def result(self) -> int:
        """Exit code of a job that has ended."""
        if self.job.paths.result_pickle.exists():  # else submitit waits for it for half a minute
            try:
                code: int = self.job.result()
                return code
            except Exception:
                log.debug("no result", exc_info=True)
        self.lost = f"ended without a result ({self.job.paths.stderr})"
        return CRASHED

    def gone(self) -> bool:
        """Whether a job of SLURM has left a result, or is no longer known. SLURM's accounting, by which submitit tells,
        is not everywhere."""
        now, result = time.monotonic(), self.job.paths.result_pickle
        if now < self.look:
            return False
        self.look = now + LOOK_EVERY
        if result.name in os.listdir(result.parent):  # noqa: PTH208 - which a network file system does not answer from memory
            return True
        if now >= self.ask:
            self.ask = now + (LOOK_EVERY if self.stopped else ASK_EVERY)
            self.missed = 0 if in_queue(self.job.job_id) else self.missed + 1
        return self.missed > 1  # its result may be on its way the first time

    def stop(self) -> None:
        """Ask for its end, without waiting: it may be far down in a queue."""
        if self.job is None:
            return
        self.stopped, self.ask = True, 0.0
        if self.local:  # cancel() leaves it one second only
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.job.job_id), signal.SIGTERM)
        else:
            self.job.cancel(check=False)


def in_queue(job: str) -> bool:
    """Whether SLURM knows a job that has not ended."""
    told = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True, check=False)
    return bool(told.stdout.strip()) or (told.returncode != 0 and "Invalid job id" not in told.stderr)


class Submitit(Processes):
    """Hands jobs over to an executor of submitit, one by one, and waits for what became of each."""

    prints = False

    def __init__(self, cluster: str, submitit_folder: str, max_num_timeout: int, **parameters: Any) -> None:
        self.cluster, self.max_num_timeout = cluster, max_num_timeout
        self.submitit_folder, self.parameters = submitit_folder, parameters
        self.here = cluster == "local"

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the executor.

        Raises:
            UserError: submitit or the batch system is not installed, or it does not know a parameter.
        """
        launcher = f"hydra/launcher=submitit_{self.cluster}"
        submitit = optional("submitit", launcher, extra="slurm")
        given = {
            key: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
            for key, value in self.parameters.items()
            if value is not None
        }
        try:
            if self.here:
                self.executor = submitit.LocalExecutor(self.submitit_folder, self.max_num_timeout)
            else:
                self.executor = submitit.AutoExecutor(
                    self.submitit_folder, "slurm", slurm_max_num_timeout=self.max_num_timeout
                )
                given = {key if key in BASE else f"slurm_{key}": value for key, value in given.items()}
            self.executor.update_parameters(**given)
        except Exception as error:
            raise UserError(f"{launcher}: {first_line(error)}") from error
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def at_once(self, jobs: int) -> int:
        """All, where a queue decides."""
        return super().at_once(jobs) if self.here else jobs

    def child(self) -> Child:
        return Submitted(self.executor, self.cluster)
