"""Maps, their derivatives and scores against independent packages: grad-cam, captum, torch-cam, Quantus, scikit-learn.

Networks have fresh weights and the batch norm statistics of the images they are shown. Maps are compared relative to
each map's own peak.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM, XGradCAM
from pytorch_grad_cam.base_cam import BaseCAM
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, log_softmax
from torchcam.methods import CAM as TorchCam
from torchcam.methods import GradCAM as TorchGradCam
from torchvision.models import get_model

from camtrain.cam import distribution, methods, stretch
from camtrain.cam.gradients import autograd_gradient, head_gradient
from camtrain.cam.routes import GradientRoute, Routes
from camtrain.cam.targets import MapTargets
from camtrain.config.options import TRAINABLE, CamConfig, CamVariant, EntropyUnit, Score, Stem
from camtrain.config.schema import ModelConfig
from camtrain.evaluation.forward import forward_maps
from camtrain.loss import terms
from camtrain.loss.criterion import CamLoss, cam_term
from camtrain.metrics import concentration
from camtrain.metrics.classification import (
    average_precision,
    average_precision_per_image,
    leave_one_out,
    mean_average_precision,
)
from camtrain.networks.build import Built, build
from camtrain.networks.capture import probe_routes
from camtrain.networks.classifier import Classifier
from camtrain.networks.small_resnet import SmallResNet

CLASSES = 5
SEED = 2  # of the networks: one with which every map of the classes below is alive
TOLERANCE = 1e-5  # of a map's peak, or of 1 where both are scaled to 0..1
NEGLIGIBLE = 1e6  # times the logits: beside this the epsilon of grad-cam's Grad-CAM++ is nothing


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """After conftest's fixture: these networks are too small for two, which on a busy machine wait for each other."""
    torch.set_num_threads(1)


class Pair(NamedTuple):
    """One network twice: as camtrain builds it, and as torchvision or timm does."""

    built: Built
    plain: nn.Module
    images: Tensor
    target: Tensor

    @property
    def normalised(self) -> Tensor:
        """The images as the plain network takes them."""
        return (self.images - self.built.classifier.mean) / self.built.classifier.std

    @property
    def layer(self) -> nn.Module:
        return self.plain.get_submodule(self.built.layer)

    def ours(self) -> Classifier:
        """With the routes of its gradients."""
        network = self.built.classifier
        network.routes = probe_routes(network, self.images, Score.centred)
        return network

    def maps(self, variant: CamVariant, target: Tensor | None = None) -> Tensor:
        """Our maps, before ReLU."""
        return forward_maps(self.ours(), self.images, self.target if target is None else target, variant).maps


def plain_network(built: Built, name: str, size: int) -> nn.Module:
    options = {"image_size": size} if name.startswith("vit_") else {}
    if name.startswith("timm/"):
        sized = {"img_size": size} if "vit_" in name or "swin_" in name else {}
        plain = pytest.importorskip("timm").create_model(name[5:], num_classes=CLASSES, **sized)
    else:
        with torch.device("meta"):  # weights of its own would take seconds to draw
            plain = SmallResNet(CLASSES) if name == "small_resnet" else get_model(name, num_classes=CLASSES, **options)
    state = {key: value.clone() for key, value in built.classifier.backbone.state_dict().items()}
    plain.load_state_dict(state, assign=True)
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    for stem in built.stem:
        plain.get_submodule(stem).stride = (1, 1)
    return plain.eval()


def make_pair(name: str, layer: str | None = None, size: int = 64, sharper: float = 1.0) -> Pair:
    """Both networks in evaluation mode; `sharper` multiplies the logits."""
    generator = torch.Generator().manual_seed(1)
    # Coarse noise: unlike white noise it does not look the same everywhere.
    images = stretch.upsample(torch.rand(6, 4, 4, generator=generator), (size, size)).unflatten(0, (2, 3))
    built = build(ModelConfig(name=name, layer=layer, stem=Stem.auto), CLASSES, (3, size, size), SEED)
    model = built.classifier
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of all that it was shown
    with torch.no_grad():
        model(images)
        if sharper != 1:
            weight = model.class_weights()
            assert weight is not None
            weight *= sharper
    model.eval()
    return Pair(built, plain_network(built, name, size), images, torch.tensor([0, 3]))


pair = functools.cache(make_pair)  # of small networks, which no test may change


def theirs(
    method: type[BaseCAM],
    network: Pair,
    target: Tensor,
    rows: Tensor | None = None,
    reshape: Callable[[Tensor], Tensor] | None = None,
    scale: float = 1.0,
    signs_of: Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """grad-cam's maps: raw at the layer's grid, and finished.

    The package finishes a map so: ReLU, scaled to 0..1 on the layer's grid, resized by cv2, scaled to 0..1 again.

    Args:
        method: which map.
        network: whose plain network is used.
        target: class of each map.
        rows: image of each map; None: one each.
        reshape: brings the layer's output into (batch, channels, height, width).
        scale: factor of the score.
        signs_of: maps whose signs theirs are given before they are finished.
    """
    raw: list[np.ndarray] = []

    def spy(*arguments: object) -> np.ndarray:
        maps = made_by(*arguments)
        if signs_of is not None:
            maps = maps * np.sign((maps * signs_of.numpy()).sum((1, 2), keepdims=True))
        raw.append(maps)
        return maps

    targets = [lambda logits, number=int(number): scale * logits[number] for number in target]
    normalised = network.normalised if rows is None else network.normalised[rows]
    with method(network.plain, [network.layer], reshape_transform=reshape) as extractor:
        made_by, extractor.get_cam_image = extractor.get_cam_image, spy
        # The package keeps a view of the activations, which DenseNet's functional in-place ReLU would overwrite.
        handle = network.layer.register_forward_hook(lambda _module, _inputs, output: output.clone())
        finished = extractor(normalised, targets)
        handle.remove()
    return raw[0], finished


def deviation(ours: Tensor, exact: np.ndarray) -> float:
    """Largest difference relative to the peak of the map in which it is."""
    assert ours.shape == exact.shape
    peak = np.abs(exact).max((1, 2))
    assert (peak > 0).all()
    return float((np.abs(ours.detach().numpy() - exact).max((1, 2)) / peak).max())


def finish(maps: Tensor, size: int) -> Tensor:
    """ReLU, resized to the image, scaled to 0..1."""
    stretched = stretch.upsample(maps, (size, size))
    stretched = stretched - stretched.amin((1, 2), keepdim=True)
    return stretched / stretched.amax((1, 2), keepdim=True).clamp_min(1e-30)


def check(ours: Tensor, raw: np.ndarray, finished: np.ndarray) -> None:
    assert deviation(ours, raw) < TOLERANCE
    # Interpolation and scaling to 0..1 commute, and the package's 1e-7 under the fraction matters for no map here.
    resized = finish(ours, finished.shape[-1]).detach().numpy()
    assert resized.max() > 0.99
    assert np.abs(resized - finished).max() < TOLERANCE


METHODS = {
    CamVariant.gradcam: GradCAM,
    CamVariant.hirescam: HiResCAM,
    CamVariant.xgradcam: XGradCAM,
    CamVariant.layercam: LayerCAM,
}
CLOSED_FORM = [("small_resnet", None), ("resnet18", None)]
# Behind the last two, gradients differ from cell to cell; MobileNet's activations may be negative.
AUTOGRAD = [("mobilenet_v3_small", None), ("squeezenet1_0", None), ("small_resnet", "layer2")]


@pytest.mark.parametrize("variant", list(METHODS))
@pytest.mark.parametrize(("name", "layer"), CLOSED_FORM + AUTOGRAD)
def test_map_equals_the_grad_cam_package(name: str, layer: str | None, variant: CamVariant) -> None:
    network = pair(name, layer)
    assert network.ours().routes.evaluation is (
        GradientRoute.closed if (name, layer) in CLOSED_FORM else GradientRoute.autograd
    )
    check(network.maps(variant), *theirs(METHODS[variant], network, network.target))


def tokens_to_grid(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].mT.unflatten(2, (4, 4))


def channels_to_front(cells: Tensor) -> Tensor:
    return cells.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("name", "layer", "size", "reshape"),
    [
        ("vgg11", None, 64, None),
        ("densenet121", None, 64, None),
        ("swin_t", "features.7.1", 128, channels_to_front),
        ("vit_b_16", None, 64, tokens_to_grid),
        ("timm/tf_mobilenetv3_small_100", None, 64, None),
        ("timm/convnext_atto", None, 64, None),
        ("timm/vit_tiny_patch16_224", None, 64, tokens_to_grid),
        pytest.param("timm/swin_tiny_patch4_window7_224", None, 128, channels_to_front, marks=pytest.mark.slow),
    ],
)
def test_gradcam_of_other_layouts_equals_the_grad_cam_package(
    name: str, layer: str | None, size: int, reshape: Callable[[Tensor], Tensor] | None
) -> None:
    network = make_pair(name, layer, size)
    check(network.maps(CamVariant.gradcam), *theirs(GradCAM, network, network.target, reshape=reshape))


@pytest.mark.parametrize("variant", [CamVariant.gradcam, CamVariant.hirescam])
@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0"])
def test_maps_of_several_classes_of_an_image_equal_the_grad_cam_package(name: str, variant: CamVariant) -> None:
    network = pair(name)
    target = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 1, 0]])
    rows, classes = target.nonzero(as_tuple=True)
    check(network.maps(variant, target), *theirs(METHODS[variant], network, classes, rows))


def gradcampp(network: Pair, scale: float, epsilon: float) -> list[Tensor]:
    """Our Grad-CAM++ of scaled logits, by autograd and, where the network has it, in closed form."""
    model, target = network.built.classifier, network.target
    logits, activations = model(network.images)
    targets = MapTargets.of(target)
    gradients = [autograd_gradient(scale * logits, targets, Score.logit, activations, create_graph=False)]
    if network.ours().routes.evaluation is GradientRoute.closed:
        weights, cells = model.class_weights(), math.prod(network.built.output.grid)
        assert weights is not None
        gradients.append(scale * head_gradient(logits, targets, Score.logit, weights, cells))
    return [methods.gradcampp(activations, gradient, epsilon) for gradient in gradients]


@pytest.mark.parametrize(("name", "layer"), CLOSED_FORM + AUTOGRAD)
def test_gradcampp_with_their_epsilon_equals_the_grad_cam_package(name: str, layer: str | None) -> None:
    network = pair(name, layer)
    for maps in gradcampp(network, scale=1.0, epsilon=1e-6):
        check(maps, *theirs(GradCAMPlusPlus, network, network.target))


# Behind a ReLU: where activations may be negative, MobileNet's, the two differ by design (see cam.gradcampp).
@pytest.mark.parametrize(("name", "layer"), CLOSED_FORM + AUTOGRAD[1:])
def test_gradcampp_without_epsilon_equals_the_grad_cam_package_where_gradients_are_large(
    name: str, layer: str | None
) -> None:
    network = pair(name, layer)
    raw, finished = theirs(GradCAMPlusPlus, network, network.target, scale=NEGLIGIBLE)
    for maps in gradcampp(network, scale=NEGLIGIBLE, epsilon=0.0):
        check(maps, raw, finished)


@pytest.mark.parametrize(("name", "layer"), CLOSED_FORM + AUTOGRAD)
def test_eigencam_equals_the_grad_cam_package_up_to_the_sign_of_each_map(name: str, layer: str | None) -> None:
    network = pair(name, layer)
    maps = network.maps(CamVariant.eigencam)
    check(maps, *theirs(EigenCAM, network, network.target, signs_of=maps))


# A layer with few channels keeps the forward passes few. Larger logits let the softmax over channels weigh.
@pytest.mark.parametrize(
    ("name", "layer", "sharper"), [("small_resnet", "layer2", 20.0), ("mobilenet_v3_small", "features.6", 20.0)]
)
def test_scorecam_equals_the_grad_cam_package(
    monkeypatch: pytest.MonkeyPatch, name: str, layer: str, sharper: float
) -> None:
    # grad-cam stretches masks with align_corners=True. The authors' own code and ours do not, so theirs is patched.
    plain_stretching = functools.partial(nn.Upsample, mode="bilinear", align_corners=False)
    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", plain_stretching)
    network = pair(name, layer, sharper=sharper)
    raw, finished = theirs(ScoreCAM, network, network.target)
    maps = network.maps(CamVariant.scorecam)
    check(maps, raw, finished)
    activations = network.built.classifier(network.images).activations
    assert deviation(activations.mean(1), raw) > 0.1  # with weights that are all the same it would be this


@pytest.mark.parametrize("name", ["small_resnet", "squeezenet1_0", "mobilenet_v3_small"])
def test_gradcam_equals_captum_and_torch_cam(name: str) -> None:
    network = pair(name)
    maps = network.maps(CamVariant.gradcam)
    method = LayerGradCam(network.plain, network.layer)
    of_captum = method.attribute(network.normalised, target=network.target, relu_attributions=False)
    assert deviation(maps, of_captum[:, 0].detach().numpy()) < TOLERANCE
    # torch-cam's own Grad-CAM++ is left out: its division by the denominator is made on a copy and lost.
    with TorchGradCam(network.plain, network.built.layer) as extractor:
        scores = network.plain(network.normalised)
        (of_torchcam,) = extractor(network.target.tolist(), scores, normalized=False)
    assert float(of_torchcam.max()) > 0
    difference = (maps.relu() - of_torchcam).abs().amax((1, 2))  # it has no map without ReLU
    assert float((difference / maps.abs().amax((1, 2))).max()) < TOLERANCE


@pytest.mark.parametrize("name", [name for name, _ in CLOSED_FORM])
def test_cam_equals_torch_cam(name: str) -> None:
    network = pair(name)
    with TorchCam(network.plain, network.built.layer, "fc") as extractor, torch.no_grad():
        network.plain(network.normalised)
        (of_torchcam,) = extractor(network.target.tolist(), normalized=False)
    assert deviation(network.maps(CamVariant.cam), of_torchcam.numpy()) < TOLERANCE


def mean_entropy(maps: Tensor) -> Tensor:
    """Mean normalised entropy of maps that are alive, written without anything of ours."""
    values = []
    for each in maps:
        positive = each[each > 0]
        shares = positive / positive.sum()
        values.append(-(shares * shares.log()).sum() / math.log(each.numel()))
    return torch.stack(values).mean()


@pytest.mark.parametrize("kind", list(Score))
@pytest.mark.parametrize(
    ("name", "path", "training"),
    [
        ("squeezenet1_0", GradientRoute.autograd, False),
        ("mobilenet_v3_small", GradientRoute.autograd, False),
        ("small_resnet", GradientRoute.autograd, True),
        ("small_resnet", GradientRoute.closed, True),
    ],
)
def test_gradient_of_the_entropy_with_respect_to_all_weights_equals_captums(
    name: str, path: GradientRoute, training: bool, kind: Score
) -> None:
    network = copy.deepcopy(pair(name))
    model, plain = network.built.classifier.double().train(training), network.plain.double().train(training)
    network = network._replace(images=network.images.double())
    target = network.target
    model.routes = Routes(path, path)
    criterion = CamLoss(score=kind, confidence_exponent=0.0)
    term = criterion.term(*model(network.images), target, None, True)
    assert term.counts.all()
    parameters = dict(model.backbone.named_parameters())
    ours = torch.autograd.grad(term.mean(), list(parameters.values()), allow_unused=True)

    # The log-odds that ours differentiates give the same shares as the published log-probability.
    of_logits = {
        Score.logit: lambda logits: logits,
        Score.centred: lambda logits: logits - logits.mean(1, keepdim=True),
        Score.log_prob: lambda logits: log_softmax(logits, 1),
    }
    forward = lambda images: of_logits[kind](plain(images))  # noqa: E731
    method = LayerGradCam(forward, network.layer)
    reference = method.attribute(network.normalised, target, grad_kwargs={"create_graph": True})
    entropy = mean_entropy(reference[:, 0])
    of_plain = dict(plain.named_parameters())
    exact = torch.autograd.grad(entropy, list(of_plain.values()), allow_unused=True)

    assert abs(float((term.mean() - entropy).detach())) < 1e-9
    assert list(parameters) == list(of_plain)
    moved = 0
    for key, our, their in zip(parameters, ours, exact, strict=True):
        assert (our is None) == (their is None), key
        if our is not None and their is not None:
            largest = float(their.abs().max())
            moved += largest > 1e-6
            assert float((our - their).abs().max()) <= 1e-6 * largest, key
    assert moved > len(parameters) / 2


def term_of_a_small_head(
    variant: CamVariant, kind: Score, activations: Tensor, hidden: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """The entropy term of activations (2, 4, 3, 3), and the maps.

    The head is pooling to 2 x 2, so that gradients differ from cell to cell, linear, tanh, linear; or, for CAM, global
    average pooling and linear.
    """
    target = torch.tensor([0, 2])
    targets = MapTargets.of(target)
    if variant is CamVariant.cam:
        logits = activations.mean((2, 3)) @ last[:, :4].T
        gradient = head_gradient(logits, targets, kind, last[:, :4], cells=9)
    else:
        logits = torch.tanh(adaptive_avg_pool2d(activations, 2).flatten(1) @ hidden.T) @ last.T
        gradient = autograd_gradient(logits, targets, kind, activations, create_graph=True)
    maps = methods.METHODS[variant](activations, gradient)
    return cam_term(maps, torch.ones(2), CamConfig(confidence_exponent=0.0)).value, maps


@pytest.mark.parametrize("kind", list(Score))
@pytest.mark.parametrize("variant", TRAINABLE)
def test_first_and_second_derivatives_of_the_entropy_equal_finite_differences(variant: CamVariant, kind: Score) -> None:
    # With this seed the maps keep clear of ReLU's kink.
    generator = torch.Generator().manual_seed(211)
    activations = torch.rand(2, 4, 3, 3, generator=generator, dtype=torch.float64) + 0.1
    hidden = torch.randn(6, 16, generator=generator, dtype=torch.float64) / 2
    last = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    inputs = [activations.requires_grad_(), hidden.requires_grad_(variant is not CamVariant.cam), last.requires_grad_()]
    maps = term_of_a_small_head(variant, kind, *inputs)[1].detach()
    assert ((maps > 0).sum((1, 2)) > 2).all()
    assert float((maps.abs() / maps.abs().amax((1, 2), keepdim=True)).min()) > 1e-2

    def function(*tensors: Tensor) -> Tensor:
        return term_of_a_small_head(variant, kind, *tensors)[0]

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("lift", [1e-3, -0.2])  # every cell positive; some cells dark
def test_entropy_equals_quantus(lift: float) -> None:
    from quantus.functions.complexity_func import entropy as entropy_of_quantus  # takes seconds to import
    from quantus.metrics.complexity import Complexity

    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(4, 7, 5, generator=generator, dtype=torch.float64) ** 2 + lift
    positive = maps.relu().numpy()
    images = np.zeros((4, 3, 7, 5))
    metric = Complexity(normalise=False, disable_warnings=True)
    of_metric = metric(model=None, x_batch=images, y_batch=np.zeros(4, int), a_batch=positive[:, None].copy())
    of_function = [entropy_of_quantus(each, image) for each, image in zip(positive, images, strict=True)]
    ours = concentration.entropy(maps).numpy()
    np.testing.assert_allclose(ours, of_function, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours, of_metric, rtol=0, atol=1e-6)  # it adds 1e-12 inside the logarithm
    np.testing.assert_allclose(concentration.entropy(maps.float()).numpy(), of_function, rtol=0, atol=1e-6)
    shares, _ = distribution.distribution(maps)
    for unit, scale in ((EntropyUnit.nats, 1.0), (EntropyUnit.normalised, math.log(35))):
        np.testing.assert_allclose(scale * terms.entropy(shares, unit).numpy(), of_function, rtol=0, atol=1e-12)


def test_gini_equals_quantus() -> None:
    from quantus.metrics.complexity import Sparseness

    maps = torch.rand(4, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2
    metric = Sparseness(normalise=False, disable_warnings=True)
    theirs = metric(
        model=None, x_batch=np.zeros((4, 3, 7, 5)), y_batch=np.zeros(4, int), a_batch=maps[:, None].numpy().copy()
    )
    np.testing.assert_allclose(concentration.gini(maps).numpy(), theirs, rtol=0, atol=1e-5)  # it adds 1e-7 to each cell


@pytest.mark.parametrize("levels", [None, 4, 1])  # no ties; many; nothing but
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_average_precision_equals_scikit_learn(levels: int | None, share: float) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(50, generator=generator)
        if levels is not None:
            scores = (scores.sigmoid() * levels).floor()
        positive = (torch.rand(50, generator=generator) <= share).long()
        positive[seed % 50] = 1
        exact = average_precision_score(positive.numpy(), scores.numpy())
        assert abs(float(average_precision(scores, positive)) - exact) < 1e-12
        without = leave_one_out(scores, positive)
        for number in range(0, 50, 7):
            rest = torch.arange(50) != number
            if positive[rest].any():
                exact = average_precision_score(positive[rest].numpy(), scores[rest].numpy())
                assert abs(float(without[number]) - exact) < 1e-12
            else:
                assert without[number].isnan()


def test_what_images_add_to_the_precision_gives_its_error() -> None:
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(300, 4, generator=generator) < 0.2).long()
    target[:, 3] = 0  # a class without a positive image, left out of the mean
    logits = torch.randn(300, 4, generator=generator) + target
    each = average_precision_per_image(logits, target)
    assert abs(float(each.mean()) - mean_average_precision(logits, target)) < 1e-12
    drawn = [torch.randint(300, (300,), generator=generator) for _ in range(400)]
    resampled = torch.tensor([mean_average_precision(logits[rows], target[rows]) for rows in drawn])
    assert float(each.std()) / 300**0.5 == pytest.approx(float(resampled.std()), rel=0.15)


def test_the_only_positive_of_a_class_is_no_influence() -> None:
    target = torch.tensor([[1, 1], [0, 1], [0, 0]])
    logits = torch.tensor([[2.0, 3.0], [1.0, 2.0], [0.0, 1.0]])
    assert average_precision_per_image(logits, target).tolist() == [1, 1, 1]


def test_mean_average_precision_equals_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, CLASSES, generator=generator)
    target = (torch.rand(40, CLASSES, generator=generator) < 0.3).long()
    assert target.any(0).all()
    exact = average_precision_score(target.numpy(), logits.numpy(), average="macro")
    assert abs(mean_average_precision(logits, target) - exact) < 1e-12
