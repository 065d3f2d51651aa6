"""`task=layers`: the layers of a network, and how a map of each is made."""

from __future__ import annotations

from camtrain.cam.routes import GradientRoute
from camtrain.config.schema import Config
from camtrain.config.validate import image_shape
from camtrain.networks.build import survey
from camtrain.report.tables import aligned

CLASSES = 10
"""Which layers there are does not depend on the number of classes."""

ROUTES = {GradientRoute.mixed: "model.batch_norm=frozen only"}
"""In words, where those of the route do not say what to do."""


def list_layers(config: Config) -> str:
    """The layers that have a grid as a table, with how the gradient of a score reaches each in training and evaluation.

    An arrow stands before the one that the map is made of.

    Raises:
        UserError: as for :func:`camtrain.networks.build.build`.
    """
    shape = image_shape(config.dataset)
    chosen, found = survey(config.model, CLASSES, shape)
    lines = [("", "layer", "channels", "grid", "training", "evaluation")]
    for name, (layer, routes) in found.items():
        mark, grid = "->" if name == chosen else "", f"{layer.height} x {layer.width}"
        training = ROUTES.get(routes.training, routes.training.value)
        lines.append((mark, name, str(layer.channels), grid, training, routes.evaluation.value))
    return f"{config.model.name} at {shape[1]} x {shape[2]} pixels\n\n{aligned(lines)}"
