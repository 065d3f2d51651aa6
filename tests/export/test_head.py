"""Gradients of heads, written out, against torch's own differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from camtrain.config.options import CamVariant, Score
from camtrain.errors import UserError
from camtrain.export.check import eager_maps, noise
from camtrain.export.head import written_out
from camtrain.export.network import MapKind, WithMap
from camtrain.networks.capture import Captured, capture

CLASSES = 5


class Functional(nn.Module):
    """DenseNet's head: a ReLU and a pool that are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classifier = trunk(), nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.classifier(self.features(images).relu_().mean((2, 3)))
        return made


class Doubled(nn.Module):
    """A head that does more than its modules say."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classifier = trunk(), nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.classifier(2 * self.features(images).mean((2, 3)))
        return made


def trunk() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6))


def behind(*head: nn.Module) -> nn.Module:
    """A network whose target layer is `features`."""
    network = nn.Sequential()
    network.add_module("features", trunk())
    network.add_module("head", nn.Sequential(*head))
    return network


HEADS = {
    "mobilenet": lambda: behind(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 7), nn.Hardswish(inplace=True), nn.Dropout(),
        nn.Linear(7, CLASSES),
    ),
    "vgg": lambda: behind(
        nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.Linear(36, 9), nn.ReLU(True), nn.Linear(9, 8), nn.ReLU(True),
        nn.Dropout(), nn.Linear(8, CLASSES),
    ),
    "enlarging pool": lambda: behind(nn.AdaptiveAvgPool2d(11), nn.Flatten(), nn.Linear(726, CLASSES)),
    "pool": lambda: behind(nn.AvgPool2d(3, 2), nn.Flatten(), nn.Linear(54, CLASSES)),
    "squeezenet": lambda: behind(
        nn.Dropout(), nn.Conv2d(6, CLASSES, 1), nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "densenet": Functional,
    "every cell": lambda: behind(nn.Flatten(), nn.Linear(294, CLASSES)),
}  # fmt: skip


def captured(make: object, seed: int = 0) -> Captured:
    torch.manual_seed(seed)
    network = capture(make().eval(), "features").eval()  # type: ignore[operator]
    network(torch.rand(2, 3, 14, 14))
    return network


def images(count: int = 3) -> Tensor:
    return noise((3, 14, 14), count).float() / 255


@pytest.mark.parametrize("name", HEADS)
def test_the_gradient_is_that_of_autograd(name: str) -> None:
    network, given = captured(HEADS[name]), images()
    chain = written_out(network, given)
    logits, grids = network.grids(given)
    grid = grids["features"]
    ours, passed = chain(grid.detach())
    assert torch.allclose(ours, logits, atol=1e-6)
    weights = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(1))
    (exact,) = torch.autograd.grad((logits * weights).sum(), grid)
    assert torch.allclose(chain.back(weights, passed).expand_as(exact), exact, atol=1e-6)
    assert float(exact.abs().max()) > 1e-3


@pytest.mark.parametrize("score", Score)
@pytest.mark.parametrize("method", [one for one in CamVariant if one.value not in ("cam", "eigencam", "scorecam")])
@pytest.mark.parametrize("name", ["mobilenet", "squeezenet"])
def test_maps_of_every_method_and_score(name: str, method: CamVariant, score: Score) -> None:
    network, given = captured(HEADS[name]), images()
    kind = MapKind(method, score, None, all_classes=False, multilabel=False)
    with torch.no_grad():
        logits, probabilities, maps = WithMap(network, kind, 1, given).eval()(given)
    exact, whole = eager_maps(network, given, logits.argmax(1), kind)
    assert torch.allclose(logits, exact, atol=1e-6)
    assert torch.allclose(probabilities, exact.softmax(1), atol=1e-6)
    assert torch.allclose(maps, whole.relu(), atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("name", HEADS)
def test_maps_of_all_classes_are_those_of_each(name: str) -> None:
    network, given = captured(HEADS[name]), images()
    every, one = (
        MapKind(CamVariant.layercam, Score.log_prob, number, all_classes, multilabel=True)
        for number, all_classes in ((None, True), (3, False))
    )
    with torch.no_grad():
        _, probabilities, maps = WithMap(network, every, 255, given).eval()((given * 255).round().to(torch.uint8))
        single = WithMap(network, one, 1, given).eval()(given)[2]
    assert maps.shape == (3, CLASSES, 7, 7)
    assert torch.allclose(maps[:, 3], single, atol=1e-6)
    assert torch.allclose(probabilities, network(given).logits.sigmoid(), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Doubled, "more than a chain"),
        (lambda: behind(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, CLASSES)), r"MaxPool2d \(head.0\) follows"),
        (
            lambda: behind(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU6(), nn.Linear(6, CLASSES)),
            "ReLU6",
        ),
        (
            lambda: behind(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), *(nn.Linear(6, 6) for _ in range(3)), nn.Linear(6, CLASSES)
            ),
            "4 layers with weights",
        ),
    ],
)
def test_other_heads_are_refused_in_a_line(make: object, why: str) -> None:
    with pytest.raises(UserError, match=why) as refused:
        written_out(captured(make), images())
    assert "\n" not in str(refused.value)
