"""Networks that give logits and the target layer's activations in one forward pass.

Any classifier of torchvision by name, or the small residual network of :mod:`camtrain.residual`. The network is traced
(torch.fx), so that no hooks are needed.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from camtrain.config import ModelConfig, Stem
from camtrain.errors import UserError
from camtrain.residual import SmallResNet

SMALL_RESNET = "small_resnet"

MIN_GRID = 4
"""Cells that a map must have in each direction to be worth looking at."""

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Flatten)


class Output(NamedTuple):
    logits: Tensor  # (batch, classes)
    activations: Tensor  # (batch, channels, height, width)


class Classifier(nn.Module):
    """Normalises pictures (0..1, ImageNet statistics) and runs the backbone.

    Args:
        backbone: traced network that returns a dict with `logits` and `activations`.
        linear: name of its last linear layer, if it has one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, linear: str | None) -> None:
        super().__init__()
        self.backbone, self.linear = backbone, linear
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, images: Tensor) -> Output:
        """(batch, 3, height, width) in 0..1 to logits and activations."""
        out = self.backbone((images - self.mean) / self.std)
        return Output(out["logits"], out["activations"])

    def class_weights(self) -> Tensor | None:
        """Weight of the last linear layer, (classes, features), or None."""
        if self.linear is None:
            return None
        weight = self.backbone.get_submodule(self.linear).weight
        assert isinstance(weight, Tensor)
        return weight


@dataclass(frozen=True)
class Built:
    """A network and what was decided on the way."""

    classifier: Classifier
    layer: str
    grid: tuple[int, int]
    channels: int
    stem: tuple[str, ...]  # modules whose stride was lowered


def build(config: ModelConfig, classes: int, image_size: int, seed: int) -> Built:
    """Build the network, load its weights, choose the target layer, adapt the stem if the map would be too coarse.

    Raises:
        UserError: unknown network, weights that do not fit, unknown layer, or a grid that stays too coarse.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _network(config.name, classes)
    if config.weights is not None and is_pretrained(config):
        _load(network, config.weights, config.name, classes)
    for module in network.modules():
        if hasattr(module, "inplace"):  # an in-place ReLU after the target layer would overwrite the activations
            cast(Any, module).inplace = False
    layers = grids(network, image_size)
    layer = _layer(config, layers)
    stem: list[str] = []
    if config.stem is Stem.auto:
        for name in _stem(network):
            if min(layers[layer][-2:]) >= MIN_GRID:
                break
            cast(Any, network.get_submodule(name)).stride = (1, 1)
            stem.append(name)
            layers = grids(network, image_size)
    height, width = layers[layer][-2:]
    if min(height, width) < (MIN_GRID if config.stem is Stem.auto else 2):
        other = "" if config.stem is Stem.auto else ", model.stem=auto"
        needed = -(-image_size * MIN_GRID // min(height, width))
        raise UserError(
            f"model.name={config.name}: its layer {layer} has only {height} x {width} cells"
            f" at dataset.image_size={image_size}; use dataset.image_size={needed}{other} or an earlier"
            " model.layer"
        )
    classifier = _traced(network, layer, classes)
    with torch.no_grad():
        activations = classifier.eval()(torch.zeros(1, 3, image_size, image_size)).activations
    if activations.shape[1:] != layers[layer]:
        raise UserError(
            f"model.layer={layer}: the network uses this layer more than once; choose the block that holds it"
        )
    return Built(classifier.train(), layer, (height, width), layers[layer][0], tuple(stem))


def is_pretrained(config: ModelConfig) -> bool:
    """Whether weights are loaded; `model.weights` may be null or the word none."""
    return config.weights not in (None, "none")


def _network(name: str, classes: int) -> nn.Module:
    if name == SMALL_RESNET:
        return SmallResNet(classes)
    # The classifiers are the models that live directly in torchvision.models.
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"model.name={name}: no such network; choose {SMALL_RESNET} or one of {', '.join(known)}")
    # These two would otherwise bring auxiliary classifiers and a warning.
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, num_classes=classes, **options)
    if any(isinstance(module, nn.MultiheadAttention) for module in network.modules()):
        raise UserError(f"model.name={name}: its attention blocks keep no grid to map; choose a convolutional network")
    assert isinstance(network, nn.Module)
    return network


def _load(network: nn.Module, weights: str, name: str, classes: int) -> None:
    """Load a state dict. The final layer keeps its fresh weights where the file was made for other classes."""
    state = _state(weights, name)
    own = network.state_dict()
    head = _final(network, classes)
    unknown = sorted(set(state) - set(own))
    missing = sorted(key for key in set(own) - set(state) if not key.endswith("num_batches_tracked"))
    shapes = sorted(key for key in set(own) & set(state) if own[key].shape != state[key].shape)
    unknown = [key for key in unknown if not key.lower().startswith("aux")]
    other = [key for key in shapes if head is None or not key.startswith(f"{head}.")]
    if unknown or missing or other:
        key = (missing or unknown or other)[0]
        problem = "it lacks" if missing else "it has the unknown" if unknown else "another shape of"
        raise UserError(f"model.weights={weights}: these are weights of another network than {name}: {problem} {key}")
    network.load_state_dict({key: state[key] for key in own if key in state and key not in shapes}, strict=False)


def _state(weights: str, name: str) -> dict[str, Tensor]:
    path = Path(weights).expanduser()
    if path.is_file():
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a file that is no state dict
            raise UserError(f"model.weights={weights}: not a file of weights ({type(error).__name__})") from error
        if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
            raise UserError(f"model.weights={weights}: not a state dict (a dict of tensors)")
        return state
    names = [] if name == SMALL_RESNET else [entry.name for entry in models.get_model_weights(name)]
    if weights not in (*names, "DEFAULT") or not names:
        choices = f", or one of {', '.join(names)}" if names else ""
        raise UserError(f"model.weights={weights}: no such file; give a file of weights{choices}")
    try:
        return dict(models.get_model_weights(name)[weights].get_state_dict(progress=True, check_hash=True))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model.weights={weights}: cannot be downloaded ({reason}); give a file instead") from error


def _final(network: nn.Module, classes: int) -> str | None:
    """Name of the last layer that has one output per class."""
    names = [
        name
        for name, module in network.named_modules()
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == classes
        and isinstance(module, nn.Linear | nn.Conv2d)
    ]
    return names[-1] if names else None


def grids(network: nn.Module, image_size: int) -> dict[str, tuple[int, int, int]]:
    """Named modules whose output has channels and a grid, in the order in which they finish: (channels, height, width).

    The head (the last child with weights and pooling) is left out: what it gives is scores, not features.
    """
    found: dict[str, tuple[int, int, int]] = {}
    children = [name for name, child in network.named_children() if any(True for _ in child.parameters())]
    head = children[-1]

    def record(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() == 4:
                found.pop(name, None)
                found[name] = (int(output.shape[1]), int(output.shape[2]), int(output.shape[3]))

        return hook

    handles = [
        module.register_forward_hook(record(name))
        for name, module in network.named_modules()
        if name and name.split(".")[0] != head and not isinstance(module, _POOLS)
    ]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, image_size, image_size))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"dataset.image_size={image_size}: too small for this network ({reason}); use a larger one"
        ) from error
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return found


def _layer(config: ModelConfig, layers: dict[str, tuple[int, int, int]]) -> str:
    # The outermost blocks, or what is in them where there is only one (VGG's features).
    depth = 0 if sum("." not in name for name in layers) > 1 else 1
    outer = {name: shape for name, shape in layers.items() if name.count(".") <= depth}
    listing = ", ".join(f"{name} ({height} x {width})" for name, (_, height, width) in outer.items())
    if config.layer is not None:
        if config.layer not in layers:
            raise UserError(
                f"model.layer={config.layer}: {config.name} has no such layer with a grid;"
                f" it has {listing} and their parts"
            )
        return config.layer
    if not layers:
        raise UserError(
            f"model.name={config.name}: no layer has an output of (channels, height, width); choose another network"
        )
    return list(layers)[-1]


def _stem(network: nn.Module) -> list[str]:
    """The first two layers of stride 2, convolutions or pools, the later one first: it is the cheaper one to widen."""
    strided = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and module.stride in (2, (2, 2))
    ]
    return strided[:2][::-1]


def _traced(network: nn.Module, layer: str, classes: int) -> Classifier:
    nodes = get_graph_node_names(network)[1]
    traced = create_feature_extractor(network, {layer: "activations", nodes[-1]: "logits"})
    for graph in (traced.train_graph, traced.eval_graph):
        assert isinstance(graph, fx.Graph)
        for node in graph.nodes:
            if node.kwargs.get("inplace"):  # functional in-place ReLU, as in DenseNet
                node.update_kwarg("inplace", False)
    traced.recompile()
    final = _final(network, classes)
    linear = final if final and isinstance(network.get_submodule(final), nn.Linear) else None
    return Classifier(traced, linear)
