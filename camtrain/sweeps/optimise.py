"""Hydra's sweeper on Optuna: a job for each trial, in batches of `sweep.jobs`, by the figures of those before."""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from camtrain.config.options import Objective, Task
from camtrain.errors import MachineError, UserError, first_line
from camtrain.importing import optional

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

log = logging.getLogger("camtrain")

STORAGE = "optuna.db"
"""In the folder of the sweep: the study, which goes on from there."""


class Optuna(Sweeper):
    """Searches intervals and choices of settings for the best figures, or for the Pareto front of several."""

    def __init__(self, n_trials: int, sampler: str, seed: int) -> None:
        self.n_trials, self.sampler, self.seed = n_trials, sampler, seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.optuna = optional("optuna", "hydra/sweeper=optuna", extra="optuna")
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        self.check()
        if config.task is Task.plan:
            raise UserError("task=plan: which jobs a search has is not known before; plan one of them, without -m")
        self.parser = OverridesParser.create(hydra_context.config_loader)
        self.jobs, self.multirun, self.folder = config.sweep.jobs, config, Path(str(config.hydra.sweep.dir)).absolute()
        self.objectives: list[Objective] = list(config.sweep.objectives)
        self.carrier = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def check(self) -> None:
        """Raise :class:`UserError` for what no search can be made with: Hydra knows no types of a sweeper's keys."""
        if type(self.n_trials) is not int or self.n_trials < 1:
            raise UserError(f"hydra.sweeper.n_trials={self.n_trials}: give a whole number from 1 on")
        if type(self.seed) is not int or self.seed < 0:
            raise UserError(f"hydra.sweeper.seed={self.seed}: give a whole number from 0 on")
        if not hasattr(self.optuna.samplers, str(self.sampler)):
            raise UserError(f"hydra.sweeper.sampler={self.sampler}: no such class in optuna.samplers")
        with self.of_sampler():
            self.sampler_of(0)

    def sampler_of(self, trial: int) -> BaseSampler:
        made: BaseSampler = getattr(self.optuna.samplers, self.sampler)(seed=self.seed + trial)
        return made

    @contextlib.contextmanager
    def of_sampler(self) -> Iterator[None]:
        """Report what a sampler refuses: to be made of a seed alone, these settings or objectives; or that it lacks."""
        try:
            yield
        except (TypeError, ValueError, ImportError, RuntimeError) as error:
            raise UserError(f"hydra.sweeper.sampler={self.sampler}: {first_line(error)}; choose another one") from error

    def sweep(self, arguments: list[str]) -> None:
        """Carry out trials until there are as many as were asked for.

        Those that an earlier command has begun come first, each under its own number: the launcher leaves out what is
        complete. A trial that was not completed stays open for the next command.

        Raises:
            UserError: nothing is to be searched, the study in the folder is one of something else, or the sampler
                cannot search this.
            MachineError: the study cannot be read or written any more.
        """
        overrides = self.parser.parse_overrides(arguments)
        space = {one.get_key_element(): distribution(one) for one in overrides if one.is_sweep_override()}
        if not space:
            raise UserError("hydra/sweeper=optuna: nothing to search; give a setting as 'KEY=interval(LOW,HIGH)'")
        fixed = [
            f"{one.get_key_element()}={one.get_value_element_as_str()}"
            for one in overrides
            if not one.is_sweep_override()
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        with of_storage(self.folder / STORAGE):
            self.search(space, fixed)

    def search(self, space: Mapping[str, BaseDistribution], fixed: Sequence[str]) -> None:
        """Carry out trials; `fixed` are settings of all."""
        study = self.study(space)
        OmegaConf.save(self.multirun, self.folder / "multirun.yaml")
        trials = [self.whole(study, trial, space) for trial in study.trials]
        while trials or len(study.trials) < self.n_trials:
            more = min(self.jobs, self.n_trials - len(study.trials))
            trials = trials or [self.ask(study, space) for _ in range(more)]
            jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
            returns = self.carrier.launch(jobs, initial_job_idx=trials[0].number)
            for trial, told in zip(trials, returns, strict=True):
                self.tell(study, trial, told.return_value)
            trials = []
        self.say(study)

    def study(self, space: Mapping[str, BaseDistribution]) -> Study:
        """The study in the folder of the sweep, new or of before.

        Raises:
            UserError: one of before is of other objectives, or of other settings or values of these.
        """
        asked = {
            "objectives": ", ".join(one.value for one in self.objectives),
            **{key: str(one) for key, one in space.items()},
        }
        try:
            study: Study = self.optuna.create_study(
                storage=f"sqlite:///{self.folder / STORAGE}",
                study_name="camtrain",
                directions=["maximize"] * len(self.objectives),
                load_if_exists=True,
            )
        except Exception as error:  # of whichever library below
            raise UserError(f"{self.folder / STORAGE}: {first_line(error)}; choose another folder") from error
        before = study.user_attrs.get("asked", asked)
        for key in dict.fromkeys([*before, *asked]):
            if before.get(key) != asked.get(key):
                raise UserError(
                    f"{self.folder}: a search goes on with its own settings; {key} was {before.get(key)}, is"
                    f" {asked.get(key)}"
                )
        study.set_user_attr("asked", asked)
        return study

    def ask(self, study: Study, space: Mapping[str, BaseDistribution]) -> Trial:
        """A new trial. What it is depends on the seed, its number and what was told, not on interruptions."""
        number = len(study.trials)
        with self.of_sampler():
            study.sampler = self.sampler_of(number)
            return study.ask(dict(space))

    def whole(self, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> FrozenTrial | Trial:
        """A trial of before, with what it lacks if the command broke off while it was made."""
        if space.keys() <= trial.params.keys():
            return trial
        found: Trial = self.optuna.trial.Trial(study, trial._trial_id)
        for key, one in space.items():
            found._suggest(key, one)
        return found

    def tell(self, study: Study, trial: FrozenTrial | Trial, told: Any) -> None:
        """Keep the figures of a trial, unless they are known; one without any stays open."""
        state = study.trials[trial.number].state
        if told is None or state.is_finished():
            return
        values = told if isinstance(told, list) else [told]
        if all(map(math.isfinite, values)):
            study.tell(trial.number, values)
        else:
            log.warning("Note: #%d: %s is not defined; the search goes on without it", trial.number, self.named(values))
            study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)

    def named(self, values: Sequence[float]) -> str:
        return ", ".join(f"{one.value} {value:.4g}" for one, value in zip(self.objectives, values, strict=True))

    def say(self, study: Study) -> None:
        """Print the best trial, or those that none other beats in all objectives."""
        best = study.best_trials
        names = " and ".join(one.value for one in self.objectives)
        log.info("%d of %d trials that none other beats in %s", len(best), len(study.trials), names)
        for trial in best:
            settings = " ".join(f"{key}={value}" for key, value in trial.params.items())
            log.info("#%d: %s: %s", trial.number, self.named(trial.values), settings)


@contextlib.contextmanager
def of_storage(file: Path) -> Iterator[None]:
    """Report what SQLite says, below the libraries in between, in one line, such as of a full disk.

    Raises:
        MachineError: the file cannot be read or written.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        root: BaseException = error
        while root.__cause__:
            root = root.__cause__
        if not isinstance(root, sqlite3.Error):
            raise
        raise MachineError(f"{file}: {first_line(root)}; mend that and give the same command again") from error


def distribution(override: Override) -> BaseDistribution:
    """What Optuna is to choose from, for a setting with an interval, a range or several values.

    Raises:
        UserError: it cannot be searched, such as an interval on a logarithmic scale from 0.
    """
    from optuna.distributions import CategoricalDistribution

    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            ends = value.start, value.end
            return _kind(ends)(*ends, log="log" in value.tags)
        if isinstance(value, RangeSweep):
            steps = list(value.range())
            return _kind(steps)(min(steps), max(steps), step=abs(value.step))
    except ValueError as error:
        raise UserError(f"{override.input_line}: {first_line(error)}") from error
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _kind(values: Iterable[object]) -> Callable[..., BaseDistribution]:
    """Of whole numbers, or of others."""
    from optuna.distributions import FloatDistribution, IntDistribution

    return IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
