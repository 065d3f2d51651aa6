"""Logits and the activations of chosen layers from one forward pass of any network, by forward hooks.

A hook hands the layer's activations out and lets the network go on with a copy: an in-place operation behind the layer
then changes the copy, while the logits still depend on what was handed out. Activations come as grids (batch, channels,
height, width) whatever the layer's own layout; their gradient is the one a map needs. The network stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from camtrain.cam.head import Head, hand_on
from camtrain.cam.routes import GradientRoute, Routes, probe
from camtrain.config.options import Score
from camtrain.errors import UserError
from camtrain.networks.head_layer import linear_head
from camtrain.networks.layers import as_layer, find, first_tensor, from_grid, to_grid


class Output(NamedTuple):
    logits: Tensor  # (batch, classes), float32 or wider
    activations: Tensor  # (batch, channels, height, width)


class Captured(nn.Module):
    """A network that gives logits and the target layer's activations; made by :func:`capture`.

    Args:
        backbone: the network. Hooks are added to the layers, and nothing else is changed.
        layers: names of the modules whose activations are handed out; the last one is the target layer. None: the
            last layer that has a grid and that the score depends on, found at the first forward pass.
    """

    def __init__(self, backbone: nn.Module, layers: Sequence[str] | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.layers: list[str] = []
        self.linear: str | None = None  # name of the last linear layer, if there is one; found at the first pass
        self._route: dict[bool, GradientRoute] = {}  # by mode, training or not
        self._taken: dict[str, Tensor] | None = None  # while a pass runs
        self._image = (0, 0)
        for name in layers or ():
            self._watch(name)
        # Only the plain attention kernel has a second derivative.
        self.attention = any("Attention" in type(module).__name__ for module in backbone.modules())

    @property
    def layer(self) -> str:
        """Name of the target layer."""
        return self.layers[-1]

    @property
    def routes(self) -> Routes:
        """How the gradient of a score reaches the target layer.

        Probed at the first pass in either mode where nobody set it; before that a KeyError.
        """
        return Routes(self._route[True], self._route[False])

    @routes.setter
    def routes(self, routes: Routes) -> None:
        self._route = {True: routes.training, False: routes.evaluation}

    def forward(self, images: Tensor, *others: Any, **named: Any) -> Output:
        """One pass.

        Args:
            images: (batch, channels, height, width), as the network takes them: normalised, if it was trained so.
            others: further arguments of the network, like `named`.

        Raises:
            UserError: the layer was not reached, or more than once, or its output has no grid.
        """
        self.prepare(images)
        logits, grids = self.grids(images, *others, **named)
        return self.handed_on(logits, grids[self.layer])

    def handed_on(self, logits: Tensor, activations: Tensor) -> Output:
        """Both as they leave: logits in float32 at least, and activations that know their head."""
        return Output(_wide(logits), hand_on(activations, self.head()))

    def head(self) -> Head:
        """What follows the layer in the present mode."""
        return Head(self._route[self.training], self.class_weights())

    def grids(self, images: Tensor, *others: Any, **named: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits as the network gives them, and the activations of every watched layer by its name."""
        self._taken, self._image = {}, (images.shape[-2], images.shape[-1])
        try:
            with self.differentiable_twice():
                output = self.backbone(images, *others, **named)
        finally:
            taken, self._taken = self._taken, None
        missing = next((name for name in self.layers if name not in taken), None)
        if missing is not None:
            raise UserError(
                f"layer={missing}: the network did not pass through it, or had been compiled before; capture first,"
                " compile then"
            )
        return logits_of(output), taken

    def differentiable_twice(self) -> AbstractContextManager[None]:
        """What a pass has to run in: only the plain attention kernel has a second derivative."""
        return sdpa_kernel(SDPBackend.MATH) if self.attention else nullcontext()

    def normalised(self, images: Tensor) -> Tensor:
        """What the network itself is given of images."""
        return images

    def forward_normalised(self, images: Tensor) -> Output:
        """The pass of images as :meth:`normalised` gives them."""
        output: Output = self(images)
        return output

    def class_weights(self) -> Tensor | None:
        """Weight of the last linear layer, (classes, features), float32 or wider; None if there is none."""
        if self.linear is None:
            return None
        weight = self.backbone.get_submodule(self.linear).weight
        assert isinstance(weight, Tensor)
        return _wide(weight)

    def _watch(self, name: str) -> None:
        modules = dict(self.backbone.named_modules())
        if name not in modules or not name:
            known = ", ".join(key for key in modules if key and key.count(".") < 2)
            raise UserError(f"layer={name}: the network has no such module; it has {known}")
        modules[name].register_forward_hook(partial(self._take, name))
        self.layers.append(name)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # what is handed out has to be what the rest depends on, also amidst compiled code
    def _take(self, name: str, _module: nn.Module, _inputs: object, output: object) -> object:
        """The hook: None leaves the output as it is."""
        if self._taken is None:
            return None
        tensor = first_tensor(output)
        layer = as_layer(tuple(tensor.shape[1:]), self._image) if tensor is not None else None
        if tensor is None or layer is None:
            shape = type(output).__name__ if tensor is None else " x ".join(map(str, tensor.shape))
            raise UserError(f"layer={name}: its output, {shape}, has no grid of cells; choose another layer")
        if name in self._taken:
            raise UserError(f"layer={name}: the network uses it more than once in a pass; choose another layer")
        grid = to_grid(tensor, layer.layout.name, layer.height, layer.width)
        if torch.is_grad_enabled() and not grid.requires_grad:  # all below is frozen
            grid = grid.detach().requires_grad_()
        self._taken[name] = grid
        return _with_first(output, from_grid(grid, tensor, layer.layout.name).clone())

    def prepare(self, images: Tensor) -> None:
        """Find, before the first pass in either mode, what was left open: the layer and the route.

        On copies of the network, with the first images.
        """
        if self.training in self._route:
            return
        some = images[:2].detach()
        some = torch.cat([some, some.flip(-1)])[:2]
        devices = [some.device] if some.device.type == "cuda" else []
        with (
            torch.inference_mode(False),
            torch.random.fork_rng(devices),
            torch.autocast(some.device.type, enabled=False),
        ):
            some = some.clone()
            noise = torch.randn_like(some)
            if not self.layers:
                shape = (some.shape[1], some.shape[2], some.shape[3])
                network = copy.deepcopy(self.backbone)
                every = Captured(network, list(find(network, shape)))
                routes = probe_layers(every, some, Score.centred)
                reached = [name for name in every.layers if routes[name] is not GradientRoute.unreached]
                if not reached:
                    raise UserError("no layer has a grid that the score of a class depends on; give another network")
                self._watch(reached[-1])
            probed = copy.deepcopy(self)
            route = probe_layers(probed, some, Score.centred)[self.layer]
            if route is GradientRoute.unreached:  # or logits are 0, behind a ReLU
                route = probe_layers(probed, noise, Score.centred)[self.layer]
            self.linear = probed.linear
        if route is GradientRoute.unreached:
            raise UserError(f"layer={self.layer}: the score of a class does not depend on it; choose another layer")
        self._route[self.training] = route


def capture(model: nn.Module, layer: str | nn.Module | None = None) -> Captured:
    r"""A network from which one forward pass gives `(logits, activations)`.

    Args:
        model: any classifier: (batch, channels, height, width) to (batch, classes), or to an object or mapping with
            `logits`. It stays the network it is, with its own weights, names and modes; a hook is added to the layer.
        layer: the target layer, by name or as the module itself; its output is a grid (batch, channels, height,
            width), (batch, height, width, channels) or tokens. None: the last one that has a grid and that the score
            depends on.

    Returns:
        A module :math:`x \mapsto (y, A)`: logits (batch, classes) and activations (batch, channels, height, width),
        which know what the closed form of :math:`\partial s / \partial A` needs. At the first pass it is probed whether
        that form holds: global average pooling and one linear layer follow.

    Raises:
        UserError: there is no such layer; at the first pass, it has no grid, or the score does not depend on it.

    Example:
        >>> import torch, camtrain
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        ...     torch.nn.Linear(8, 5),
        ... )
        >>> net = camtrain.capture(model, layer="0")
        >>> logits, activations = net(torch.rand(2, 3, 16, 16))
        >>> logits.shape, activations.shape, net.head().route.value
        (torch.Size([2, 5]), torch.Size([2, 8, 16, 16]), 'closed form')
    """
    if isinstance(layer, nn.Module):
        layer = next((name for name, module in model.named_modules() if module is layer), repr(layer))
    return Captured(model, None if layer is None else [layer])


def probe_layers(network: Captured, images: Tensor, score: Score) -> dict[str, GradientRoute]:
    """How the gradient of the score reaches every watched layer, in the mode that the network is in.

    Args:
        network: a copy, since a pass in training mode moves batch norm's statistics.
        images: (batch, channels, height, width), two at least.
        score: whose gradient is looked at.
    """

    def forward(batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, grids = network.grids(network.normalised(batch))
        network.linear = network.linear or linear_head(network.backbone, logits.shape[1])
        return _wide(logits), grids

    return probe(forward, images, score, network.class_weights)


def probe_routes(network: Captured, images: Tensor, score: Score) -> Routes:
    """The route to the target layer in both modes; arguments as for :func:`probe_layers`."""
    network = copy.deepcopy(network)
    evaluation, training = (probe_layers(network.train(mode), images, score)[network.layer] for mode in (False, True))
    return Routes(training, evaluation)


def logits_of(output: object) -> Tensor:
    """The logits in what a classifier returns: a tensor, or the first of an object's, mapping's or tuple's."""
    named = getattr(output, "logits", None)
    tensor = named if isinstance(named, Tensor) else first_tensor(output)
    if tensor is None or tensor.dim() != 2:
        shape = type(output).__name__ if tensor is None else " x ".join(map(str, tensor.shape))
        raise UserError(f"the network gives {shape} and not logits (batch, classes); give a classifier")
    return tensor


def _with_first(output: object, tensor: Tensor) -> object:
    """A module's output with another tensor in place of its first one."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, tuple):
        first = next(number for number, part in enumerate(output) if isinstance(part, Tensor))
        parts = (*output[:first], tensor, *output[first + 1 :])
        return type(output)(*parts) if hasattr(output, "_fields") else parts
    assert isinstance(output, MutableMapping)
    changed = copy.copy(output)
    changed[next(key for key, part in output.items() if isinstance(part, Tensor))] = tensor
    return changed


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
