"""`task=compare`: any two networks on the same images, or one by itself, without training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from camtrain.cam.head import LINEAR_HEAD
from camtrain.cam.routes import GradientRoute
from camtrain.cam.stretch import Placement
from camtrain.cam.targets import is_multilabel
from camtrain.config.options import CamConfig, CamVariant, ViewKind
from camtrain.config.schema import Config, NetworkConfig
from camtrain.config.validate import image_shape
from camtrain.data.batches import one_batch
from camtrain.data.build import validation
from camtrain.data.images import ImageSet, relabelled
from camtrain.device import prepare_device, worker_threads
from camtrain.errors import UserError
from camtrain.networks.class_map import by_map, by_name, in_words, read_map
from camtrain.networks.geometry import LOOKED_AT
from camtrain.networks.layers import size_text
from camtrain.runs.facts import data_facts_of_evaluation, data_name, environment
from camtrain.runs.load import Finished, check_own_code, named
from camtrain.runs.result import ArmResult, NetworkFacts, RunResult, Timing, check_unused
from camtrain.tasks import session
from camtrain.tasks.brought import Brought, facts_of, of_name, of_run, run_of
from camtrain.tasks.evaluate import combined
from camtrain.tasks.session import RunRecord
from camtrain.training.checks import check_maps

REFERENCE, TREATMENT = "reference", "treatment"
"""The arms of a comparison, and the sections of the configuration that say which networks they are."""

SAME_PLACE = 0.05
"""Pixels by which the cells of two maps may lie apart and still be the same cells."""


def compare(config: Config, folder: Path, chosen: Collection[str]) -> RunResult:
    """Measure two networks, or one, and leave what a run leaves, but for curves and weights.

    Both see the same images, at one size and crop. Their classes are those that both know, or the data set's, see
    :func:`agree`; their maps are measured in the same cells, see :func:`lay_out`.

    Args:
        config: checked; of it `reference`, `treatment`, `dataset`, `evaluate`, `report`, `seed` and the machine's part
            count. What was not chosen is that of the first network's run, if it is of one.
        folder: where the files go; exists.
        chosen: keys that the user set.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: a network, its weights or its classes cannot be used, or the images. Nothing was written then but the
            log.
        Diverged: weights, logits or maps are not finite.
    """
    device = prepare_device(config.trainer)
    nodes = {REFERENCE: config.reference, TREATMENT: config.treatment}
    nodes = {key: node for key, node in nodes.items() if node.network}
    runs = {key: run_of(key, node) for key, node in nodes.items()}
    for run in filter(None, runs.values()):
        check_own_code(run.config, named(config, chosen), "model.name")
    own = settled(config, runs, chosen)
    if "dataset" not in chosen:
        check_own_code(own, named(config, chosen), "dataset.source")
    brought: dict[str, Brought] = {}
    names: list[str] = []

    def bring(classes: Sequence[str], targets: Tensor) -> None:
        several = is_multilabel(targets)
        for key, node in nodes.items():
            run = runs[key]
            check_several(key, run, several)
            if run is None:
                brought[key] = of_name(key, node, own, classes, several, device)
            else:
                brought[key] = of_run(key, node, run, own, device)
        names.extend(agree(brought, nodes, classes, several))

    # The networks come first: nothing is decoded for those that do not fit.
    val_set = relabelled(validation(own.dataset, own.seed, worker_threads(own.trainer), bring), names)
    images = one_batch(val_set, list(range(min(LOOKED_AT, len(val_set.targets)))), device).images
    facts = {key: facts_of(one, images) for key, one in brought.items()}
    for one in brought.values():
        check_maps(own.evaluate.maps, one.network.routes, one.network.layer)
        check_own_map(one)
    lay_out(brought, facts, images)
    own.model = next(iter(brought.values())).model
    own.arms = {key: {"cam": {"variant": one.method.value}} for key, one in brought.items()}
    check_unused(folder)
    record = RunRecord(folder, first_result(own, facts, names, val_set, device), {name: {} for name in brought})
    networks = {key: one.network for key, one in brought.items()}
    context = session.evaluation_context(own, networks, val_set, device, fresh=lambda name: brought[name].untrained())
    heading = f"{data_name(own.dataset)}: {' and '.join(one.given.short() for one in brought.values())}"
    whose = " and ".join(one.label for one in brought.values())
    return session.measure_untrained(record, context, val_set, heading, whose, "give other networks")


def settled(config: Config, runs: Mapping[str, Finished | None], chosen: Collection[str]) -> Config:
    """The configuration of the comparison: the data set that was chosen, else that of the first run among the networks.

    Raises:
        UserError: no data set was chosen and there is no run, or the runs' networks see images of different sizes.
    """
    given = {key: run for key, run in runs.items() if run is not None}
    if given:
        first = next(iter(given.values()))
        own = combined(config, first, chosen)
        shapes = {key: image_shape(run.config.dataset) for key, run in given.items()}
        if len(set(shapes.values())) > 1 and "dataset.image_size" not in chosen:
            said = ", ".join(f"{key} at {size_text(shape[1:])}" for key, shape in shapes.items())
            raise UserError(f"dataset.image_size: the networks were trained at different sizes ({said}); choose one")
    elif "dataset" not in chosen:
        raise UserError(
            "dataset is not set: no network is of a run, whose images it could be; give dataset=NAME, or dataset=folder"
            " dataset.root=PATH"
        )
    else:
        own = config
    cam = CamConfig(views=ViewKind.none)
    return replace(
        own, cam=cam, run=None, reference=config.reference, treatment=config.treatment, trainer=replace(own.trainer)
    )


def check_several(key: str, run: Finished | None, several: bool) -> None:
    """Raise :class:`UserError` for a run whose images had several classes where these have one, or the other way
    round."""
    if run is not None and run.result.data.multilabel != several:
        words = ("one class per image", "several classes per image")
        raise UserError(f"dataset: it has {words[several]}, the run of {key} was trained with {words[not several]}")


def check_own_map(one: Brought) -> None:
    """Raise :class:`UserError` for a network that is to be measured by CAM where that is not defined."""
    if one.method is CamVariant.cam and one.network.routes.evaluation is not GradientRoute.closed:
        raise UserError(
            f"{one.key}.cam: cam needs {LINEAR_HEAD}, which is not what follows {one.network.layer} here; set"
            f" {one.key}.cam=gradcam"
        )


def agree(
    brought: Mapping[str, Brought], nodes: Mapping[str, NetworkConfig], classes: Sequence[str], several: bool
) -> list[str]:
    """Names of the classes that all networks are measured by, which they know from then on.

    If the outputs of all have the same names, among which are those of the data set, they are these. Else they are the
    data set's, and of each network the outputs that belong to them, by a file or by name; others are not asked.

    Raises:
        UserError: a class has no counterpart.
    """
    whole = [one.names for one in brought.values()]
    mapped = any(node.classes for node in nodes.values())
    if not mapped and all(names == whole[0] for names in whole) and set(classes) <= set(whole[0]):
        if several and list(classes) != whole[0]:
            raise UserError("dataset: with several classes per image it needs the networks' classes in their order")
        return whole[0]
    if several:
        raise UserError("dataset: with several classes per image the networks must have its classes in its order")
    for key, one in brought.items():
        path = nodes[key].classes
        if path is not None:
            where = f"{key}.classes={path}"
            groups = by_map(read_map(Path(path), f"{key}.classes"), classes, one.names, where)
        else:
            try:
                groups = by_name(classes, one.names, one.label)
            except UserError as error:
                raise UserError(
                    f"{error}; say by {key}.classes=FILE which of its classes are the data set's"
                ) from error
        if groups != [[number] for number in range(len(one.names))]:
            one.network.groups = groups
            one.classes = in_words(groups, classes, one.names)
    return list(classes)


def lay_out(brought: Mapping[str, Brought], facts: Mapping[str, NetworkFacts], images: Tensor) -> None:
    """Let the maps of all networks be measured in the same cells.

    Where the grids are alike and lie in the same place they are these. Else they are equal tiles of the image, as many
    in each direction as the finest grid has.
    """
    size = (images.shape[2], images.shape[3])
    grids = [one.model.grid for one in facts.values()]
    cells = [one.model.cells for one in facts.values()]
    first = cells[0]
    assert first is not None
    registered = all(one.network.registered for one in brought.values())
    alike = all(grid == grids[0] for grid in grids)
    if alike and (not registered or all(near(first, other) for other in cells if other is not None)):
        for one in brought.values():
            one.network.place(size, first)
        return
    for one in brought.values():
        one.network.grid = (max(rows for rows, _ in grids), max(columns for _, columns in grids))


def near(first: Placement, other: Placement) -> bool:
    """Whether cells lie in the same place."""
    return all(
        abs(one.first - another.first) < SAME_PLACE and abs(one.step - another.step) < SAME_PLACE / 10
        for one, another in zip(first, other, strict=True)
    )


def first_result(
    config: Config, facts: Mapping[str, NetworkFacts], names: Sequence[str], val_set: ImageSet, device: torch.device
) -> RunResult:
    """What `result.json` says before anything was measured."""
    return RunResult(
        status="running",
        config=config,
        arms={name: ArmResult([]) for name in facts},
        data=data_facts_of_evaluation(data_name(config.dataset), list(names), val_set),
        model=next(iter(facts.values())).model,
        learning_rate=0.0,
        cam_shares={},
        environment=environment(device, config.trainer),
        timing=Timing(0.0),
        networks=dict(facts),
    )
