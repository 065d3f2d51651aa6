"""Consistency: the distance of moved maps by hand and by symmetry, its gradients, and how the criterion weighs it."""

from __future__ import annotations

import math

import pytest
import torch
from one_step import SIZE, assert_alike, gradients, seen, views_of
from small import batch, classifier
from torch import Tensor
from torch.nn.functional import avg_pool2d

from camtrain import CamLoss, UserError
from camtrain.cam.distribution import distribution
from camtrain.cam.stretch import Axis, Placement
from camtrain.cam.targets import MapTargets
from camtrain.config.options import ViewKind
from camtrain.data.views import with_views
from camtrain.loss.consistency import consistency, moved
from camtrain.loss.criterion import pairs


def blob(row: Tensor, column: Tensor, width: Tensor, placement: Placement, cells: int = 8) -> Tensor:
    """Distributions of a bell at a pixel, as cells see it where they really lie."""
    rows, columns = (axis.first + axis.step * torch.arange(cells, dtype=torch.float64) for axis in placement)
    away = (rows[:, None] - row[:, None, None]) ** 2 + (columns[None, :] - column[:, None, None]) ** 2
    return distribution((-away / (2 * width[:, None, None] ** 2)).exp())[0]


@pytest.mark.parametrize("kind", [ViewKind.mirror, ViewKind.symmetries])
def test_the_distance_is_zero_for_a_map_that_goes_with_its_image(kind: ViewKind) -> None:
    images, views = torch.rand(8, 3, *SIZE, dtype=torch.float64), views_of(kind)
    together, _ = with_views(images, torch.zeros(8, *SIZE, dtype=torch.uint8), views)
    shares, _ = distribution(avg_pool2d(together.mean(1, keepdim=True), 8)[:, 0])
    distance, in_view = consistency(shares[views.rows], shares[8:], views.matrix, SIZE)
    assert distance.abs().max() < 1e-12
    assert torch.allclose(in_view, torch.ones_like(in_view))
    still, _ = consistency(shares[views.rows], shares[views.rows], views.matrix, SIZE)
    assert still.min() > 1e-3


def test_the_distance_by_hand() -> None:
    shares, of_view = torch.zeros(3, 2, 3), torch.zeros(3, 2, 3)
    shares[:, 0, 0] = 1.0
    of_view[0, 0, 2] = 1.0  # where a mirror puts it
    of_view[1, 0, 0] = 1.0  # elsewhere
    of_view[2, 0, 2], of_view[2, 1, 1] = 0.75, 0.25
    matrix = torch.tensor([[1.0, 0, 0], [0, -1, 0]]).expand(3, 2, 3)
    distance, in_view = consistency(shares, of_view, matrix, (20, 30))
    assert distance.tolist() == [0.0, 1.0, 0.25]
    assert in_view.tolist() == [1.0, 1.0, 1.0]


def test_dead_maps_count_for_nothing_and_pass_finite_gradients_on() -> None:
    shares = torch.rand(2, 4, 4, requires_grad=True)
    alive = torch.tensor([1.0, 0.0])[:, None, None]
    distance, in_view = consistency(shares * alive, shares * alive.flip(0), torch.eye(2, 3).expand(2, 2, 3), SIZE)
    assert distance.tolist() == [0.0, 0.0]
    assert in_view.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad((distance * in_view).sum(), shares)
    assert gradient.isfinite().all()


def test_cells_are_moved_where_they_lie() -> None:
    """Of a network whose cells lie half a stride beside equal tiles, as three 3 x 3 kernels of stride 2 put them."""
    beside = Placement(Axis(0.0, 8.0, 15.0), Axis(0.0, 8.0, 15.0))
    row, column = torch.tensor([30.0, 20.0]), torch.tensor([22.0, 41.0])
    width = torch.full((2,), 9.0)
    before, after = blob(row, column, width, beside), blob(row, 63 - column, width, beside)
    matrix = torch.tensor([[1.0, 0, 0], [0, -1, 0]]).expand(2, 2, 3)
    registered, _ = consistency(before, after, matrix, SIZE, beside)
    tiles, _ = consistency(before, after, matrix, SIZE)
    assert registered.max() < 0.02 < 0.1 < tiles.min()
    # The first column's mirror image lies a cell beyond the last one.
    expected, comparable, _ = moved(before, matrix, SIZE, beside)
    assert not comparable[:, :, 0].any()
    assert comparable[:, :, 1:].all()
    assert (expected[:, :, 0] == 0).all()


def test_pasted_maps_shrink_and_move_with_their_image() -> None:
    tiled = Placement(Axis(3.5, 8.0, math.inf), Axis(3.5, 8.0, math.inf))
    views = views_of(ViewKind.paste, 200)
    row, column = torch.full((200,), 30.0), torch.full((200,), 38.0)
    width = torch.full((200,), 8.0)
    inverse = torch.linalg.inv(views.matrix[:, :, :2].double())
    there = (inverse @ (torch.tensor([30.0, 38.0]).double() - 31.5 - views.matrix[:, :, 2].double())[..., None])[..., 0]
    zoom = inverse[:, 0, 0]
    before = blob(row, column, width, tiled)
    after = blob(there[:, 0] + 31.5, there[:, 1] + 31.5, width * zoom, tiled)
    distance, in_view = consistency(before, after, views.matrix, SIZE)
    whole = in_view > 0.95
    assert 50 < whole.sum() < 200
    unmoved, _ = consistency(before, before, views.matrix, SIZE)
    assert distance[whole].mean() < 0.15 < 0.4 < unmoved[whole].mean()
    assert ((in_view == 0) | (in_view >= 0.5)).all()


def test_gradients_of_both_maps() -> None:
    first, second = (torch.rand(3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    matrix = views_of(ViewKind.paste, 3, seed=1).matrix

    def distance(one: Tensor, other: Tensor) -> Tensor:
        return consistency(distribution(one)[0], distribution(other)[0], matrix, SIZE)[0]

    assert torch.autograd.gradcheck(distance, (first, second))
    assert all(part.abs().max() > 0 for part in torch.autograd.grad(distance(first, second).sum(), (first, second)))


def test_maps_of_an_image_and_its_view_are_of_the_same_class() -> None:
    target = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    rows = torch.tensor([3, 0])
    targets = MapTargets.of(torch.cat([target, target[rows]]))
    image, view = pairs(targets, 4, rows)
    assert targets.rows[image].tolist() == [3, 3, 3, 0, 0]
    assert targets.rows[view].tolist() == [4, 4, 4, 5, 5]
    assert torch.equal(targets.classes[image], targets.classes[view])


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("weight", [3.0, "auto"])
def test_the_closed_form_equals_autograd(weight: float | str, multilabel: bool) -> None:
    settings = {"weight": weight, "consistency": 2.0, "views": "mirror"}
    made = seen(ViewKind.mirror, multilabel)
    closed, _ = gradients("small_resnet", made, **settings, path="closed")
    exact, _ = gradients("small_resnet", made, **settings, path="autograd")
    beside_others, _ = gradients("small_resnet", made, **settings, only_loss=False)
    assert_alike(closed, exact)
    assert_alike(closed, beside_others)
    without, _ = gradients("small_resnet", made, **(settings | {"consistency": 0.0}))
    assert max(float((closed[key] - without[key]).abs().max()) for key in closed) > 1e-6


@pytest.mark.parametrize("name", ["consistency", "contrastive"])
def test_what_is_asked_of_views_leaves_the_entropy_its_share(name: str) -> None:
    made, settings = seen(ViewKind.symmetries, count=12), {"weight": "auto", "views": "symmetries", "consistency": 0.0}
    _, alone = gradients("small_resnet", made, **settings)
    _, beside = gradients("small_resnet", made, **(settings | {name: 5.0}))
    assert alone.balance is not None
    assert beside.balance is not None
    assert float(beside.balance.weight()) == pytest.approx(float(alone.balance.weight()), rel=1e-9)
    _, itself = gradients("small_resnet", made, **(settings | {name: 5.0, "term": "none"}))
    assert itself.balance is not None
    assert float(itself.balance.weight()) > 0


def test_an_arm_without_views_learns_from_the_images_alone() -> None:
    made = seen(ViewKind.mirror)
    alone, _ = gradients("small_resnet", made.without_views(), weight=1.0)
    assert_alike(alone, gradients("small_resnet", made, views=False, weight=1.0)[0], 0.0)


def test_pasted_views_are_not_classified() -> None:
    made = seen(ViewKind.paste)
    alone, _ = gradients("small_resnet", made.without_views(), weight=0)
    assert_alike(alone, gradients("small_resnet", made, weight=0)[0])
    settings = {"weight": 3.0, "views": "paste", "consistency": 0.0}
    without, _ = gradients("small_resnet", made.without_views(), weight=3.0)
    assert_alike(without, gradients("small_resnet", made, **settings)[0])
    closed, criterion = gradients("small_resnet", made, **(settings | {"consistency": 1.0}))
    assert_alike(closed, gradients("small_resnet", made, **(settings | {"consistency": 1.0}), path="autograd")[0])
    seen_distance = criterion.observed().further["consistency"]
    assert 0 < float(seen_distance) <= 1


@pytest.mark.parametrize(
    ("kind", "multilabel"), [(ViewKind.mirror, False), (ViewKind.mirror, True), (ViewKind.paste, False)]
)
def test_views_with_an_anchor_and_limits_of_each_image(kind: ViewKind, multilabel: bool) -> None:
    made = seen(kind, multilabel)
    settings = {"weight": 30.0, "consistency": 1.0, "views": kind.value, "balance": "image", "anchor": 0.5}
    closed, criterion = gradients("small_resnet", made, **settings)
    assert_alike(closed, gradients("small_resnet", made, **settings, path="autograd")[0])
    assert_alike(closed, gradients("small_resnet", made, **settings, only_loss=False)[0])
    for key, other in (("anchor", 0.0), ("balance", "batch"), ("share", 0.1)):
        without, _ = gradients("small_resnet", made, **(settings | {key: other}))
        assert max(float((closed[name] - without[name]).abs().max()) for name in closed) > 1e-9, key
    assert "anchor" in criterion.observed().further


def test_without_views_there_is_no_consistency() -> None:
    made = seen(ViewKind.mirror).without_views()
    without, _ = gradients("small_resnet", made, weight=3.0)
    assert_alike(without, gradients("small_resnet", made, weight=3.0, consistency=9.0)[0])
    output = classifier("small_resnet")(batch().images)
    with pytest.raises(UserError, match="needs views"):
        CamLoss(term="none", consistency=1.0)(*output, batch().targets)
