"""The contrastive term: its definition in a loop, its gradients, and how the criterion weighs it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import QUICK, TINY, Command
from one_step import SIZE, assert_alike, gradients, seen, views_of
from small import batch, classifier
from torch import Tensor

from camtrain import CamLoss, UserError
from camtrain.cam.distribution import distribution
from camtrain.cam.head import head_behind
from camtrain.cam.targets import MapTargets
from camtrain.config.options import ViewKind
from camtrain.loss.consistency import moved
from camtrain.loss.contrastive import contrastive

MIRROR = torch.tensor([[1.0, 0, 0], [0, -1, 0]])


def info_nce(expected: Tensor, found: Tensor, rows: list[int], temperature: float = 0.5) -> list[float]:
    """As it is published: the query is the map of the moved image, the positive key the moved map, and the negatives
    are the maps of other moved images."""

    def cosine(one: Tensor, other: Tensor) -> float:
        products = (float(a) * float(b) for a, b in zip(one.flatten(), other.flatten(), strict=True))
        return math.fsum(products) / math.sqrt(float((one**2).sum()) * float((other**2).sum()))

    values = []
    for i, row in enumerate(rows):
        if float(found[i].sum()) == 0 or float(expected[i].sum()) == 0:
            values.append(0.0)
            continue
        positive = math.exp(cosine(found[i], expected[i]) / temperature)
        negatives = [
            math.exp(cosine(found[i], found[j]) / temperature)
            for j, other in enumerate(rows)
            if other != row and float(found[j].sum()) > 0
        ]
        values.append(-math.log(positive / (positive + math.fsum(negatives))))
    return values


def maps(count: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.rand(count, 4, 4, dtype=torch.float64) ** 3


def test_it_is_the_published_loss() -> None:
    shares, of_views = (distribution(maps(5, seed))[0] for seed in (0, 1))
    of_views[3] = 0.0  # a dead map is nobody's negative
    shares[4] = 0.0
    rows, matrix = torch.tensor([0, 1, 1, 2, 3]), MIRROR.expand(5, 2, 3)  # two maps of one image
    ours = contrastive(shares, of_views, matrix, SIZE, rows)
    assert ours.tolist() == pytest.approx(info_nce(shares.flip(2), of_views, rows.tolist()), abs=1e-12)
    assert ours[:3].min() > 0
    assert ours[3:].tolist() == [0.0, 0.0]


def test_views_that_show_a_part() -> None:
    views = views_of(ViewKind.paste, 6, seed=2)
    shares, of_views = (distribution(maps(6, seed))[0] for seed in (2, 3))
    expected, comparable, _ = moved(shares, views.matrix, SIZE)
    ours = contrastive(shares, of_views, views.matrix, SIZE, torch.arange(6))
    assert ours.tolist() == pytest.approx(info_nce(expected, of_views * comparable, list(range(6))), abs=1e-12)


def test_maps_alone_are_contrasted_with_nothing() -> None:
    shares = distribution(maps(1, 0))[0]
    assert contrastive(shares, shares, MIRROR[None], SIZE, torch.tensor([0])).tolist() == [0.0]


def test_following_the_image_is_rewarded_and_gradients_are_finite() -> None:
    raw, matrix = maps(3, 0).requires_grad_(), MIRROR.expand(3, 2, 3)
    rows = torch.arange(3)

    def value(raw: Tensor, follows: bool) -> Tensor:
        shares = distribution(raw)[0]
        return contrastive(shares, shares.flip(2) if follows else shares, matrix, SIZE, rows)

    assert (value(raw, follows=True) < value(raw, follows=False)).all()
    assert torch.autograd.gradcheck(lambda given: value(given, follows=False), raw)
    dead = raw * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)[:, None, None]
    (gradient,) = torch.autograd.grad(value(dead, follows=False).sum(), raw)
    assert gradient.isfinite().all()


SETTINGS = {"contrastive": 1.5, "consistency": 0.0, "views": "mirror"}


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_criterion_weighs_it_by_confidence_and_view(multilabel: bool) -> None:
    made = seen(ViewKind.mirror, multilabel, count=12)
    assert made.views is not None
    torch.manual_seed(0)
    model, criterion = classifier("small_resnet").double().eval(), CamLoss(weight=2.0, term="none", **SETTINGS)
    logits, activations = model(made.images)
    loss = criterion(logits, activations, made.targets, views=made.views)
    term = criterion.term(logits, activations, made.targets, None, False, made.views)
    assert term.maps is not None
    placement, shares = head_behind(activations).placement, distribution(term.maps)[0]
    targets = MapTargets.of(made.targets)
    number = {key: place for place, key in enumerate(zip(targets.rows.tolist(), targets.classes.tolist(), strict=True))}
    image = [place for (row, _), place in number.items() if row < len(made.views.rows)]
    view = [number[row + 12, kind] for (row, kind), place in number.items() if place in image]
    expected, comparable, _ = moved(shares[image], MIRROR.expand(len(image), 2, 3), made.views.size, placement)
    found = shares[view] * comparable
    values = info_nce(expected, found, targets.rows[image].tolist())
    alive = [min(float(one.sum()), float(other.sum())) > 0 for one, other in zip(expected, found, strict=True)]
    assert sum(alive) > 2
    weighted = [float(q) * value for q, value in zip(term.confidence[image], values, strict=True)]
    by_hand = math.fsum(weighted) / sum(alive)
    assert float(criterion.observed().further["contrastive"]) == pytest.approx(by_hand, rel=1e-9)
    added = float(loss.detach()) - float(criterion.observed().classification)
    assert added == pytest.approx(2.0 * 1.5 * by_hand, rel=1e-9)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("weight", [3.0, "auto"])
def test_the_closed_form_equals_autograd(weight: float | str, multilabel: bool) -> None:
    made, settings = seen(ViewKind.mirror, multilabel, count=12), {"weight": weight, **SETTINGS}
    closed, _ = gradients("small_resnet", made, **settings, path="closed")
    exact, _ = gradients("small_resnet", made, **settings, path="autograd")
    beside_others, _ = gradients("small_resnet", made, **settings, only_loss=False)
    assert_alike(closed, exact)
    assert_alike(closed, beside_others)
    without, _ = gradients("small_resnet", made, **(settings | {"contrastive": 0.0}))
    trunk = [key for key in closed if "layer1" in key]
    assert max(float((closed[key] - without[key]).abs().max()) for key in trunk) > 1e-8


def test_it_asks_for_views() -> None:
    logits, activations = classifier("small_resnet")(batch().images)
    with pytest.raises(UserError, match="contrastive needs views"):
        CamLoss(**SETTINGS)(logits, activations, batch().targets)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["cam.contrastive=1", "cam.views=none"],
            "contrastive=1 needs views: set cam.views=mirror",
        ),
        (["cam.contrastive=1", "cam.views=mirror"], "needs two views in a batch: raise cam.views_share (0.125)"),
    ],
)
def test_the_command_says_what_it_needs(arguments: list[str], message: str, run_command: Command) -> None:
    done = run_command(*TINY, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_it_trains_by_the_command(run_command: Command, tmp_path: Path) -> None:
    few = ("trainer.epochs=1", "trainer.max_steps=2", "cam.views=mirror", "cam.views_share=0.5")
    done = run_command(*TINY, *QUICK, *few, "cam.term=none", "cam.contrastive=1", "cam.weight=0.5")
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/*/*")
    arms = json.loads((folder / "result.json").read_text())["arms"]
    assert arms["regularised"]["final"]["loss/contrastive"] >= 0
    assert arms["regularised"]["final"]["effort/cam_weight"] == 0.5
    assert arms["baseline"]["final"]["effort/cam_weight"] == 0
