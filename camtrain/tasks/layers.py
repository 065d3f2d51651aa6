"""`task=layers`: the layers of a network, and how a map of each is made."""

from __future__ import annotations

from camtrain.cam.routes import GradientRoute
from camtrain.cam.stretch import Placement
from camtrain.config.schema import Config
from camtrain.config.validate import image_shape
from camtrain.networks.build import survey
from camtrain.report.tables import aligned

CLASSES = 10
"""Which layers there are does not depend on the number of classes."""

MEANING = (
    "stride: pixels from cell to cell. field: pixels that a cell depends on, inf: all. offset: how far the middle of"
    " the map\nlies from the middle of the image, in pixels, -: up and left; maps are drawn where they lie, other tools"
    " leave that\nout. A dash: it could not be followed; of the layer that is used it is measured."
)

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
    lines = [("", "layer", "channels", "grid", "stride", "field", "offset", "training", "evaluation")]
    for name, (layer, routes, placement) in found.items():
        mark, grid = "->" if name == chosen else "", f"{layer.height} x {layer.width}"
        training = ROUTES.get(routes.training, routes.training.value)
        where = lies(placement, (shape[1], shape[2]), layer.grid)
        lines.append((mark, name, str(layer.channels), grid, *where, training, routes.evaluation.value))
    return f"{config.model.name} at {shape[1]} x {shape[2]} pixels\n\n{aligned(lines)}\n\n{MEANING}"


def lies(placement: Placement | None, image: tuple[int, int], grid: tuple[int, int]) -> tuple[str, str, str]:
    """Stride, field and offset of the cells, of rows and columns where these differ."""
    if placement is None:
        return "-", "-", "-"
    parts = [
        (f"{axis.step:.4g}", f"{axis.field:.4g}", f"{round(axis.offset(side, cells), 2) + 0.0:+.3g}")
        for axis, side, cells in zip(placement, image, grid, strict=True)
    ]
    stride, field, offset = (" x ".join(dict.fromkeys(of_both)) for of_both in zip(*parts, strict=True))
    return stride, field, offset
