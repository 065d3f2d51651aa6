"""The Python interface: its examples, maps and figures of any network, and what is refused."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, FinishedRun
from measured import network
from own_networks import Untraceable
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import camtrain
from camtrain.cam.stretch import upsample
from camtrain.metrics.pointing import energy_in_mask
from camtrain.networks.capture import Captured


@pytest.mark.parametrize("name", sorted(set(camtrain._PLACES.values())))
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"camtrain.{name}"), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0
    assert found.attempted or name == "errors"


def test_importing_it_imports_nothing() -> None:
    code = "import sys, camtrain; assert not {'torch', 'hydra', 'numpy'} & set(sys.modules); camtrain.CamLoss"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert set(camtrain.__all__) <= set(dir(camtrain))
    with pytest.raises(AttributeError, match="no attribute 'capturing'"):
        camtrain.capturing  # noqa: B018


@pytest.mark.parametrize(("method", "theirs"), [("gradcam", GradCAM), ("layercam", LayerCAM)])
def test_maps_are_those_of_the_library(method: str, theirs: type) -> None:
    plain = Untraceable().eval()
    images = torch.rand(2, 3, 32, 32)
    targets = [ClassifierOutputTarget(number) for number in (1, 2)]
    with theirs(model=plain, target_layers=[plain.act]) as made:
        expected = torch.from_numpy(made(images, targets))
    ours = camtrain.maps(camtrain.capture(plain, "act"), images, torch.tensor([1, 2]), method).relu()
    stretched = torch.nn.functional.interpolate(ours[:, None], (32, 32), mode="bilinear")[:, 0]
    low, high = (getattr(stretched, end)((1, 2), keepdim=True) for end in ("amin", "amax"))
    torch.testing.assert_close((stretched - low) / (1e-7 + high - low), expected, rtol=0, atol=2e-3)
    predicted = plain(images).argmax(1)
    net = camtrain.capture(plain.train(), "act")
    with torch.inference_mode():
        torch.testing.assert_close(camtrain.maps(net, images), camtrain.maps(net, images, predicted))
    assert plain.training
    drawn = camtrain.maps(net, images, 2, stretched=True)
    torch.testing.assert_close(drawn, upsample(camtrain.maps(net, images, 2), (32, 32), net.cells(images)))
    assert torch.equal(camtrain.maps(net, images, 2), camtrain.maps(net, images, torch.tensor([2, 2])))


def test_cells_are_tiles_where_that_is_asked_for() -> None:
    networks, batches = measured_networks()
    quick = {"faithfulness_images": 0}
    found = camtrain.compare(networks, batches, **quick)
    again = camtrain.compare(networks, batches, **quick, registered=False)
    assert all(net.registered for net in networks.values())
    for name, net in networks.items():
        assert found.figures[name]["cam/entropy"] == again.figures[name]["cam/entropy"]
        maps = torch.cat([camtrain.maps(net, images, targets) for images, targets, _ in batches])
        regions = torch.cat([region for _, _, region in batches])
        for figures, placement in ((found.figures, net.cells(batches[0][0])), (again.figures, None)):
            expected = float(energy_in_mask(maps, regions, placement).double().mean())
            assert figures[name]["cam/energy_in_mask"] == pytest.approx(expected)


def measured_networks() -> tuple[dict[str, Captured], list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    regions = torch.zeros(6, 32, 32, dtype=torch.uint8)
    regions[:, 4:20, 8:24] = 1
    images, targets = torch.rand(6, 3, 32, 32, generator=generator), torch.arange(6) % 3
    batches = [(images[:4], targets[:4], regions[:4]), (images[4:], targets[4:], regions[4:])]
    return {name: camtrain.capture(Untraceable(), "act") for name in ("plain", "trained")}, batches


def test_figures_are_those_of_the_images() -> None:
    networks, batches = measured_networks()
    found = camtrain.compare(networks, batches, faithfulness_images=4, road_images=0)
    assert list(found.figures) == ["plain", "trained", "control", "control_area"]
    figures = found.figures["trained"]
    assert figures == pytest.approx(
        camtrain.measure(networks["trained"], batches, faithfulness_images=4, road_images=0), nan_ok=True
    )
    logits = torch.cat([networks["trained"](images).logits for images, *_ in batches])
    target = torch.cat([targets for _, targets, _ in batches])
    assert figures["accuracy/val"] == pytest.approx(float((logits.argmax(1) == target).double().mean()))
    assert 0 < figures["cam/energy_in_mask"] < 1
    change = found.intervals["trained"]["cam/entropy"]
    each = found.each["trained"]["cam/entropy"] - found.each["plain"]["cam/entropy"]
    assert change.estimate == pytest.approx(float(each.nanmean()))
    assert "± " in str(found)
    assert "energy in mask" in str(found)


def test_what_is_refused(tmp_path: Path) -> None:
    networks, batches = measured_networks()
    for wrong, message in (
        ({"method": "gradcam+"}, r"method=gradcam\+: no such map; choose one of cam, gradcam"),
        ({"faithfulness": 3}, "faithfulness: no such setting; there are max_images"),
        ({"max_images": 0}, "max_images=0 is out of range"),
        ({"sanity_images": 2}, "sanity_images: no such setting"),
        ({"maps": ["nope"]}, "maps=nope: no such map"),
    ):
        with pytest.raises(camtrain.UserError, match=message):
            camtrain.compare(networks, batches, **wrong)
    net = networks["plain"]
    for given, message in (
        (lambda: camtrain.compare({"one": net}, batches), "two at least are compared"),
        (lambda: camtrain.compare({"control": net, "other": net}, batches), "this name is taken"),
        (lambda: camtrain.measure(Untraceable(), batches), "Untraceable: the network is not captured"),  # type: ignore[arg-type]
        (lambda: camtrain.measure(net, [(*batches[0][:2], torch.ones(4, 5, 5))]), "4 x 5 x 5 do not fit images 4 x 3"),
        (lambda: camtrain.maps(net, batches[0][0][0]), "give a batch"),
        (lambda: camtrain.maps(camtrain.capture(Untraceable(), "last"), batches[0][0], 0, "cam"), "method=cam needs"),
    ):
        with pytest.raises(camtrain.UserError, match=message):
            given()
    with pytest.raises(camtrain.UserError, match="there are none"):
        camtrain.measure(networks["plain"], iter([]))
    images, *others = batches[0]
    with pytest.raises(camtrain.UserError, match=r"the network arm's logits are not finite on \d+ of"):
        camtrain.measure(networks["plain"], [(images * torch.inf, *others)])
    with pytest.raises(camtrain.UserError, match="no finished run"):
        camtrain.load_run(tmp_path)


def test_a_run_is_loaded_with_its_networks(fake_run: FinishedRun) -> None:
    run = camtrain.load_run(fake_run.folder)
    assert list(run.networks) == list(run.result.arms)
    images = torch.rand(2, 3, run.result.config.dataset.image_size, run.result.config.dataset.image_size)
    assert camtrain.maps(run.networks["regularised"], images).shape[0] == 2
    assert isinstance(network(True, 3), Captured)
