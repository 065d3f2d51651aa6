"""`task=resume` and `resume=auto`: a run that broke off goes on."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from camtrain.config.schema import Config
from camtrain.config.validate import MAY_CHANGE, check
from camtrain.distributed.environment import world_size
from camtrain.errors import UserError
from camtrain.runs import load
from camtrain.runs.facts import fingerprint
from camtrain.runs.result import NAME, RunResult
from camtrain.runs.search import COMPLETED
from camtrain.runs.settings import changes, check_same, in_words
from camtrain.tasks.train import check_images, images_of, train

log = logging.getLogger("camtrain")

LONGER = "trainer.epochs"
"""May be raised by `task=resume` alone."""


def resume_run(config: Config, folder: Path, chosen: Collection[str]) -> RunResult:
    """Go on with the run in a folder, by its own configuration.

    Args:
        config: checked; of it those keys count that the user set.
        folder: of the run.
        chosen: keys that the user set, each of which may change.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: no run is there, or what is there is not one that can go on.
    """
    if not (folder / NAME).exists():
        raise UserError(f"{folder}: no run had begun here, there is no {NAME}; give the command of the run again")
    begun = load.begun(folder)
    load.check_own_code(begun.config, load.named(config, chosen), "model.name", "dataset.source")
    own = replace(begun.config, dataset=load.of_this_machine(begun.config.dataset, config.dataset))
    if world_size() is not None:  # torchrun says now how many processes there are
        own = replace(own, trainer=replace(own.trainer, processes=None))
    return go_on(with_choices(own, config, chosen), folder, begun, LONGER)


def resume_or_train(config: Config, folder: Path) -> RunResult:
    """Go on with the run in the folder, if it holds one of this configuration; else begin one.

    What it leaves does not say which of the two it was.

    Raises:
        UserError: as for :func:`resume_run`, and if it is of another configuration.
    """
    config = replace(config, resume=None)
    if not (folder / NAME).exists():
        return train(config, folder)
    return go_on(config, folder, load.begun(folder))


def with_choices(own: Config, config: Config, chosen: Collection[str]) -> Config:
    """A run's configuration with what the user set."""
    for key in chosen:
        section, _, name = key.rpartition(".")
        if section:
            part = getattr(own, section)
            if not hasattr(part, name):
                raise UserError(f"{key}: the run has dataset={own.dataset.name.value}, without this key")
            own = replace(own, **{section: replace(part, **{name: getattr(getattr(config, section), name)})})
    check(own)
    return own


def go_on(config: Config, folder: Path, begun: RunResult, *more: str) -> RunResult:
    """Train and measure what is left.

    Args:
        config: of the run, as it is to go on.
        folder: of the run.
        begun: what `result.json` says.
        more: keys that may change beside those of the machine.

    Raises:
        UserError: other settings changed, or it diverged.
    """
    different = changes(begun.config, config)
    longer = f" (task=resume may raise {LONGER})" if LONGER in different and LONGER not in more else ""
    check_same(folder, different, (*MAY_CHANGE, *more), longer)
    for key, values in different.items():
        log.warning("Note: %s", in_words(key, values))
    if LONGER in different:
        if float(different[LONGER][1]) < float(different[LONGER][0]):
            raise UserError(f"{LONGER}: the run has {different[LONGER][0]}; it may become longer, not shorter")
        log.warning(
            "Note: this is no longer the run that it was: schedules depend on the number of epochs, and those done went"
            " by the former one"
        )
    elif begun.status == COMPLETED:
        check_images(folder, begun, fingerprint(*images_of(config)))
        log.info("%s: the run is complete, nothing is left to do", folder)
        return begun
    return train(config, folder, begun)
