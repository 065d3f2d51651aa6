"""The launcher on Ray: jobs of a sweep on a cluster, or on this machine with several on one GPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from camtrain.errors import CRASHED, UserError, first_line
from camtrain.importing import optional
from camtrain.interrupts import STOPPING
from camtrain.sweeps.elsewhere import Carried
from camtrain.sweeps.launcher import Processes
from camtrain.sweeps.process import Child


def carry_out(job: Carried) -> int:
    """What a worker of Ray calls."""
    return job()


class Task(Child):
    """A task of Ray, which ends with this process."""

    def __init__(self, ray: Any, function: Any) -> None:
        super().__init__()
        self.ray, self.function = ray, function
        self.found: Any = None  # once it is handed over, a reference to its exit code

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], quiet: bool = False) -> None:  # noqa: ARG002
        self.found = self.function.remote(Carried(arguments, environment, str(Path.cwd())))
        while self.early:
            self.signal(self.early.pop(0))

    def signal(self, number: int) -> None:
        """Let the job write a checkpoint and end."""
        if self.found is None:
            self.early.append(number)
        elif number in STOPPING:
            self.ray.cancel(self.found)

    def code(self) -> int | None:
        ready, _ = self.ray.wait([self.found], timeout=0)
        if not ready:
            return None
        try:
            code: int = self.ray.get(self.found)
        except Exception as error:  # its worker or its machine is gone, or it was taken from the queue
            self.lost = first_line(error)
            return CRASHED
        return code

    def stop(self) -> None:
        if self.found is not None:
            self.ray.cancel(self.found)
            self.ray.wait([self.found])


class Ray(Processes):
    """Hands all jobs over to Ray, which runs as many at the same time as there are resources for."""

    here = prints = False

    def __init__(self, ray: DictConfig) -> None:
        self.given: Any = OmegaConf.to_container(ray, resolve=True)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.ray = optional("ray", "hydra/launcher=ray", extra="ray")
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """As :meth:`Processes.launch`.

        Raises:
            UserError: also where Ray does not start, or does not know a setting.
        """
        try:
            if not self.ray.is_initialized():
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                former = {number: signal.getsignal(number) for number in STOPPING}
                self.ray.init(**self.given["init"])
                for number, handler in former.items():  # Ray has others, which know nothing of jobs
                    signal.signal(number, handler)
            # What became of a job decides whether it goes on, not whether its worker is alive.
            self.function = self.ray.remote(max_retries=0, **self.given["remote"])(carry_out)
        except Exception as error:
            raise UserError(f"hydra/launcher=ray: {first_line(error)}") from error
        return super().launch(job_overrides, initial_job_idx)

    def at_once(self, jobs: int) -> int:
        return jobs

    def child(self) -> Child:
        return Task(self.ray, self.function)
