"""Networks that a user brings to a comparison: an arm of a finished run, or one by name with weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.given import NO_WEIGHTS, Given
from camtrain.config.options import CamVariant, Score, Stem
from camtrain.config.schema import Config, ModelConfig, NetworkConfig
from camtrain.config.validate import image_shape
from camtrain.device import compute_dtype, memory_format
from camtrain.errors import Diverged, UserError
from camtrain.networks.build import Built, build, untrained
from camtrain.networks.capture import probe_routes
from camtrain.networks.class_map import imagenet_names
from camtrain.networks.classifier import Classifier
from camtrain.networks.layers import run_once
from camtrain.networks.weights import outputs_in_file
from camtrain.networks.zoo import OWN, published_outputs
from camtrain.runs.load import Finished, networks, read
from camtrain.runs.result import ModelFacts, NetworkFacts
from camtrain.streams import Stream, torch_seed

IMAGENET = 1000
"""Outputs of networks that are taken for ImageNet's classes where nothing else is said."""


@dataclass
class Brought:
    """A network and what is known of it before it sees an image."""

    key: str  # of the configuration: reference or treatment
    given: Given
    network: Classifier
    model: ModelConfig
    names: list[str]  # of its outputs
    method: CamVariant
    untrained: Callable[[], Mapping[str, Tensor]]  # state dict of an untrained network of its architecture
    finished: Finished | None = None  # its run
    stem: Sequence[str] = ()
    relu_left_out: str | None = None
    notes: Sequence[str] = ()  # what was assumed
    classes: dict[str, list[str]] | None = None  # its outputs that each class stands for; None: as they are

    def __post_init__(self) -> None:
        self.network.method = self.method

    @property
    def label(self) -> str:
        """Begins messages about it."""
        return f"{self.key}={self.given.text}"


def run_of(key: str, node: NetworkConfig) -> Finished | None:
    """The finished run that a network is an arm of; None if it is no run's.

    Raises:
        UserError: no finished run is there, or it has no such arm.
        Diverged: its networks' numbers are not finite.
    """
    given = Given.of(str(node.network))
    if given.run is None:
        return None
    try:
        finished = read(given.run)
    except UserError as error:
        if given.run.is_dir():
            raise
        raise UserError(
            f"{key}={given.text}: no such network; give RUN/ARM, NAME of torchvision, timm/NAME, or NAME@FILE"
        ) from error
    arms = [name for name in finished.result.arms if name not in finished.result.networks]
    if given.arm not in arms:
        said = f"it has no arm {given.arm}" if given.arm else "name one of its arms"
        if not arms:
            raise UserError(f"{key}={given.text}: networks were only compared here; give the run that trained them")
        raise UserError(f"{key}={given.text}: {said}: {', '.join(str(given.run / name) for name in arms)}")
    return finished


def of_run(key: str, node: NetworkConfig, finished: Finished, config: Config, device: torch.device) -> Brought:
    """An arm of a finished run as training left it.

    Args:
        key: of the configuration, for messages.
        node: its section.
        finished: the run.
        config: of the comparison.
        device: where it is put.

    Raises:
        UserError: weights are missing or damaged, or the run's network has no such layer, or cannot take images of
            this size.
        Diverged: they are not finite.
    """
    given, theirs = Given.of(str(node.network)), finished.config
    for name in ("mean", "std", "options"):
        if getattr(node, name):
            raise UserError(f"{key}.{name}: of an arm of a run it is the run's; leave it out")
    if node.layer is not None:
        model = replace(theirs.model, layer=node.layer)
        facts = replace(finished.result.model, cells=None)
        finished = replace(finished, result=replace(finished.result, config=replace(theirs, model=model), model=facts))
    data, model = finished.result.data, finished.config.model
    try:
        network = networks(finished, device, given.arm)[given.arm]
        run_once(network.backbone, image_shape(config.dataset))
    except Diverged:
        raise
    except UserError as error:
        raise by_key(error, key, given, model) from error
    network.registered = config.evaluate.registered
    return Brought(
        key,
        given,
        network,
        model,
        list(data.classes),
        node.cam or theirs.cam.variant,
        partial(_fresh, model, len(data.classes), config, data.multilabel),
        finished,
        finished.result.model.stem_strides_lowered,
        finished.result.model.relu_left_out,
    )


def of_name(
    key: str, node: NetworkConfig, config: Config, classes: Sequence[str], several: bool, device: torch.device
) -> Brought:
    """A network by name, with published weights, those of a file, or none.

    Its outputs are ImageNet's classes if there are 1000, else the data set's in their order if there are as many, else
    they have numbers only.

    Args:
        key: of the configuration, for messages.
        node: its section.
        config: of the comparison.
        classes: of the data set.
        several: its images may have several classes.
        device: where it is put.

    Raises:
        UserError: no such network, layer or weights, or they do not fit.
    """
    given = Given.of(str(node.network))
    model = model_of(given, node)
    try:
        outputs = outputs_of(model, config, len(classes))
        built = _built(model, outputs, config, several)
        run_once(built.classifier.backbone, image_shape(config.dataset))
    except UserError as error:
        raise by_key(error, key, given, model) from error
    if built.fresh is not None:
        raise UserError(f"{key}={given.text}: the file has no last layer, and so no classes; give a classifier's")
    network = built.classifier.to(device, memory_format=memory_format(config.trainer))  # type: ignore[call-overload]
    network.registered = config.evaluate.registered
    names, notes = names_of(outputs, classes)
    return Brought(
        key,
        given,
        network.eval(),
        model,
        names,
        node.cam or CamVariant.gradcam,
        partial(_fresh, model, outputs, config, several),
        stem=built.stem,
        relu_left_out=built.relu_left_out,
        notes=notes,
    )


def by_key(error: UserError, key: str, given: Given, model: ModelConfig) -> UserError:
    """What is wrong with a network, by the keys of a comparison."""
    reason = str(error).replace(", model.stem=auto", "")
    for beginning in (f"model.name={model.name}: ", f"model.weights={model.weights}: "):
        reason = reason.removeprefix(beginning)
    reason = re.sub(r"model\.(layer|mean|std|options)", rf"{key}.\1", reason)
    return UserError(f"{key}={given.text}: {reason}")


def model_of(given: Given, node: NetworkConfig) -> ModelConfig:
    """The settings of a network by name. Its strides stay as they are: it is not trained for others."""
    published = not (given.name in OWN or ":" in given.name)
    weights = given.weights if given.weights is not None else "DEFAULT" if published else None
    return ModelConfig(
        name=given.name,
        options=node.options,
        weights=None if weights == NO_WEIGHTS else weights,
        layer=node.layer,
        stem=Stem.keep,
        mean=node.mean,
        std=node.std,
    )


def outputs_of(model: ModelConfig, config: Config, classes: int) -> int:
    """How many outputs a network by name has: those of its weights; as many as there are classes, if it has none, or
    they do not say.

    Raises:
        UserError: there is no such network, or its file of weights cannot be read.
    """
    if model.weights is None:
        return classes
    shape = image_shape(config.dataset)
    if Path(model.weights).expanduser().exists():
        return outputs_in_file(model, shape) or classes
    return published_outputs(model) or classes


def names_of(outputs: int, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of a network's outputs, and what was assumed."""
    if outputs == len(classes):
        return list(classes), ["its outputs are taken for the data set's classes, in their order"]
    if outputs == IMAGENET:
        return imagenet_names(), ["its outputs are taken for ImageNet's classes"]
    return [str(number) for number in range(outputs)], [f"its {outputs} outputs have numbers, no names"]


def _built(model: ModelConfig, outputs: int, config: Config, several: bool) -> Built:
    shape, seed = image_shape(config.dataset), torch_seed(config.seed, Stream.weights)
    return build(model, outputs, shape, seed, compute_dtype(config.trainer), several)


def _fresh(model: ModelConfig, outputs: int, config: Config, several: bool) -> Mapping[str, Tensor]:
    seed = torch_seed(config.seed, Stream.sanity)
    return untrained(model, outputs, image_shape(config.dataset), seed, several).backbone.state_dict()


def facts_of(brought: Brought, images: Tensor) -> NetworkFacts:
    """What a network is, seen at its first images, whose routes and cells it knows from then on.

    Args:
        brought: the network, which knows its classes.
        images: (batch, channels, height, width), 0..1, some of those that it is measured on.
    """
    network, finished = brought.network, brought.finished
    if finished is None or finished.result.model.layer != network.layer or network.groups is not None:
        probed = probe_routes(network, images, Score.logit)
        # Behind a ReLU logits may be 0 on these images; that the score depends on the layer is known.
        network.routes = Routes(
            *(GradientRoute.autograd if route is GradientRoute.unreached else route for route in probed)
        )
    cells = network.cells(images)
    with torch.no_grad():
        channels, *grid = network(images[:1]).activations.shape[1:]
    model = ModelFacts(
        brought.model.name,
        network.layer,
        (grid[0], grid[1]),
        channels,
        list(brought.stem),
        brought.relu_left_out,
        sum(parameter.numel() for parameter in network.parameters()),
        network.routes,
        cells,
    )
    mean, std = (values.flatten().tolist() for values in (network.mean, network.std))
    return NetworkFacts(
        brought.given.text,
        brought.method.value,
        model,
        len(brought.names),
        mean,
        std,
        brought.classes,
        list(brought.notes),
    )
