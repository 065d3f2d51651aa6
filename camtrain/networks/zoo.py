"""Networks by name: torchvision's classifiers, and camtrain's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torchvision import models

from camtrain.errors import UserError
from camtrain.networks.head_layer import final_layer
from camtrain.networks.layers import wrong_size
from camtrain.networks.small_resnet import SmallResNet

OWN: dict[str, Callable[[int], nn.Module]] = {"small_resnet": SmallResNet}
"""Networks that torchvision does not have: from the number of classes to the network."""


def make_network(name: str, classes: int, image_size: int, pretrained: bool) -> nn.Module:
    """A classifier with untrained weights.

    Args:
        name: of :data:`OWN`, or any classifier of torchvision.
        classes: outputs.
        image_size: height and width of the images, for which some networks have to be made.
        pretrained: weights of torchvision's are going to be loaded.

    Raises:
        UserError: there is no such network, or it cannot take images of this size.
    """
    if name in OWN:
        return OWN[name](classes)
    # The classifiers are the models that live directly in torchvision.models.
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"model.name={name}: no such network; choose one of {', '.join([*OWN, *known])}")
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
    final = final_layer(network, classes)
    if final is not None:
        weight = cast(Tensor, network.get_submodule(final).weight)
        if not bool(weight.any()):
            # ViT starts with a head of zeros: every map would be dead, and the CAM term without a gradient. As Swin's.
            nn.init.trunc_normal_(weight, std=0.02)
    return network
