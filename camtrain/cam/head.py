"""What lies between a layer and the logits, handed on with the activations.

A criterion gets logits and activations and nothing else. How the gradient of a score reaches the layer, and the weight
of the linear layer that the closed form needs, are known to whoever captured the activations: they are put on the
tensor itself, so that nothing has to be passed along and nothing is kept anywhere else.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from camtrain.cam.routes import GradientRoute

_ATTRIBUTE = "camtrain_head"


class Head(NamedTuple):
    """What follows the target layer."""

    route: GradientRoute
    weights: Tensor | None = None  # of the last linear layer, (classes, features); needed by the closed form


def hand_on(activations: Tensor, head: Head) -> Tensor:
    """The same tensor, which from now on knows its head."""
    setattr(activations, _ATTRIBUTE, head)
    return activations


def head_behind(activations: Tensor) -> Head:
    """The head that was handed on; where none was, or an operation made a new tensor, autograd: it fits any head."""
    found = getattr(activations, _ATTRIBUTE, None)
    return found if isinstance(found, Head) else Head(GradientRoute.autograd)
