"""Terms that hide parts of the image: by hand, without a hold on what is measured at the layer or remembered."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, SEVERAL, TINY, Command
from one_step import assert_alike, gradients, seen
from small import CLOSED, batch, classifier
from torch import Tensor, nn

from camtrain import CamLoss, UserError
from camtrain.cam.head import head_behind
from camtrain.cam.stretch import Axis, Placement
from camtrain.config.options import SECOND_PASS, ViewKind
from camtrain.data.batches import Batch
from camtrain.data.blur import blur
from camtrain.loss.masked import FirstPass, best_pixels, divergence, map_mask, shown, with_noise
from camtrain.networks.capture import Captured, capture
from camtrain.networks.classifier import Classifier, Output
from camtrain.networks.compile import compile_network
from camtrain.networks.layers import Layer, Layout
from camtrain.training.arm import Arm
from camtrain.training.step import train_step

WEIGHTS = {"keep": 0.25, "masked_kl": 0.5, "saliency_guided": 1.0}


def double(count: int = 6) -> Batch:
    made = batch(count=count)
    return made._replace(images=made.images.double())


def twice(
    weight: float | str = "auto", made: Batch | None = None, **settings: Any
) -> tuple[Classifier, Batch, CamLoss, Tensor, Output]:
    """A network in evaluation mode, what it was given, the criterion, its loss and the first pass."""
    torch.manual_seed(0)
    model, made = classifier("small_resnet").double().eval(), made or double()
    criterion = CamLoss(only_loss=True, weight=weight, **settings)
    output = model(made.images)
    loss = criterion(*output, made.targets, made.regions, again=model.again(made.images), views=made.views)
    return model, made, criterion, loss, output


def first_maps(criterion: CamLoss, made: Batch, output: Output) -> Tensor:
    maps = criterion.term(*output, made.targets, None, False).maps
    assert maps is not None
    return maps


# ---- images with parts hidden


def test_a_masked_image_by_hand() -> None:
    images, mask = torch.rand(2, 3, 32, 48, dtype=torch.float64), torch.rand(2, 32, 48, dtype=torch.float64)
    hidden = shown(images, mask)
    blurred = blur(images)
    for place in ((0, 1, 3, 40), (1, 2, 31, 0)):
        image, _, row, column = place
        m = float(mask[image, row, column])
        assert float(hidden[place]) == pytest.approx(m * float(images[place]) + (1 - m) * float(blurred[place]))
    assert torch.equal(shown(images, torch.ones(2, 32, 48, dtype=torch.bool)), images)
    assert torch.equal(shown(images, torch.zeros(2, 32, 48, dtype=torch.bool)), blurred)


def test_masks_of_maps() -> None:
    maps = torch.tensor([[[-1.0, 2.0], [0.5, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    mask = map_mask(maps, (8, 8), None)
    assert mask[0, 0, 7] == 1.0
    assert mask[0, 7, 0] == pytest.approx(0.25)
    assert mask.min() == 0.0
    assert mask[1].max() == 0.0
    best = best_pixels(maps, (8, 8), None)
    assert best.flatten(1).sum(1).tolist() == [16, 16]
    assert mask[0][best[0]].min() >= mask[0][~best[0]].max()


def test_noise_falls_on_the_pixels_of_smallest_gradient() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 6, 8, dtype=torch.float64) * 0.4 + torch.tensor([0.1, 0.3, 0.5])[:, None, None, None]
    gradient = torch.randn(3, 3, 6, 8, dtype=torch.float64)
    noisy = with_noise(images, gradient)
    for image, other, slope in zip(images, noisy, gradient, strict=True):
        order = np.argsort(np.abs(slope.numpy().mean(0)).ravel())
        changed = (image != other).numpy().reshape(3, -1)
        assert changed[:, order[:24]].all()
        assert not changed[:, order[24:]].any()
        assert other.min() >= image.min()
        assert other.max() <= image.max()
        drawn = other.numpy().reshape(3, -1)[:, order[:24]]
        assert drawn.std() == pytest.approx(float(image.max() - image.min()) / math.sqrt(12), rel=0.2)
        assert len(np.unique(drawn)) == drawn.size  # channels too


def kl(logits: list[float], others: list[float]) -> float:
    p, q = ([math.exp(value) / math.fsum(map(math.exp, part)) for value in part] for part in (logits, others))
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_the_divergence_by_hand() -> None:
    one, other = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    by_hand = [kl(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert divergence(one, other).tolist() == pytest.approx(by_hand)
    assert divergence(one, one).tolist() == pytest.approx([0.0] * 4, abs=1e-12)


# ---- the terms, image by image


def test_keep_is_the_cross_entropy_of_what_the_map_shows() -> None:
    model, made, criterion, loss, output = twice(2.0, keep=0.25, confidence_exponent=1.5, term="none")
    maps, placement = first_maps(criterion, made, output), head_behind(output.activations).placement
    values, alive = [], 0
    for i, image in enumerate(made.images):
        if float(maps[i].relu().sum()) <= 1e-4 * float(maps[i].abs().sum()):
            continue
        alive += 1
        mask = map_mask(maps[i : i + 1], (64, 64), placement)[0]
        logits = model((mask * image + (1 - mask) * blur(image[None])[0])[None]).logits[0].tolist()
        target = int(made.targets[i])
        p = math.exp(output.logits[i, target].item()) / math.fsum(map(math.exp, output.logits[i].tolist()))
        values.append(p**1.5 * (math.log(math.fsum(map(math.exp, logits))) - logits[target]))
    assert 1 < alive < len(made.images)
    by_hand = math.fsum(values) / alive
    found = criterion.observed()
    assert float(found.further["keep"]) == pytest.approx(by_hand, rel=1e-9)
    assert float(loss.detach() - found.classification) == pytest.approx(0.25 * by_hand, rel=1e-9)


def test_masked_kl_compares_the_maps_best_quarter_with_the_image() -> None:
    model, made, criterion, loss, output = twice(2.0, masked_kl=0.5, term="none")
    maps, placement = first_maps(criterion, made, output), head_behind(output.activations).placement
    values = []
    for i, image in enumerate(made.images):
        if float(maps[i].relu().sum()) <= 1e-4 * float(maps[i].abs().sum()):
            continue
        mask = map_mask(maps[i : i + 1], (64, 64), placement)[0]
        best = mask >= mask.flatten().sort(descending=True).values[64 * 64 // 4 - 1]
        if int(best.sum()) > 64 * 64 // 4:  # where fewer are above 0, some of the others are drawn
            best = best_pixels(maps[i : i + 1], (64, 64), placement)[0]
        logits = model(torch.where(best, image, blur(image[None])[0])[None]).logits[0].tolist()
        values.append(kl(output.logits[i].tolist(), logits))
    by_hand = math.fsum(values) / len(values)
    assert by_hand > 0
    assert float(criterion.observed().further["masked_kl"]) == pytest.approx(by_hand, rel=1e-7)
    assert float(loss.detach() - criterion.observed().classification) == pytest.approx(0.5 * by_hand, rel=1e-7)


def test_saliency_guided_training_is_the_published_one() -> None:
    torch.manual_seed(0)
    model, made, weight = classifier("small_resnet").double().eval(), double(), 1.5
    output = model(made.images)
    criterion = CamLoss(only_loss=True, weight=1.0, saliency_guided=weight, term="none")
    torch.manual_seed(7)
    loss = criterion(*output, made.targets, again=model.again(made.images))
    loss.backward()
    ours = {key: part.grad.clone() for key, part in model.named_parameters() if part.grad is not None}
    # As in their code: gradients of the input, the lowest half filled, KLDivLoss(batchmean) with the gradient of both.
    model.zero_grad()
    images = made.images.clone().requires_grad_()
    scores = model(images).logits
    (slope,) = torch.autograd.grad(scores[torch.arange(6), made.targets].sum(), images)
    torch.manual_seed(7)
    noise, masked = torch.rand_like(images), made.images.clone()
    for i, image in enumerate(made.images):
        lowest = slope[i].mean(0).abs().flatten().argsort()[: 64 * 64 // 2]
        low, high = image.min(), image.max()
        for channel in range(3):
            masked[i, channel].view(-1)[lowest] = (low + (high - low) * noise[i, channel]).view(-1)[lowest]
    one, other = model(made.images).logits, model(masked).logits
    divergences = nn.KLDivLoss(reduction="batchmean")(other.log_softmax(1), one.softmax(1))
    expected = nn.CrossEntropyLoss()(one, made.targets) + weight * divergences
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    expected.backward()
    assert_alike({key: part.grad for key, part in model.named_parameters() if part.grad is not None}, ours)


# ---- beside the rest of the loss


@pytest.mark.parametrize("name", SECOND_PASS)
def test_gradients_reach_the_trunk_and_add_to_the_others(name: str) -> None:
    made, settings = double(), {"weight": 0.5, "conflict": "keep"}
    with_both, _ = gradients("small_resnet", made, **settings, **{name: WEIGHTS[name]})
    without, _ = gradients("small_resnet", made, **settings)
    itself, _ = gradients("small_resnet", made, **settings, term="none", consistency=0.0, **{name: WEIGHTS[name]})
    plain, _ = gradients("small_resnet", made, weight=0)
    assert_alike(with_both, {key: without[key] + itself[key] - plain[key] for key in plain})
    first = next(key for key in plain if "conv" in key)
    assert float((itself[first] - plain[first]).abs().max()) > 0


@pytest.mark.parametrize("name", SECOND_PASS)
@pytest.mark.parametrize("network", ["small_resnet", "squeezenet1_0"])
@pytest.mark.parametrize("only_loss", [True, False])
def test_what_is_measured_at_the_layer_does_not_know_of_them(name: str, network: str, only_loss: bool) -> None:
    made = double(4)
    torch.manual_seed(0)
    _, alone = gradients(network, made, weight="auto", only_loss=only_loss)
    torch.manual_seed(0)
    _, beside = gradients(network, made, weight="auto", only_loss=only_loss, **{name: WEIGHTS[name]})
    assert alone.balance is not None
    assert beside.balance is not None
    assert float(alone.balance.weight()) > 0
    assert beside.balance.numbers() == alone.balance.numbers()
    assert torch.equal(beside.observed().cam_share, alone.observed().cam_share)  # type: ignore[arg-type]
    assert name in beside.observed().further


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", SECOND_PASS)
def test_statistics_are_those_of_a_step_without(name: str, compiled: bool) -> None:
    trained = []
    for weights in ({}, {name: WEIGHTS[name]}):
        torch.manual_seed(0)
        model = classifier("small_resnet").train()
        if compiled:
            model.routes = CLOSED
            compile_network(model, Layer(64, 8, 8, Layout.channels_first), backend="aot_eager")
        nothing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0, fused=True)
        train_step(Arm("one", model, nothing, CamLoss(**weights)), batch(count=8), 1.0, observe=True)
        assert all(module.track_running_stats for module in model.modules() if isinstance(module, nn.BatchNorm2d))
        trained.append(dict(model.named_buffers()))
    for key, value in trained[0].items():
        assert torch.equal(value, trained[1][key]), key


def test_a_further_pass_is_the_networks_own() -> None:
    images = batch(count=8).images
    for mode in (True, False):
        model = classifier("small_resnet").train(mode)
        again = model.again(images)(lambda given: given)
        assert torch.equal(again.logits, model(images).logits)
    frozen = classifier("small_resnet")
    frozen.frozen = True
    frozen.train()
    assert torch.equal(frozen.again(images)(lambda given: given).logits, frozen(images).logits)


@pytest.mark.parametrize("kind", [ViewKind.mirror, ViewKind.paste])
def test_views_count_where_the_classification_loss_counts_them(kind: ViewKind) -> None:
    made = seen(kind, count=8)
    _, _, beside, _, _ = twice(1.0, made, **WEIGHTS, views=kind.value)
    alone = made.without_views()
    torch.manual_seed(0)
    model = classifier("small_resnet").double().eval()
    counted: list[int] = []

    def again(images: Tensor) -> Callable[[Callable[[Tensor], Tensor]], Output]:
        def run(change: Callable[[Tensor], Tensor]) -> Output:
            changed = change(images)
            counted.append(len(changed))
            return model(changed)

        return run

    criterion = CamLoss(weight=1.0, **WEIGHTS, views=kind.value)
    criterion(*model(made.images), made.targets, views=made.views, again=again(made.images))
    assert counted == [made.classified] * 4
    if kind is ViewKind.paste:
        _, _, without, _, _ = twice(1.0, alone, **WEIGHTS)
        for name in ("keep", "masked_kl"):
            assert torch.allclose(beside.observed().further[name], without.observed().further[name])


def test_they_wait_for_the_schedule_and_a_weight_of_zero_is_plain() -> None:
    made = batch()

    def never(_change: Callable[[Tensor], Tensor]) -> Output:
        raise AssertionError("no further pass was due")

    model = classifier("small_resnet").eval()
    plain = CamLoss(weight=0)(*model(made.images), made.targets)
    off = CamLoss(weight=0, **WEIGHTS)
    assert torch.equal(off(*model(made.images), made.targets, again=never), plain)
    assert off.observed().further == {}
    early = CamLoss(start=2.0, ramp=2.0, **WEIGHTS)
    assert torch.equal(early(*model(made.images), made.targets, epochs_done=1.0, again=never), plain)
    with torch.no_grad():
        assert torch.equal(CamLoss(**WEIGHTS)(*model(made.images), made.targets, again=never), plain)
    loss = twice(1.0, term="none", keep=1.0)[3]
    by_half = CamLoss(weight=1.0, term="none", keep=1.0, ramp=2.0)
    model, made = classifier("small_resnet").double().eval(), double()
    torch.manual_seed(0)
    ramped = by_half(*model(made.images), made.targets, epochs_done=1.0, again=model.again(made.images))
    classification = by_half.observed().classification
    assert float(ramped.detach() - classification) == pytest.approx(0.5 * float(loss.detach() - classification))


def test_in_a_loop_of_ones_own() -> None:
    net, made = capture(copy.deepcopy(classifier("small_resnet").backbone), "layer3").train(), batch(count=8)
    assert isinstance(net, Captured)
    criterion = CamLoss(**WEIGHTS)
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(*net(made.images), made.targets, again=net.again(made.images))
    loss.backward()
    assert loss.dtype is torch.float32
    assert all(bool(value.isfinite()) and float(value) > 0 for value in criterion.observed().further.values())
    with pytest.raises(UserError, match=r"keep needs a further pass: give again=net.again\(images\)"):
        criterion(*net(made.images), made.targets)
    several = batch(multilabel=True)
    with pytest.raises(UserError, match=r"masked_kl=1: images have several classes"):
        CamLoss(masked_kl=1.0)(*net(several.images), several.targets, again=net.again(several.images))


def test_dead_maps_show_nothing_and_count_for_nothing() -> None:
    maps = torch.stack([torch.full((4, 4), -1.0), torch.eye(4)])
    first = FirstPass(torch.zeros(2, 3), torch.tensor([0, 1]), maps, torch.ones(2))
    assert float(first.mean(torch.tensor([5.0, 3.0]))) == 3.0
    assert float(first._replace(maps=-maps.abs()).mean(torch.ones(2))) == 0.0


# ---- by the command


def test_they_train_by_the_command(run_command: Command, tmp_path: Path) -> None:
    on = [f"cam.{name}={weight:g}" for name, weight in WEIGHTS.items()]
    done = run_command(*TINY, *QUICK, "trainer.epochs=1", "trainer.max_steps=2", *on)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/*/*")
    arms = json.loads((folder / "result.json").read_text())["arms"]
    for name in SECOND_PASS:
        assert arms["regularised"]["final"][f"loss/{name}"] >= 0
        assert f"loss/{name}" not in arms["baseline"]["final"]


def test_the_command_trains_with_one_of_them_alone(run_command: Command, tmp_path: Path) -> None:
    alone = ("cam.term=none", "cam.views=none", "cam.keep=1")
    done = run_command(*TINY, *QUICK, "trainer.epochs=1", "trainer.max_steps=2", *alone)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/*/*")
    final = json.loads((folder / "result.json").read_text())["arms"]["regularised"]["final"]
    assert final["effort/cam_weight"] == 0
    assert final["loss/keep"] > 0


def test_the_command_refuses_them_for_images_of_several_classes(run_command: Command) -> None:
    done = run_command(*SEVERAL, "cam.keep=0.25")
    assert done.returncode == 2
    assert "arms.regularised.cam.keep=0.25: images have several classes" in done.stderr
    assert "Traceback" not in done.stderr


def test_rounding_does_not_choose_the_best_pixels() -> None:
    placement = Placement(Axis(3.0, 4.0, 9.0), Axis(3.0, 4.0, 9.0))
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    level = torch.ones(4, 8, 8)  # all pixels are equal
    best = best_pixels(level, (40, 40), placement)
    assert torch.equal(best, best_pixels(level + 1e-6 * noise, (40, 40), placement))
    assert not torch.equal(best, best_pixels(level + 1e-2 * noise, (40, 40), placement))
