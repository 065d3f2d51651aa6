"""Networks that give logits and the target layer's activations in one forward pass.

Any classifier of torchvision by name, or the small residual network of :mod:`camtrain.residual`.
"""

from __future__ import annotations

import copy
import urllib.error
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from camtrain import machine
from camtrain.config import BatchNorm, Config, ModelConfig, Score, Stem
from camtrain.errors import UserError
from camtrain.graph import LOGITS, trace
from camtrain.head import Path, Paths, probe
from camtrain.layers import Layer, find, outermost, strides, wrong_size
from camtrain.normalisation import DEVIATION, MEAN
from camtrain.residual import SmallResNet
from camtrain.streams import Stream, torch_seed

SMALL_RESNET = "small_resnet"

MIN_GRID = 4
"""Cells that a map must have in each direction to be worth looking at."""


class Output(NamedTuple):
    logits: Tensor  # (batch, classes), float32 or wider
    activations: Tensor  # (batch, channels, height, width)


class Classifier(nn.Module):
    """Normalises pictures (0..1) and runs the backbone.

    Args:
        backbone: traced network that returns a dict with `logits` and the grid of `layer`.
        layer: name of the target layer.
        linear: name of the last linear layer, if there is one.
        frozen: keep batch norm at its stored statistics in training mode as well.
        precision: what the backbone computes in, by autocast where it is not float32.
        normalisation: mean and deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        layer: str,
        linear: str | None,
        frozen: bool = False,
        precision: torch.dtype = torch.float32,
        normalisation: tuple[Sequence[float], Sequence[float]] = (MEAN, DEVIATION),
    ) -> None:
        super().__init__()
        self.backbone, self.layer, self.linear, self.frozen, self.precision = backbone, layer, linear, frozen, precision
        mean, std = normalisation
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        # What runs the backbone in training (True) and evaluation mode, where that is not itself: compiled code.
        self.runs: dict[bool, Callable[[Tensor], dict[str, Tensor]]] = {}
        # Only the plain attention kernel has a second derivative.
        self.attention = any(isinstance(module, nn.MultiheadAttention) for module in backbone.modules())

    def forward(self, images: Tensor) -> Output:
        """(batch, 3, height, width) in 0..1 to logits and activations."""
        return self.of_normalised((images - self.mean) / self.std)

    def of_normalised(self, images: Tensor) -> Output:
        """The same for pictures that are normalised already."""
        kernel = sdpa_kernel(SDPBackend.MATH) if self.attention else nullcontext()
        lower = self.precision is not torch.float32
        with kernel, torch.autocast(images.device.type, self.precision if lower else torch.bfloat16, enabled=lower):
            out = self.runs.get(self.training, self.backbone)(images)
        logits = out[LOGITS]
        return Output(logits.to(torch.promote_types(logits.dtype, torch.float32)), out[self.layer])

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.frozen:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

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
    relu_left_out: str | None  # the one after the last layer


def build(
    config: ModelConfig,
    classes: int,
    image_size: int,
    seed: int,
    precision: torch.dtype = torch.float32,
    multilabel: bool = False,
) -> Built:
    """Build the network, load its weights, choose the target layer, adapt the stem if the map would be too coarse.

    Args:
        config: the model's part of the configuration.
        classes: outputs of the network.
        image_size: height and width of the pictures.
        seed: of the fresh weights.
        precision: what the backbone computes in.
        multilabel: a picture may show several classes; then a ReLU that keeps the logits above 0 (SqueezeNet) is left
            out: no probability could fall below 1/2.

    Raises:
        UserError: unknown network, weights that do not fit, unknown layer, a layer that the score does not depend on,
            or a grid that stays too coarse.
    """
    network, layers, name, stem = _prepare(config, classes, image_size, seed)
    left_out = _leave_out_last_relu(network, classes) if multilabel else None
    height, width = layers[name].grid
    if min(height, width) < (MIN_GRID if config.stem is Stem.auto else 2):
        other = "" if config.stem is Stem.auto else ", model.stem=auto"
        needed = -(-image_size * MIN_GRID // min(height, width))
        raise UserError(
            f"model.name={config.name}: its layer {name} has only {height} x {width} cells"
            f" at dataset.image_size={image_size}; use dataset.image_size={needed}{other} or an earlier"
            " model.layer"
        )
    frozen = config.batch_norm is BatchNorm.frozen
    if frozen and not is_pretrained(config):
        raise UserError("model.batch_norm=frozen keeps statistics that were loaded: it needs model.weights")
    traced = trace(network, {name: layers[name]})
    classifier = Classifier(traced, name, _linear(network, classes), frozen, precision, normalisation(config))
    return Built(classifier.train(), name, (height, width), layers[name].channels, tuple(stem), left_out)


def build_for(config: Config, model: ModelConfig, classes: int, multilabel: bool, weights: Stream) -> Built:
    """The network of a run.

    Args:
        config: of the run.
        model: its part about the model, or a variation of it.
        classes: outputs of the network.
        multilabel: as for :func:`build`.
        weights: stream that fresh weights are drawn from.

    Raises:
        UserError: as for :func:`build`.
    """
    seed = torch_seed(config.seed, weights)
    return build(model, classes, config.dataset.image_size, seed, machine.precision(config.trainer), multilabel)


def untrained(config: Config, classes: int, multilabel: bool) -> Classifier:
    """A network as the arms' with fresh weights that no arm has seen."""
    model = replace(config.model, weights=None, batch_norm=BatchNorm.batch)
    return build_for(config, model, classes, multilabel, Stream.sanity).classifier


def survey(config: ModelConfig, classes: int, image_size: int) -> tuple[str, dict[str, tuple[Layer, Paths]]]:
    """The layer that a map is made of, and every layer that has a grid with the path of the gradient that reaches it.

    Raises:
        UserError: as for :func:`build`.
    """
    network, layers, name, _ = _prepare(config, classes, image_size, seed=0)
    training, evaluation = (_paths(network, layers, classes, image_size, mode) for mode in (True, False))
    return name, {key: (layer, Paths(training[key], evaluation[key])) for key, layer in layers.items()}


def _prepare(
    config: ModelConfig, classes: int, image_size: int, seed: int
) -> tuple[nn.Module, dict[str, Layer], str, list[str]]:
    """The plain network with its weights and stem, its layers, the chosen one, and whose stride was lowered."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _network(config.name, classes, image_size, is_pretrained(config))
    if config.weights is not None and is_pretrained(config):
        _load(network, config.weights, config.name, classes, image_size)
    layers = find(network, image_size)
    name = _choose(config, network, layers, classes, image_size)
    stem: list[str] = []
    if config.stem is Stem.auto:
        for level in strides(network, image_size):
            if min(layers[name].grid) >= MIN_GRID:
                break
            for strided in level:
                cast(Any, network.get_submodule(strided)).stride = (1, 1)
            stem.extend(level)
            layers = find(network, image_size)
    return network, layers, name, stem


def _choose(config: ModelConfig, network: nn.Module, layers: dict[str, Layer], classes: int, image_size: int) -> str:
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
    if _paths(network, {name: layers[name]}, classes, image_size, training=False)[name] is not Path.unreached:
        return name
    paths = _paths(network, layers, classes, image_size, training=False)
    reached = [key for key in layers if paths[key] is not Path.unreached]
    if config.layer is None and reached:
        return reached[-1]
    raise UserError(
        f"model.layer={name}: the score of a class does not depend on this layer's grid, so it has no map;"
        f" the last one that it depends on is {reached[-1] if reached else 'none'}"
    )


def _paths(
    network: nn.Module, layers: Mapping[str, Layer], classes: int, image_size: int, training: bool
) -> dict[str, Path]:
    """The path of each layer in one mode, on two pictures of noise."""
    network = copy.deepcopy(network)  # training mode moves batch norm's statistics
    traced = trace(network, layers).train(training)
    linear = _linear(network, classes)
    weights = network.get_submodule(linear).weight if linear else None

    def forward(pictures: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        out = dict(traced(pictures))
        return out.pop(LOGITS), out

    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.randn(2, 3, image_size, image_size)
        return probe(forward, images, Score.logit, cast("Tensor | None", weights))


def normalisation(config: ModelConfig) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation that pictures are normalised with: those of the pretrained weights, else ImageNet's."""
    if not is_pretrained(config) or config.name == SMALL_RESNET:
        return MEAN, DEVIATION
    transforms: Any = models.get_model_weights(config.name)["DEFAULT"].transforms()
    return list(transforms.mean), list(transforms.std)


def is_pretrained(config: ModelConfig) -> bool:
    """Whether weights are loaded; `model.weights` may be null or the word none."""
    return config.weights not in (None, "none")


def _network(name: str, classes: int, image_size: int, pretrained: bool) -> nn.Module:
    if name == SMALL_RESNET:
        return SmallResNet(classes)
    # The classifiers are the models that live directly in torchvision.models.
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"model.name={name}: no such network; choose {SMALL_RESNET} or one of {', '.join(known)}")
    # The first two would otherwise bring auxiliary classifiers and a warning; transformers are made for one size.
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
        options["transform_input"] = pretrained  # their weights were made for another normalisation
    elif name.startswith("vit_"):
        options = {"image_size": image_size}
    elif name.startswith("maxvit_"):
        options = {"input_size": (image_size, image_size)}
    try:
        network = models.get_model(name, weights=None, num_classes=classes, **options)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise wrong_size(image_size, error) from error
    assert isinstance(network, nn.Module)
    final = _final(network, classes)
    if final is not None:
        weight = cast(Tensor, network.get_submodule(final).weight)
        if not bool(weight.any()):
            # ViT starts with a head of zeros: every map would be dead, and the CAM term without a gradient. As Swin's.
            nn.init.trunc_normal_(weight, std=0.02)
    return network


def _load(network: nn.Module, weights: str, name: str, classes: int, image_size: int) -> None:
    """Load a state dict. The final layer keeps its fresh weights where the file was made for other classes."""
    state = _state(weights, name)
    own = network.state_dict()
    place = "encoder.pos_embedding"
    if place in state and place in own and state[place].shape != own[place].shape:
        patch = cast(Any, network).patch_size
        state = interpolate_embeddings(image_size, patch, OrderedDict(state))
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
    for key in own:
        if key in state and key not in shapes:
            own[key] = state[key]
    network.load_state_dict(own)  # with the version numbers of its parts, which torchvision's MNASNet asks for


def read_state(path: FilePath, name: str) -> dict[str, Tensor]:
    """A state dict from a file.

    Raises:
        UserError: it is none; `name` says which file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no state dict
        raise UserError(f"{name}: not a file of weights ({type(error).__name__})") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{name}: not a state dict (a dict of tensors)")
    return state


def _state(weights: str, name: str) -> dict[str, Tensor]:
    path = FilePath(weights).expanduser()
    if path.is_file():
        return read_state(path, f"model.weights={weights}")
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


def _leave_out_last_relu(network: nn.Module, classes: int) -> str | None:
    """Make the ReLU that follows the last layer in its sequence an identity; its name, None if there is none."""
    final = _final(network, classes)
    if final is None:
        return None
    parent, _, child = final.rpartition(".")
    sequence = network.get_submodule(parent)
    if not isinstance(sequence, nn.Sequential):
        return None
    names = list(dict(sequence.named_children()))
    for name in names[names.index(child) + 1 :]:
        if isinstance(sequence.get_submodule(name), nn.ReLU):
            setattr(sequence, name, nn.Identity())
            return f"{parent}.{name}"
    return None


def _linear(network: nn.Module, classes: int) -> str | None:
    """Name of the last layer with one output per class, if it is linear."""
    final = _final(network, classes)
    return final if final and isinstance(network.get_submodule(final), nn.Linear) else None
