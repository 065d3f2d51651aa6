"""`task=evaluate`: a finished run measured again, on its own or another data set, without training."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from camtrain.cam.stretch import Placement
from camtrain.cam.targets import is_multilabel
from camtrain.config.schema import Config, FakeConfig, ShapesConfig
from camtrain.config.validate import image_shape
from camtrain.data.batches import one_batch
from camtrain.data.build import validation
from camtrain.data.images import ImageSet, relabelled
from camtrain.device import prepare_device, worker_threads
from camtrain.errors import UserError
from camtrain.networks.classifier import Classifier
from camtrain.networks.geometry import LOOKED_AT
from camtrain.networks.layers import run_once
from camtrain.runs.facts import data_facts_of_evaluation, data_name, environment
from camtrain.runs.facts import title as run_title
from camtrain.runs.load import TRAIN_AGAIN, Finished, check_own_code, named, networks, of_this_machine, read
from camtrain.runs.result import ArmResult, RunResult, Timing, check_unused
from camtrain.tasks import session
from camtrain.tasks.session import RunRecord
from camtrain.training.checks import check_maps

log = logging.getLogger("camtrain")


def evaluate_run(config: Config, folder: Path, chosen: Collection[str]) -> RunResult:
    """Measure every arm of a finished run, and leave what a run leaves, but for curves and weights.

    Args:
        config: checked; of it `run`, `evaluate`, `report` and the machine's part count, `dataset` if it was chosen, and
            `seed`, which the choice of images (and generated ones) depend on, if it was.
        folder: where the files go; exists.
        chosen: keys that the user set.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: the run or its weights cannot be used, or the data set does not fit its classes, or its images the
            network. Nothing was written then but the log.
        Diverged: weights, logits or maps are not finite.
    """
    assert config.run is not None
    device = prepare_device(config.trainer)
    finished = read(Path(config.run))
    check_own_code(finished.config, named(config, chosen), "model.name")
    own = combined(config, finished, chosen)
    if "dataset" not in chosen:
        check_own_code(own, named(config, chosen), "dataset.source")
    trained = networks(finished, device)
    run_once(next(iter(trained.values())).backbone, image_shape(own.dataset))
    check_maps(own.evaluate.maps, next(iter(trained.values())).routes, finished.result.model.layer)
    val_set = fitting(own, finished)
    finished.result.model.cells = place_alike(trained, val_set, device)
    check_unused(folder)
    record = RunRecord(folder, first_result(finished, own, val_set, device), {name: {} for name in trained})
    log.info("%-9s %s, trained on %s", "run", finished.folder, finished.result.data.name)
    context = session.evaluation_context(own, trained, val_set, device)
    heading = title(own, record.result.seed)
    return session.measure_untrained(record, context, val_set, heading, str(finished.folder), TRAIN_AGAIN)


def place_alike(networks: Mapping[str, Classifier], images: ImageSet, device: torch.device) -> Placement:
    """Let the cells of all arms lie where those of the first one do, and say where."""
    batch = one_batch(images, list(range(min(LOOKED_AT, len(images.targets)))), device)
    cells = next(iter(networks.values())).cells(batch.images)
    for network in networks.values():
        network.place((batch.images.shape[2], batch.images.shape[3]), cells)
    return cells


def title(config: Config, trained_seed: int) -> str:
    """Of the report: the network by the seed of its training, the images by theirs if it is another one."""
    drawn = f" on images of seed {config.seed}" if config.seed != trained_seed else ""
    return f"{run_title(config.dataset, config.model.name, trained_seed)}, measured again{drawn}"


def combined(config: Config, finished: Finished, chosen: Collection[str]) -> Config:
    """The run's configuration with what was asked for on the command line; settings of the data set alone are changes
    of the run's own.

    Raises:
        UserError: images of other channels than the run's networks take, or a key that its data set does not have.
    """
    theirs = finished.config
    dataset = of_this_machine(theirs.dataset, config.dataset)
    settings = {key.split(".")[1] for key in chosen if key.startswith("dataset.")}
    if "dataset" in chosen:
        kept = {"image_size", "fit", "channels"} - settings
        dataset = replace(config.dataset, **{name: getattr(dataset, name) for name in kept})
    else:
        changes = {name: getattr(config.dataset, name) for name in settings}
        for name, value in changes.items():
            own = getattr(dataset, name, config)  # None is a value
            if own is config:
                raise UserError(f"dataset.{name}: {finished.folder} has dataset={dataset.name.value}, without this key")
            changes[name] = {**own, **value} if isinstance(own, dict) else value
        dataset = replace(dataset, **changes)
    if dataset.channels != theirs.dataset.channels:
        raise UserError(f"dataset.channels={dataset.channels}: the run's networks take {theirs.dataset.channels}")
    if isinstance(dataset, ShapesConfig | FakeConfig) and type(dataset) is type(theirs.dataset):
        # Nothing is trained on here: what the run was trained on stays on record.
        dataset = replace(dataset, train=theirs.dataset.train)
    span = finished.result.data.intensity_range
    if dataset.intensity_range is None and span is not None:
        dataset = replace(dataset, intensity_range=list(span))
    trainer = replace(
        theirs.trainer,
        batch_size=config.trainer.batch_size if "trainer.batch_size" in chosen else theirs.trainer.batch_size,
        device=config.trainer.device,
        threads=config.trainer.threads,
        workers=config.trainer.workers,
    )
    return replace(
        theirs,
        dataset=dataset,
        trainer=trainer,
        evaluate=config.evaluate,
        report=config.report,
        seed=config.seed if "seed" in chosen else theirs.seed,
        task=config.task,
        run=str(finished.folder),
    )


def fitting(config: Config, finished: Finished) -> ImageSet:
    """Validation images with the class numbers of a run's networks.

    Raises:
        UserError: they cannot be read, or their classes are not the run's; then nothing was decoded.
    """
    check = partial(check_classes, finished=finished)
    images = validation(config.dataset, config.seed, worker_threads(config.trainer), check)
    return relabelled(images, finished.result.data.classes)


def check_classes(classes: Sequence[str], targets: Tensor, finished: Finished) -> None:
    """Refuse a data set whose classes the run's networks cannot tell.

    Raises:
        UserError: they have a class that the networks do not know, or one class per image where those know several,
            or the other way round.
    """
    several, names = is_multilabel(targets), finished.result.data.classes
    if several != finished.result.data.multilabel:
        words = ("one class per image", "several classes per image")
        raise UserError(f"dataset: it has {words[several]}, the run was trained with {words[not several]}")
    unknown = [name for name in classes if name not in names]
    if unknown:
        known = ", ".join(names[:20]) + (" and more" if len(names) > 20 else "")
        raise UserError(f"dataset: the run does not know the class {unknown[0]}; it knows {known}")
    if several and list(classes) != names:
        raise UserError("dataset: with several classes per image it needs the run's classes in the run's order")


def first_result(finished: Finished, config: Config, val_set: ImageSet, device: torch.device) -> RunResult:
    """What `result.json` says before anything was measured: the run's word on the network, data and machine anew."""
    theirs = finished.result
    return replace(
        theirs,
        status="running",
        config=config,
        arms={name: ArmResult([]) for name in theirs.arms},
        data=data_facts_of_evaluation(data_name(config.dataset), theirs.data.classes, val_set),
        environment=environment(device, config.trainer),
        timing=Timing(0.0),
        trained_seed=theirs.seed,
        controls={},
        controls_area={},
        by_size=None,
        faithfulness_images=None,
        sanity=None,
        gallery=None,
        gallery_by=None,
    )
