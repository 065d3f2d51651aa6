"""The criterion in loops of one's own: the command's gradients, however the loss is scaled, split or compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from small import batch, classifier
from torch import Tensor

from camtrain import CamLoss, UserError, capture
from camtrain.arms import REGULARISED
from camtrain.cam.head import head_behind
from camtrain.cam.routes import GradientRoute
from camtrain.data.batches import Batch
from camtrain.loss.classification import classification_loss
from camtrain.networks.capture import Captured
from camtrain.networks.classifier import Classifier
from camtrain.networks.small_resnet import SmallResNet
from camtrain.training.arm import Arm
from camtrain.training.step import train_step

SETTINGS = {"weight": 3.0, "confidence_exponent": 1.0}


def double(name: str) -> Classifier:
    """In float64, without what differs between halves of a batch."""
    model = classifier(name).double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def made() -> Batch:
    """Of classes whose maps are alive, so that halves of the batch count as many."""
    images, _, *others = batch()
    return Batch(images[:, :, ::2, ::2].double(), torch.tensor([0, 2, 2, 0]), *others)


def gradients(net: torch.nn.Module, run: Callable[[], None]) -> dict[str, Tensor]:
    net.zero_grad()
    run()
    return {name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_gradients_are_those_of_the_command(name: str) -> None:
    model, given = double(name), made()
    criterion = CamLoss(**SETTINGS)
    nothing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0, fused=True)
    by_command = gradients(
        model.backbone, lambda: train_step(Arm(REGULARISED, model, nothing, criterion), given, 1.0, True) and None
    )
    net = capture(copy.deepcopy(model.backbone), model.layer).eval()
    images = model.normalised(given.images)

    def pieces(parts: int, scale: float = 1.0) -> Callable[[], None]:
        def run() -> None:
            for some, target in zip(images.chunk(parts), given.targets.chunk(parts), strict=True):
                (criterion(*net(some), target) * scale / parts).backward()

        return run

    found = {"plain": gradients(net.backbone, pieces(1)), "halves": gradients(net.backbone, pieces(2))}
    scaled = gradients(net.backbone, pieces(1, 65536.0))
    found["scaled"] = {key: gradient / 65536.0 for key, gradient in scaled.items()}
    for ours in found.values():
        assert ours.keys() == by_command.keys()
        for key, expected in by_command.items():
            torch.testing.assert_close(ours[key], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
def test_a_compiled_trunk_gives_the_same_gradients() -> None:
    model, given = double("small_resnet"), made()
    criterion, images = CamLoss(**SETTINGS), model.normalised(given.images)
    plain = capture(copy.deepcopy(model.backbone), "layer3").eval()
    expected = gradients(plain.backbone, lambda: criterion(*plain(images), given.targets).backward())
    net = capture(copy.deepcopy(model.backbone), "layer3").eval()
    for name in ("layer1", "layer2", "layer3"):
        net.backbone.get_submodule(name).compile(backend="aot_eager")
    ours = gradients(net.backbone, lambda: criterion(*net(images), given.targets).backward())
    whole = capture(copy.deepcopy(model.backbone), "layer3").eval()
    whole.backbone.compile(backend="aot_eager")
    all_of_it = gradients(whole.backbone, lambda: criterion(*whole(images), given.targets).backward())
    for key, gradient in expected.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(all_of_it[key], gradient, rtol=1e-9, atol=1e-12)


def weights_of_loop(net: Captured, scale: float, dtype: torch.dtype | None = None) -> tuple[list[float], CamLoss]:
    criterion, given = CamLoss(), batch()
    images = given.images[:, :, ::2, ::2]
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)
    weights = []
    for _ in range(3):
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = criterion(*net(images), given.targets)
        assert loss.dtype is torch.float32
        optimiser.zero_grad()
        (loss * scale).backward()
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter.grad /= scale
        optimiser.step()
        assert criterion.balance is not None
        weights.append(float(criterion.balance.weight()))
    return weights, criterion


def test_the_automatic_weight_learns_without_being_asked_and_does_not_see_the_scale() -> None:
    model = classifier("small_resnet")
    loops = [capture(copy.deepcopy(model.backbone), "layer3") for _ in range(3)]
    plain, criterion = weights_of_loop(loops[0], 1.0)
    scaled, _ = weights_of_loop(loops[1], 1024.0)
    assert min(plain) > 0
    assert len(set(plain)) > 1
    assert scaled == pytest.approx(plain, rel=1e-4)
    lower, _ = weights_of_loop(loops[2], 1.0, torch.bfloat16)
    assert lower[0] == pytest.approx(plain[0], rel=0.2)
    other = CamLoss()
    assert all(isinstance(value, Tensor) for value in criterion.state_dict().values())
    other.load_state_dict(criterion.state_dict())
    assert criterion.balance is not None
    assert other.balance.numbers() == criterion.balance.numbers()


def test_validation_is_plain_classification() -> None:
    model, given = classifier("small_resnet"), batch()
    net, criterion = capture(model.backbone, "layer3").eval(), CamLoss()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            logits, activations = net(given.images)
            assert torch.equal(
                criterion(logits, activations, given.targets), classification_loss(logits, given.targets).mean()
            )


def test_activations_that_were_copied_on_the_way_are_still_known() -> None:
    model, given = double("small_resnet"), made()
    net, criterion = capture(model.backbone, "layer3").eval(), CamLoss(**SETTINGS)
    images = model.normalised(given.images)
    whole = gradients(net, lambda: criterion(*net(images), given.targets).backward())

    def copied() -> None:
        logits, activations = net(images)
        criterion(logits, activations * 1.0, given.targets).backward()

    for key, gradient in gradients(net, copied).items():
        torch.testing.assert_close(gradient, whole[key], rtol=1e-9, atol=1e-12)
    logits, activations = net(images)
    with pytest.raises(UserError, match="the logits do not depend on them"):
        criterion(logits * 1.0, activations * 1.0, given.targets)
    with pytest.raises(UserError, match="detached"):
        criterion(logits * 1.0, activations.detach(), given.targets)


def test_another_loss_that_reaches_the_layer_is_not_taken_for_the_term() -> None:
    """The automatic weight and what is taken out of the gradient are those of the loop without it."""
    model, given = double("small_resnet"), made()
    images = model.normalised(given.images)

    def trained_beside(other: float) -> tuple[dict[str, Tensor], CamLoss]:
        net, criterion = capture(copy.deepcopy(model.backbone), "layer3").eval(), CamLoss(confidence_exponent=0)

        def run() -> None:
            logits, activations = net(images)
            (criterion(logits, activations, given.targets) + other * logits.square().mean()).backward()

        for _ in range(3):
            found = gradients(net, run)
        alone = gradients(net, lambda: (other * net(images).logits.square().mean()).backward())
        return {key: gradient - alone.get(key, 0.0) for key, gradient in found.items()}, criterion

    (without, plain), (beside, criterion) = trained_beside(0.0), trained_beside(5.0)
    assert plain.balance is not None
    assert criterion.balance is not None
    assert float(criterion.balance.weight()) == pytest.approx(float(plain.balance.weight()), rel=1e-9)
    assert float(criterion.observed().cam_share) == pytest.approx(0.5, abs=0.1)
    for key, gradient in without.items():
        torch.testing.assert_close(gradient, beside[key], rtol=1e-6, atol=1e-9)


def test_the_first_step_knows_where_the_cells_lie() -> None:
    images = batch().images
    for registered in (True, False):
        net = capture(SmallResNet(3, tiles=False), "layer3")
        net.registered = registered
        activations = net(images).activations
        assert head_behind(activations).placement == (net.cells(images) if registered else None)
        assert net.training


def test_a_network_switched_from_outside_is_probed_in_each_mode() -> None:
    network = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 6, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        *(torch.nn.Dropout(0.5), torch.nn.Linear(6, 3)),
    )
    net = capture(network, "0")
    network.eval()
    assert head_behind(net(batch().images).activations).route is GradientRoute.closed
    network.train()
    assert head_behind(net(batch().images).activations).route is GradientRoute.autograd


def test_what_the_criterion_needs_is_said() -> None:
    logits, activations = capture(classifier("small_resnet").backbone, "layer3").eval()(batch().images)
    with pytest.raises(UserError, match="energy_outside needs regions"):
        CamLoss(term="energy_outside")(logits, activations, batch().targets)
    with pytest.raises(UserError, match="soft labels"):
        CamLoss()(logits, activations, torch.full((4, 3), 1 / 3))
    with pytest.raises(UserError, match="no pass with gradients"):
        CamLoss().observed()
    criterion = CamLoss(share=0.25, confidence_exponent=0)
    criterion(logits, activations, batch().targets)
    assert float(criterion.observed().cam_share) == pytest.approx(0.25)  # before it goes backward
    assert repr(criterion) == "CamLoss(share=0.25, confidence_exponent=0)"


def test_settings_are_checked() -> None:
    for settings, message in (
        ({"wieght": 1}, "wieght: the CAM term has no such setting; it has variant, score, term, weight"),
        ({"term": "energy"}, "term=energy does not fit; it must be one of entropy, area"),
        ({"variant": "eigencam"}, "variant=eigencam does not fit"),
        ({"share": 2.0}, "share=2 is out of range"),
        ({"weight": "much"}, "weight: much does not fit"),
    ):
        with pytest.raises(UserError, match=message):
            CamLoss(**settings)
    net = capture(classifier("squeezenet1_0").backbone, "features")
    with pytest.raises(UserError, match="variant=cam needs global average pooling"):
        CamLoss(variant="cam")(*net(batch().images), batch().targets)
    mixed = capture(classifier("small_resnet").backbone, "layer2").train()
    with pytest.raises(UserError, match="a batch norm behind the target layer"):
        CamLoss()(*mixed(batch().images), batch().targets)
