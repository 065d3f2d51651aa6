"""Compiled code gives the maps and gradients of the plain network."""

from __future__ import annotations

import copy

import pytest
import torch
from passes import classifier, pass_through, regularised_arm, relative_difference, shapes_batch

from camtrain.config.options import CamConfig, Conflict, Score
from camtrain.networks.capture import probe_routes
from camtrain.networks.compile import compile_network
from camtrain.networks.layers import Layer, Layout
from camtrain.training.step import train_step

GRIDS = {
    "small_resnet": Layer(64, 8, 8, Layout.channels_first),
    "squeezenet1_0": Layer(512, 4, 4, Layout.channels_first),
}


@pytest.mark.parametrize("conflict", list(Conflict))
@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_a_compiled_step_has_the_gradients_and_the_share_of_a_plain_one(name: str, conflict: Conflict) -> None:
    """With a backend that captures the graphs and differentiates them, but generates no code, which takes a minute."""
    model, batch = classifier(name), shapes_batch()
    cam = CamConfig(conflict=conflict, confidence_exponent=0.0)
    gradients, shares = [], []
    for compiled in (False, True):
        arm = regularised_arm(copy.deepcopy(model), cam, batch.images, 1e-3)
        if compiled:
            compile_network(arm.network, GRIDS[name], backend="aot_eager")
        share = train_step(arm, batch, 1.0, observe=True).observed.cam_share
        gradients.append(
            {key: weight.grad for key, weight in arm.network.named_parameters() if weight.grad is not None}
        )
        shares.append(0.0 if share is None else float(share))
    assert relative_difference(*gradients) < 1e-3
    assert shares == pytest.approx([0.5, 0.5], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_compiled(name: str) -> None:
    model, batch = classifier(name), shapes_batch()
    model.routes = probe_routes(model, batch.images, Score.centred)
    compiled = copy.deepcopy(model)
    compile_network(compiled, GRIDS[name])
    assert compiled.state_dict().keys() == model.state_dict().keys()
    (logits, term, gradients), (logits_, term_, gradients_) = (
        pass_through(which, batch, model.routes) for which in (model, compiled)
    )
    torch.testing.assert_close(logits_, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(term_, term, rtol=1e-4, atol=1e-4)
    assert relative_difference(gradients, gradients_) < 5e-3
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(batch.images), model.eval()(batch.images), rtol=1e-4, atol=1e-4)
