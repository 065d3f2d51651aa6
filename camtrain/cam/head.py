"""What lies between a layer and the logits, handed on with the activations.

A criterion gets logits and activations and nothing else. How the gradient of a score reaches the layer, and the weight
of the linear layer that the closed form needs, are known to whoever captured the activations: they are put on the
tensor itself, so that nothing has to be passed along and nothing is kept anywhere else.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from camtrain.cam.routes import GradientRoute
from camtrain.cam.stretch import Placement

_HEAD, _SOURCE = "camtrain_head", "camtrain_activations"


LINEAR_HEAD = "global average pooling followed by one linear layer"


class Head(NamedTuple):
    """What follows the target layer."""

    route: GradientRoute
    weights: Tensor | None = None  # of the last linear layer, (classes, features); needed by the closed form
    placement: Placement | None = None  # where the cells lie in the image; None: in equal tiles


def hand_on(logits: Tensor, activations: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """The same tensors: the activations know their head from now on, and the logits the activations."""
    setattr(activations, _HEAD, head)
    setattr(logits, _SOURCE, activations)
    return logits, activations


def handed_on(logits: Tensor, activations: Tensor) -> Tensor:
    """The activations that a pass gave, also where an operation on them (a copy, a cast) made a new tensor since."""
    source = getattr(logits, _SOURCE, None)
    return source if isinstance(source, Tensor) and not hasattr(activations, _HEAD) else activations


def head_behind(activations: Tensor) -> Head:
    """The head that was handed on; where none was, autograd: it fits any head."""
    found = getattr(activations, _HEAD, None)
    return found if isinstance(found, Head) else Head(GradientRoute.autograd)
