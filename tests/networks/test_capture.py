"""Capturing by hooks: against a traced network, on networks that cannot be traced, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from own_networks import ChannelsLast, Tokens, Untraceable, Wrapped
from small import batch, classifier
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from camtrain import CamLoss, UserError, capture
from camtrain.cam.head import head_behind
from camtrain.cam.routes import GradientRoute
from camtrain.networks.capture import Captured

TARGET = torch.tensor([0, 2])


def images(*size: int) -> Tensor:
    return torch.rand(2, 3, *(size or (64, 64)), generator=torch.Generator().manual_seed(0))


def term_gradients(network: nn.Module, logits: Tensor, activations: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The CAM term of each map by autograd, and the gradient of its mean on every weight."""
    criterion = CamLoss(path="autograd", confidence_exponent=0)
    term = criterion.term(logits, activations, TARGET, None, train=True)
    names, weights = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(term.mean(), weights, allow_unused=True)
    return term.value, {name: part for name, part in zip(names, gradients, strict=True) if part is not None}


@pytest.mark.parametrize(("name", "layer"), [("squeezenet1_0", "features"), ("mobilenet_v3_small", "features.11")])
def test_hooks_give_what_a_traced_network_gives(name: str, layer: str) -> None:
    torch.manual_seed(0)  # behind SqueezeNet's last ReLU some fresh weights give nothing
    plain = get_model(name, num_classes=3).double().eval()
    net = capture(copy.deepcopy(plain), layer)
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # would overwrite what the tracer hands out
    end = next(name for name, _ in reversed([*plain.named_modules()]) if not name.startswith(layer) and name)
    traced = create_feature_extractor(plain, {layer: "layer", end.split(".")[0]: "logits"})
    out = traced(images().double())
    term, expected = term_gradients(plain, out["logits"].flatten(1), out["layer"])
    logits, activations = net(images().double())
    torch.testing.assert_close(logits, out["logits"].flatten(1))
    torch.testing.assert_close(activations, out["layer"])
    ours, gradients = term_gradients(net.backbone, logits, activations)
    torch.testing.assert_close(ours, term, rtol=0, atol=1e-12)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-9, atol=1e-12)


def test_a_network_that_cannot_be_traced_and_writes_into_its_activations() -> None:
    network = Untraceable()
    net = capture(network, layer="last")
    before = network.last(network.first(images()).relu())
    logits, activations = net(images())
    torch.testing.assert_close(activations, before)
    assert bool((activations < 0).any()), "not yet behind the ReLU"
    torch.testing.assert_close(logits, network(images()))
    assert net.head().route is GradientRoute.autograd
    by_act = capture(network, layer=network.act)
    assert by_act.layer == "act"
    by_act(images())
    assert by_act.head().route is GradientRoute.closed
    assert head_behind(by_act(images()).activations).weights is network.fc.weight


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@pytest.mark.parametrize(
    ("network", "layer", "cell"), [(Tokens(1), "block", 8), (Tokens(5), "block.1", 8), (ChannelsLast(), "pair", 4)]
)
def test_layouts(network: nn.Module, layer: str, cell: int, size: tuple[int, int]) -> None:
    net = capture(network, layer)
    logits, activations = net(images(*size))
    assert activations.shape[2:] == (size[0] // cell, size[1] // cell)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), activations, retain_graph=True)
    # Every cell is worth the same behind a mean; and patches lie where the image has them.
    if layer == "block":
        assert float(gradient.std((2, 3)).max()) < 1e-6
    moved = images(*size).roll(cell, 3)
    torch.testing.assert_close(net(moved).activations[..., 1:], activations[..., :-1])


def test_the_last_layer_that_the_score_depends_on_is_found() -> None:
    for network, layer in ((Untraceable(), "act"), (Tokens(), "block.2"), (Wrapped(Untraceable()), "network.act")):
        net = capture(network)
        net(images())
        assert net.layer == (layer if layer != "block.2" else "block")


def test_a_captured_network_stays_itself() -> None:
    network = Untraceable().eval()
    before = copy.deepcopy(network.state_dict())
    net = capture(network, "act")
    net.train()(images())
    assert network.training
    assert network.state_dict().keys() == before.keys()
    assert net(images()).logits.grad_fn is not None
    copied = copy.deepcopy(net)  # whose hook must not write into the original
    assert torch.equal(copied(images()).activations, net(images()).activations)
    assert copied.backbone is not net.backbone
    frozen = capture(Untraceable().requires_grad_(False), "act")
    logits, activations = frozen(images())
    assert torch.autograd.grad(logits.sum(), activations)[0].shape == activations.shape


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match=r"layer=layer4: the network has no such module; it has first, last, act, fc"):
        capture(Untraceable(), "layer4")
    with pytest.raises(UserError, match="has no grid"):
        capture(Untraceable(), "fc")(images())

    class Twice(Untraceable):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.act(self.last(self.act(self.first(x)))).mean((2, 3)))

    with pytest.raises(UserError, match="more than once"):
        capture(Twice(), "act")(images())

    class Aside(Untraceable):
        def forward(self, x: Tensor) -> Tensor:
            self.last(self.first(x))
            return self.fc(x.mean((1, 2))[:, :16])

    with pytest.raises(UserError, match="does not depend"):
        capture(Aside(), "last")(images())
    with pytest.raises(UserError, match="not logits"):
        capture(nn.Sequential(nn.Conv2d(3, 4, 3)), "0")(images())
    assert Captured(Untraceable(), ["first", "act"]).layer == "act"


def test_the_commands_network_hands_on_the_same_head() -> None:
    model = classifier("small_resnet").eval()
    net = capture(model.backbone, model.layer)
    ours, theirs = net.eval()(model.normalised(batch().images)), model(batch().images)
    assert torch.equal(ours.activations, theirs.activations)
    assert head_behind(ours.activations).route is head_behind(theirs.activations).route is GradientRoute.closed
