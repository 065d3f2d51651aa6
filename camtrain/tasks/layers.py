"""`task=layers`: the layers of a network, and how a map of each is made."""

from __future__ import annotations

from collections.abc import Mapping

from camtrain.cam.routes import GradientRoute, Routes
from camtrain.config.schema import Config
from camtrain.networks.build import survey
from camtrain.networks.layers import Layer
from camtrain.tasks import layers


def layer_table(config: Config, chosen: str, found: Mapping[str, tuple[Layer, Routes]]) -> str:
    """The layers of a network as a table; an arrow stands before the one that the map is made of."""
    lines = [("", "layer", "channels", "grid", "training", "evaluation")]
    for name, (layer, paths) in found.items():
        mark = "->" if name == chosen else ""
        words = (PATHS.get(paths.training, paths.training.value), paths.evaluation.value)
        lines.append((mark, name, str(layer.channels), f"{layer.height} x {layer.width}", *words))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(
        [f"{config.model.name} at {config.dataset.image_size} x {config.dataset.image_size} pixels", "", *table]
    )


PATHS = {GradientRoute.mixed: "model.batch_norm=frozen only"}


def list_layers(config: Config) -> str:
    """The network's layers as a table: what has a grid, and how the gradient of a score reaches it.

    Raises:
        UserError: as for :func:`camtrain.networks.build.build`.
    """
    # Which layers there are does not depend on the number of classes.
    chosen, found = survey(config.model, 10, config.dataset.image_size)
    return layers.layer_table(config, chosen, found)
