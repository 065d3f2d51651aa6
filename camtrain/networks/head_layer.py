"""The last layer of a classifier, found by its number of outputs."""

from __future__ import annotations

from torch import nn


def final_layer(network: nn.Module, classes: int) -> str | None:
    """Name of the last layer that has one output per class."""
    names = [
        name
        for name, module in network.named_modules()
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == classes
        and isinstance(module, nn.Linear | nn.Conv2d)
    ]
    return names[-1] if names else None


def leave_out_last_relu(network: nn.Module, classes: int) -> str | None:
    """Make the ReLU that follows the last layer in its sequence an identity; its name, None if there is none."""
    final = final_layer(network, classes)
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


def linear_head(network: nn.Module, classes: int) -> str | None:
    """Name of the last layer with one output per class, if it is linear."""
    final = final_layer(network, classes)
    return final if final and isinstance(network.get_submodule(final), nn.Linear) else None
