"""Logits and the activations of chosen layers from one forward pass of any network, by forward hooks.

A hook hands the layer's activations out and lets the network go on with a copy: an in-place operation behind the layer
then changes the copy, while the logits still depend on what was handed out. Activations come as grids (batch, channels,
height, width) whatever the layer's own layout; their gradient is the one a map needs. The network stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from camtrain.cam.head import Head, hand_on
from camtrain.cam.routes import GradientRoute, Routes, probe
from camtrain.cam.stretch import Placement, upsample
from camtrain.config.options import CamVariant, Score
from camtrain.errors import UserError
from camtrain.networks.classes import alone, grouped
from camtrain.networks.geometry import LOOKED_AT, followed, placed
from camtrain.networks.head_layer import linear_head
from camtrain.networks.layers import as_layer, evaluating, find, first_tensor, from_grid, to_grid


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
        self._routes: Routes | None = None  # where somebody set them
        self._probed: dict[int, GradientRoute] = {}  # by the modes of all modules
        self._taken: dict[str, Tensor] | None = None  # while a pass runs
        self._image = (0, 0)
        self._hooks: list[RemovableHandle] = []
        self.registered = True  # maps are placed where their cells lie, and not in equal tiles
        self._placements: dict[tuple[int, int], Placement] = {}  # by height and width of the image
        # What a network has of its own where it is compared with others:
        self.method: CamVariant | None = None  # the map that is measured of it; None: the same as of the others
        self.groups: Sequence[Sequence[int]] | None = None  # of each class, its outputs; None: each output is a class
        self.grid: tuple[int, int] | None = None  # that its maps are brought to; None: its own
        for name in layers or ():
            self._watch(name)

    @property
    def layer(self) -> str:
        """Name of the target layer."""
        if not self.layers:
            raise UserError("layer: none was named; the first pass finds the last one that has a grid")
        return self.layers[-1]

    @property
    def routes(self) -> Routes:
        """How the gradient of a score reaches the target layer in training and in evaluation mode, as it was set.

        Where it was not, the route is probed at the first pass in every mode; :meth:`head` has it.
        """
        assert self._routes is not None, "the routes of this network are probed as it is used"
        return self._routes

    @routes.setter
    def routes(self, routes: Routes) -> None:
        self._routes = routes

    def forward(self, images: Tensor, *others: Any, **named: Any) -> Output:
        """One pass.

        Args:
            images: (batch, channels, height, width), as the network takes them: normalised, if it was trained so.
            others: further arguments of the network, like `named`.

        Raises:
            UserError: the layer was not reached, or more than once, or its output has no grid.
        """
        self.prepare(images, *others, **named)
        logits, grids = self.grids(images, *others, **named)
        return self.handed_on(logits, grids[self.layer], images)

    def again(self, images: Tensor) -> Callable[[Callable[[Tensor], Tensor]], Output]:
        """Further passes of the same batch, for terms of the loss that look at changed images.

        They leave the statistics of batch norm as they are: validation sees whole images.

        Args:
            images: as for :meth:`forward`.

        Returns:
            From a change of the images to the pass of what it makes of them.
        """

        def run(change: Callable[[Tensor], Tensor]) -> Output:
            with _statistics_kept(self.backbone):
                output: Output = self(change(images))
                return output

        return run

    def handed_on(self, logits: Tensor, activations: Tensor, images: Tensor) -> Output:
        """Both as they leave: logits in float32 at least, and what the criterion has to know."""
        placement = self._placements.get((images.shape[-2], images.shape[-1])) if self.registered else None
        return Output(*hand_on(_wide(logits), activations, self.head()._replace(placement=placement)))

    def head(self) -> Head:
        """What follows the layer in the present mode; known after the first pass in it."""
        route = self._route()
        assert route is not None, "no pass went through this network in its present mode"
        return Head(route, self.class_weights())

    def _route(self) -> GradientRoute | None:
        if self._routes is not None:
            return self._routes.training if self.training else self._routes.evaluation
        return self._probed.get(self._mode())

    def extra_repr(self) -> str:
        """The target layer."""
        return f"layer={self.layers[-1] if self.layers else None}"

    def placement(self, images: Tensor) -> Placement | None:
        """:meth:`cells`, by which maps are stretched; None where they are not to be `registered`, or were brought to
        another grid, whose cells are equal tiles."""
        return self.cells(images) if self.registered and self.grid is None else None

    def laid_out(self, maps: Tensor, images: Tensor) -> Tensor:
        """The maps in the cells of :attr:`grid`, if there is one: the mean of :math:`L^+`, stretched to the image,
        over each of its equal tiles.

        Args:
            maps: (maps, height, width), of the network's own cells, before ReLU.
            images: (batch, channels, height, width), of that size.
        """
        if self.grid is None:
            return maps
        placed = self.cells(images) if self.registered else None
        stretched = upsample(maps, (images.shape[-2], images.shape[-1]), placed)
        return adaptive_avg_pool2d(stretched[:, None], self.grid)[:, 0]

    def cells(self, images: Tensor) -> Placement:
        """Where the target layer's cells lie in images of this size, see :func:`camtrain.networks.geometry.placed`.

        Found once per size.

        Args:
            images: (batch, channels, height, width), some of those that the network is meant for; zeros: of this size.
        """
        size = (images.shape[-2], images.shape[-1])
        if size not in self._placements:
            if not self.layers:
                self._find(images)
            with self._looking():
                self._placements[size] = placed(lambda given: self.grids(given)[1][self.layer], self._some(images))
        return self._placements[size]

    def place(self, size: tuple[int, int], placement: Placement) -> None:
        """Say where they lie in images of this height and width: of a network's copy, as of the network."""
        self._placements[size] = placement

    def placements(self, image: Tensor) -> dict[str, Placement | None]:
        """Of every watched layer by the layers' geometry; None where that cannot be followed."""
        with self._looking():
            return followed(lambda given: self.grids(given)[1], self._some(image))

    def _some(self, images: Tensor) -> Tensor:
        """The first images as the network takes them."""
        first = images[:LOOKED_AT].detach().clone()
        return self.normalised(first) if bool(first.any()) else first

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """For as long as it lasts evaluation mode, full precision, and no compiled code, which cannot be followed."""
        full = torch.autocast(next(self.parameters()).device.type, enabled=False)
        eager = torch.compiler.set_stance("force_eager")
        with evaluating(self), torch.inference_mode(False), torch.random.fork_rng([]), full, eager:
            yield

    def release(self) -> None:
        """Take the hooks off the network; after that it captures nothing."""
        for hook in self._hooks:
            hook.remove()

    def _mode(self) -> int:
        """The modes of all modules in one number: a network may be switched as a whole, in part, or from outside."""
        return hash(tuple(module.training for module in self.backbone.modules()))

    def _replicate_for_data_parallel(self) -> Captured:
        raise UserError("torch.nn.DataParallel copies a network without its hooks; use DistributedDataParallel")

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
        logits = logits_of(output)
        return logits if self.groups is None else grouped(_wide(logits), self.groups), taken

    def differentiable_twice(self) -> AbstractContextManager[None]:
        """What a pass has to run in: only the plain attention kernel has a second derivative."""
        twice = torch.is_grad_enabled() and self._route() is not GradientRoute.closed
        return sdpa_kernel(SDPBackend.MATH) if twice else nullcontext()

    def normalised(self, images: Tensor) -> Tensor:
        """What the network itself is given of images."""
        return images

    def forward_normalised(self, images: Tensor) -> Output:
        """The pass of images as :meth:`normalised` gives them."""
        output: Output = self(images)
        return output

    def class_weights(self) -> Tensor | None:
        """Weight of each class in the last linear layer, (classes, features), float32 or wider; None if it has none."""
        if self.linear is None:
            return None
        weight = self.backbone.get_submodule(self.linear).weight
        assert isinstance(weight, Tensor)
        if self.groups is None:
            return _wide(weight)
        rows = alone(self.groups)  # a class of several outputs has no weights of its own
        return None if rows is None else _wide(weight[rows])

    def _watch(self, name: str) -> None:
        modules = dict(self.backbone.named_modules())
        if name not in modules or not name:
            known = ", ".join(key for key in modules if key and key.count(".") < 2)
            raise UserError(f"layer={name}: the network has no such module; it has {known}")
        self._hooks.append(modules[name].register_forward_hook(partial(self._take, name)))
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

    def prepare(self, images: Tensor, *others: Any, **named: Any) -> None:
        """Find, before the first pass in any mode, what was left open: the layer and the route; and where the cells lie
        in images of this size, which the criterion has to know, if the network takes nothing but images.

        By passes of the first images through the network itself, which is afterwards as it was before.
        """
        if self._route() is None:
            self._find(images, *others, **named)
        if torch.is_grad_enabled() and not others and not named:
            self.placement(images)

    def _find(self, images: Tensor, *others: Any, **named: Any) -> None:
        """The layer and the route."""
        rows = [0, min(1, len(images) - 1)]

        def some(value: Any) -> Any:
            """Two rows of what belongs to the images."""
            of_images = isinstance(value, Tensor) and value.dim() > 0 and len(value) == len(images)
            return value.detach()[rows].clone() if of_images else value

        devices = [images.device] if images.device.type == "cuda" else []
        full = torch.autocast(images.device.type, enabled=False)
        with torch.inference_mode(False), torch.random.fork_rng(devices), full, _buffers_kept(self.backbone):
            first = some(images)
            if len(images) == 1:
                first[1] = first[1].flip(-1)
            given = ([some(value) for value in others], {key: some(value) for key, value in named.items()})
            if not self.layers:
                self._watch(_last_reached(self.backbone, first))
            route = probe_layers(self, first, Score.centred, *given)[self.layer]
            if route is GradientRoute.unreached:  # or logits are 0, behind a ReLU
                route = probe_layers(self, torch.randn_like(first), Score.centred, *given)[self.layer]
        if route is GradientRoute.unreached:
            raise UserError(f"layer={self.layer}: the score of a class does not depend on it; choose another layer")
        self._probed[self._mode()] = route


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


def probe_layers(
    network: Captured,
    images: Tensor,
    score: Score,
    others: Sequence[Any] = (),
    named: Mapping[str, Any] | None = None,
) -> dict[str, GradientRoute]:
    """How the gradient of the score reaches every watched layer, in the mode that the network is in.

    Args:
        network: a pass in training mode moves its batch norm's statistics.
        images: (batch, channels, height, width), two at least.
        score: whose gradient is looked at.
        others: further arguments of the network, like `named`.
        named: by name.
    """

    def forward(batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, grids = network.grids(network.normalised(batch), *others, **(named or {}))
        network.linear = network.linear or linear_head(network.backbone, logits.shape[1])
        return _wide(logits), grids

    return probe(forward, images, score, network.class_weights)


def _last_reached(network: nn.Module, images: Tensor) -> str:
    """The last layer with a grid that the score of a class depends on."""
    layers = list(find(network, (images.shape[1], images.shape[2], images.shape[3])))
    every = Captured(network, layers)
    try:
        routes = probe_layers(every, images, Score.centred) if layers else {}
    finally:
        every.release()
    reached = [name for name in layers if routes[name] is not GradientRoute.unreached]
    if not reached:
        raise UserError("no layer has a grid that the score of a class depends on; name one, or give another network")
    return reached[-1]


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    """Put back what passes change: statistics of batch norm and their like."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Batch norm in training goes on taking the batch's statistics, but does not remember them.

    Putting the remembered ones back afterwards would change what the backward passes to come rely on.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in norms:
            module.track_running_stats = True


def probe_routes(network: Captured, images: Tensor, score: Score) -> Routes:
    """The route to the target layer in both modes; arguments as for :func:`probe_layers`."""
    network = copy.deepcopy(network)
    evaluation, training = (probe_layers(network.train(mode), images, score)[network.layer] for mode in (False, True))
    return Routes(training, evaluation)


def logits_of(output: object) -> Tensor:
    """The logits in what a classifier returns: a tensor, or what is called so in an object or mapping, or the only
    (batch, classes) in it.

    Raises:
        UserError: there are none, or it is open which they are.
    """
    if isinstance(output, Tensor):
        found = [output] if output.dim() == 2 else []
    else:
        named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
        parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else []
        found = [named] if isinstance(named, Tensor) else [p for p in parts if isinstance(p, Tensor) and p.dim() == 2]
    if len(found) != 1:
        shape = " x ".join(map(str, output.shape)) if isinstance(output, Tensor) else type(output).__name__
        several = f" with {len(found)} tensors (batch, classes) and none called logits" if found else ""
        raise UserError(f"the network gives {shape}{several} and not logits (batch, classes); give a classifier")
    return found[0]


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
