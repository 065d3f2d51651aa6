"""Networks by name: torchvision's classifiers, timm's, camtrain's own, and a user's function that makes one."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, cast

from torch import Tensor, nn
from torchvision import models

from camtrain.config.schema import ModelConfig
from camtrain.errors import UserError, first_line, out_of_memory
from camtrain.importing import imported, own_code
from camtrain.networks.head_layer import final_layer
from camtrain.networks.layers import wrong_size
from camtrain.networks.small_resnet import SmallResNet

OWN: dict[str, Callable[..., nn.Module]] = {"small_resnet": SmallResNet}
"""Networks that torchvision does not have: called with `num_classes`, `channels` and `model.options`."""

TIMM = "timm/"
"""Begins the names of timm's networks."""

NOT_OPTIONS = {"model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Arguments by which timm would read files as it likes."""


def make_network(config: ModelConfig, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """A classifier with untrained weights.

    Args:
        config: its name: of :data:`OWN`, `timm/NAME`, `package.module:function`, or any classifier of torchvision; and
            its options, which it is called with.
        classes: outputs.
        shape: channels, height and width of the images, for which some networks have to be made.

    Raises:
        UserError: there is no such network, it does not know an option, or it cannot take such images.
    """
    name, options = config.name, dict(config.options)
    if ":" in name:
        function = imported(name, "model.name")
        with own_code(f"model.name={name}"):
            network = function(num_classes=classes, **options)
        if not isinstance(network, nn.Module):
            raise UserError(f"model.name={name}: it returned {type(network).__name__}, not a torch.nn.Module")
    elif name.startswith(TIMM):
        network = _of_timm(name, options, classes, shape)
    elif name in OWN:
        network = _called(config, OWN[name], shape, num_classes=classes, channels=shape[0])
    else:
        network = _of_torchvision(config, classes, shape)
    final = final_layer(network, classes)
    if final is not None and ":" not in name:
        weight = cast(Tensor, network.get_submodule(final).weight)
        if not bool(weight.any()):
            # ViT starts with a head of zeros: every map would be dead, and the CAM term without a gradient. As Swin's.
            nn.init.trunc_normal_(weight, std=0.02)
    return network


def published_outputs(config: ModelConfig) -> int | None:
    """How many classes published weights are for; None where it is not known."""
    name, weights = config.name, config.weights
    if name.startswith(TIMM) and find_spec("timm"):
        import timm

        described = timm.get_pretrained_cfg(name.removeprefix(TIMM)) if timm.is_model(name.removeprefix(TIMM)) else None
        return described and described.num_classes
    if name not in models.list_models(module=models):
        return None
    entries: Any = models.get_model_weights(name)
    found = next((entry for key, entry in entries.__members__.items() if key == weights), None)
    return found and len(found.meta["categories"])


def _of_torchvision(config: ModelConfig, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    # The classifiers are the models that live directly in torchvision.models.
    name, known = config.name, models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, [*OWN, *known], n=5) or [*OWN, *known]
        raise UserError(
            f"model.name={name}: no such network; choose {', '.join(close)}, a network of timm as timm/NAME, or one of"
            " your own as package.module:function"
        )
    # The first two would otherwise bring auxiliary classifiers and a warning; transformers are made for one size.
    needed: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Pretrained weights were made for another normalisation.
        needed = {"aux_logits": False, "init_weights": True, "transform_input": config.weights not in (None, "none")}
    elif name.startswith("vit_"):
        if shape[1] != shape[2]:
            raise UserError(f"dataset.image_size=[{shape[1]},{shape[2]}]: {name} takes square images only")
        needed = {"image_size": shape[1]}
    elif name.startswith("maxvit_"):
        needed = {"input_size": shape[1:]}
    network = _called(config, models.get_model_builder(name), shape, weights=None, num_classes=classes, **needed)
    if shape[0] != 3:
        _take_channels(network, shape[0])
    return network


def _of_timm(name: str, options: dict[str, Any], classes: int, shape: tuple[int, int, int]) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(f"model.name={name}: timm is not installed; pip install 'camtrain[timm]'") from None
    own = name.removeprefix(TIMM)
    if not timm.is_model(own):
        close = difflib.get_close_matches(own, timm.list_models(), n=5) or timm.list_models(f"*{own[:6]}*")[:5]
        raise UserError(
            f"model.name={name}: timm {timm.__version__} has no such network"
            + (f"; close to it are {', '.join(TIMM + entry for entry in close)}" if close else "")
        )
    described = timm.get_pretrained_cfg(own)
    needed: dict[str, Any] = {"model_name": own, "num_classes": classes, "in_chans": shape[0]}
    if described is not None and described.fixed_input_size:  # transformers are made for one size
        needed["img_size"] = shape[1:]
    for option in NOT_OPTIONS & options.keys():
        raise UserError(
            f"model.options.{option}: leave it out and say model.weights=DEFAULT or a file, model.name=timm/NAME"
        )
    return _called(ModelConfig(name=name, options=options), timm.create_model, shape, **needed)


def _called(
    config: ModelConfig, builder: Callable[..., nn.Module], shape: tuple[int, int, int], **needed: Any
) -> nn.Module:
    """What a builder makes of `model.options` and of what it is given here."""
    try:
        return builder(**{**needed, **config.options})
    except TypeError as error:
        raise UserError(
            f"model.options={config.options}: {config.name} does not take them ({first_line(error)})"
        ) from error
    except (RuntimeError, ValueError, AssertionError) as error:
        if out_of_memory(error):
            raise
        raise wrong_size(shape[1:], error) from error


def _take_channels(network: nn.Module, channels: int) -> None:
    """Put a convolution with another number of channels in place of the first one."""
    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    parent, _, child = name.rpartition(".")
    own: dict[str, Any] = {key: getattr(first, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    other = nn.Conv2d(channels, first.out_channels, **own, bias=first.bias is not None, padding_mode=first.padding_mode)
    setattr(network.get_submodule(parent), child, other)
