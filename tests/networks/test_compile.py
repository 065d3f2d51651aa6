"""Compiled code gives the maps and gradients of the plain network."""

from __future__ import annotations

import copy

import pytest
import torch
from passes import classifier, pass_through, relative_difference, shapes_batch

from camtrain.config.options import Conflict
from camtrain.config.schema import CamConfig, OptimConfig
from camtrain.loss.balance import Balance
from camtrain.networks.compile import compile_network
from camtrain.training.arm import make_arms
from camtrain.training.checks import probe_paths
from camtrain.training.step import train_step


@pytest.mark.parametrize("conflict", list(Conflict))
@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_a_compiled_step_has_the_gradients_and_the_share_of_a_plain_one(name: str, conflict: Conflict) -> None:
    """With a backend that captures the graphs and differentiates them, but generates no code, which takes a minute."""
    model, batch = classifier(name), shapes_batch()
    paths = probe_paths(model, batch.images, CamConfig())
    cam = CamConfig(conflict=conflict, confidence_exponent=0.0)
    gradients, shares = [], []
    for compiled in (False, True):
        arm = make_arms(copy.deepcopy(model), OptimConfig(), 1e-3, paths, Balance(0.5))[1]
        if compiled:
            compile_network(arm.model, paths, backend="aot_eager")
        step = train_step(arm, batch, cam, 1.0, observe=True)
        gradients.append({key: weight.grad for key, weight in arm.model.named_parameters() if weight.grad is not None})
        shares.append(float(step.cam_share) if step.cam_share is not None else 0.0)
    assert relative_difference(*gradients) < 1e-3
    assert shares == pytest.approx([0.5, 0.5], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_compiled(name: str) -> None:
    model, batch = classifier(name), shapes_batch()
    paths = probe_paths(model, batch.images, CamConfig())
    compiled = copy.deepcopy(model)
    compile_network(compiled, paths)
    assert compiled.state_dict().keys() == model.state_dict().keys()
    (logits, term, gradients), (logits_, term_, gradients_) = (
        pass_through(which, batch, paths) for which in (model, compiled)
    )
    torch.testing.assert_close(logits_, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(term_, term, rtol=1e-4, atol=1e-4)
    assert relative_difference(gradients, gradients_) < 5e-3
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(batch.images), model.eval()(batch.images), rtol=1e-4, atol=1e-4)
