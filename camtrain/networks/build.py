"""From the configuration to a network: weights, target layer, stem."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from camtrain.cam.routes import GradientRoute, Routes
from camtrain.cam.stretch import Placement
from camtrain.config.options import BatchNorm, Score, Stem
from camtrain.config.schema import ModelConfig
from camtrain.errors import UserError
from camtrain.networks.capture import Captured, probe_layers
from camtrain.networks.classifier import Classifier
from camtrain.networks.head_layer import leave_out_last_relu, linear_head
from camtrain.networks.layers import Layer, find, outermost, size_text, strides
from camtrain.networks.weights import is_pretrained, load_weights, normalisation
from camtrain.networks.zoo import make_network

MIN_GRID = 4
"""Cells that a map must have in each direction to be worth looking at."""


@dataclass(frozen=True)
class Built:
    """A network and what was decided on the way."""

    classifier: Classifier
    layer: str
    output: Layer  # the layer's
    stem: tuple[str, ...]  # modules whose stride was lowered
    relu_left_out: str | None  # the one after the last layer
    fresh: str | None = None  # part of the backbone that kept its fresh weights beside pretrained ones


def build(
    config: ModelConfig,
    classes: int,
    shape: tuple[int, int, int],
    seed: int,
    precision: torch.dtype = torch.float32,
    multilabel: bool = False,
    load: bool = True,
) -> Built:
    """Build the network, load its weights, choose the target layer, adapt the stem if the map would be too coarse.

    Args:
        config: the model's part of the configuration.
        classes: outputs of the network.
        shape: channels, height and width of the images.
        seed: of the fresh weights.
        precision: what the backbone computes in.
        multilabel: an image may show several classes; then a ReLU that keeps the logits above 0 (SqueezeNet) is left
            out: no probability could fall below 1/2.
        load: false leaves pretrained weights out: those of a run take their place.

    Raises:
        UserError: unknown network, weights that do not fit, unknown layer, a layer that the score does not depend on,
            or a grid that stays too coarse.
    """
    network, layers, name, stem, fresh = _prepare(config, classes, shape, seed, load)
    left_out = leave_out_last_relu(network, classes) if multilabel else None
    height, width = layers[name].grid
    if min(height, width) < (MIN_GRID if config.stem is Stem.auto else 2):
        other = "" if config.stem is Stem.auto else ", model.stem=auto"
        factor = MIN_GRID / min(height, width)
        needed = size_text((math.ceil(shape[1] * factor), math.ceil(shape[2] * factor)))
        raise UserError(
            f"model.name={config.name}: its layer {name} has only {height} x {width} cells"
            f" at dataset.image_size={size_text(shape[1:])}; use dataset.image_size={needed}{other} or an earlier"
            " model.layer"
        )
    pretrained = is_pretrained(config)
    frozen = config.batch_norm is BatchNorm.frozen or (config.batch_norm is BatchNorm.auto and pretrained)
    if frozen and not pretrained:
        raise UserError("model.batch_norm=frozen keeps statistics that were loaded: it needs model.weights")
    scale = normalisation(config, network, shape[0])
    classifier = Classifier(network, name, linear_head(network, classes), frozen, precision, scale)
    return Built(classifier.train(), name, layers[name], tuple(stem), left_out, fresh)


def untrained(
    config: ModelConfig, classes: int, shape: tuple[int, int, int], seed: int, multilabel: bool
) -> Classifier:
    """An untrained network of the same architecture; arguments and errors as for :func:`build`."""
    fresh = replace(config, weights=None, batch_norm=BatchNorm.batch)
    return build(fresh, classes, shape, seed, multilabel=multilabel).classifier


def survey(
    config: ModelConfig, classes: int, shape: tuple[int, int, int]
) -> tuple[str, dict[str, tuple[Layer, Routes, Placement | None]]]:
    """The layer that a map is made of, and every layer that has a grid with the route by which the gradient reaches it,
    and where its cells lie, if that can be followed.

    Raises:
        UserError: as for :func:`build`.
    """
    network, layers, name, *_ = _prepare(config, classes, shape, seed=0, load=True)
    training, evaluation = (_routes(network, list(layers), shape, mode) for mode in (True, False))
    placed = Captured(copy.deepcopy(network), list(layers)).placements(torch.zeros(1, *shape))
    return name, {key: (layer, Routes(training[key], evaluation[key]), placed[key]) for key, layer in layers.items()}


def _prepare(
    config: ModelConfig, classes: int, shape: tuple[int, int, int], seed: int, load: bool
) -> tuple[nn.Module, dict[str, Layer], str, list[str], str | None]:
    """The network with its weights, its layers, the chosen one, whose stride was lowered, and which part is fresh."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make_network(config, classes, shape)
    layers = find(network, shape)
    # Before weights are loaded: behind a ReLU (SqueezeNet) trained ones may give no logits on noise, and no gradient.
    name = _choose(config, network, layers, shape)
    stem: list[str] = []
    if config.stem is Stem.auto:
        for level in strides(network, shape):
            if min(layers[name].grid) >= MIN_GRID:
                break
            for strided in level:
                cast(Any, network.get_submodule(strided)).stride = (1, 1)
            stem.extend(level)
            layers = find(network, shape)
    fresh = None
    if load and config.weights is not None and is_pretrained(config):
        fresh = load_weights(network, config.weights, config.name, classes, shape[1])
    return network, layers, name, stem, fresh


def _choose(config: ModelConfig, network: nn.Module, layers: dict[str, Layer], shape: tuple[int, int, int]) -> str:
    """The layer that was asked for, or the last one with a grid that the score depends on."""
    if not layers:
        raise UserError(f"model.name={config.name}: no layer has an output with a grid; choose another network")
    if config.layer is not None and config.layer not in layers:
        listing = ", ".join(f"{name} ({layer.height} x {layer.width})" for name, layer in outermost(layers).items())
        used = config.layer in dict(network.named_modules())
        reasons = "more than once, or it gives no grid, or belongs to the head or to a block that counts as one"
        problem = f"uses this layer {reasons}" if used else "has no such layer"
        raise UserError(
            f"model.layer={config.layer}: {config.name} {problem}; it has {listing} and their parts, which"
            f" camtrain task=layers model.name={config.name} lists"
        )
    name = config.layer or list(layers)[-1]
    if _routes(network, [name], shape, training=False)[name] is not GradientRoute.unreached:
        return name
    routes = _routes(network, list(layers), shape, training=False)
    reached = [key for key in layers if routes[key] is not GradientRoute.unreached]
    if config.layer is None and reached:
        return reached[-1]
    raise UserError(
        f"model.layer={name}: the score of a class does not depend on this layer's grid, so it has no map;"
        f" the last one that it depends on is {reached[-1] if reached else 'none'}"
    )


def _routes(
    network: nn.Module, layers: Sequence[str], shape: tuple[int, int, int], training: bool
) -> dict[str, GradientRoute]:
    """The route to each layer in one mode, on two images of noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        captured = Captured(copy.deepcopy(network), layers).train(training)
        return probe_layers(captured, torch.randn(2, *shape), Score.logit)
