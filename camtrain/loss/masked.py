r"""Terms that hide parts of the image: what the network makes of the rest takes a further forward pass.

They are added to the loss beside the classification loss and the term of the maps, each by its own weight. They do not
reach the activations of the first pass, whose maps and probabilities are taken as given: the automatic weight, the
gradient share and the projection there do not know of them. The further pass learns from the images that the
classification loss counts; it leaves the statistics of batch norm as they are
(:meth:`camtrain.networks.capture.Captured.again`). Images have one class each.

What is drawn at random comes from torch's generator, which the command seeds for every step and arm alike by (seed,
epoch, step).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from camtrain.cam.distribution import is_dead
from camtrain.cam.stretch import Placement, rank, upsample
from camtrain.config.options import SECOND_PASS, CamConfig, second_pass_terms
from camtrain.data.blur import blur
from camtrain.distributed.ranks import ALONE, Ranks
from camtrain.errors import UserError

Again = Callable[[Callable[[Tensor], Tensor]], tuple[Tensor, Tensor]]
"""A further forward pass: from a change of the batch's images to logits and activations of the result."""

BEST = 1 / 4
"""Share of the pixels that :func:`masked_kl` shows."""

ROUNDING = 2.0**-16
"""Of the map's highest value, what pixels of equal rank may differ by."""

NOISE = 1 / 2
"""Share of the pixels that :func:`saliency_guided` hides: the published one for images."""


class FirstPass(NamedTuple):
    """What the pass of the images themselves gave, of those that count, which are the batch's first; detached."""

    logits: Tensor  # (images, classes)
    target: Tensor  # (images,) int64
    maps: Tensor  # (images, height, width), before ReLU
    confidence: Tensor  # (images,) q
    placement: Placement | None = None  # where the maps' cells lie in the image; None: in equal tiles
    ranks: Ranks = ALONE  # over whose images means are taken

    def mean(self, values: Tensor) -> Tensor:
        """Of (images,) over those whose map is alive, of which this is this rank's part; 0 if there are none."""
        alive = ~is_dead(self.maps)
        return (values * alive).sum() / self.ranks.sum(alive.sum()).clamp_min(1)


# ---- images with parts hidden


def shown(images: Tensor, mask: Tensor) -> Tensor:
    r""":math:`M x + (1 - M)\, \mathrm{blur}(x)`, by the blur of :mod:`camtrain.data.blur`.

    Args:
        images: (images, channels, height, width).
        mask: M, (images, height, width), 0..1 or bool.
    """
    return torch.lerp(blur(images), images, mask[:, None].to(images.dtype))


def map_mask(maps: Tensor, size: tuple[int, int], placement: Placement | None) -> Tensor:
    r""":math:`L^+` stretched to the image and divided by its highest value, (maps, *size), 0..1; 0 where all is 0."""
    stretched = upsample(maps, size, placement)
    peak = stretched.amax((1, 2), keepdim=True)
    return stretched / peak.masked_fill(peak == 0, 1.0)


def best_pixels(maps: Tensor, size: tuple[int, int], placement: Placement | None, share: float = BEST) -> Tensor:
    """The share of the pixels where the stretched map is highest, (maps, *size) bool; equal ones in a random order.

    Those count as equal that differ by less than rounding may: it depends on how many maps there are, and beyond the
    outermost cells whole strips of pixels are equal.
    """
    stretched = map_mask(maps, size, placement).double()
    return rank((stretched / ROUNDING).round()) < round(share * size[0] * size[1])


def with_noise(images: Tensor, gradient: Tensor, share: float = NOISE) -> Tensor:
    """Noise in the share of each image's pixels that have the smallest gradient.

    That is the magnitude of its mean over channels. A value of its own for every channel is drawn between the lowest
    and the highest of the image.

    Args:
        images: (images, channels, height, width).
        gradient: of the same shape.
        share: 0..1.
    """
    size = gradient.mean(1).abs().flatten(1)
    hidden = torch.zeros_like(size, dtype=torch.bool)
    hidden.scatter_(1, size.topk(round(share * size.shape[1]), largest=False).indices, True)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    noise = low + (high - low) * torch.rand_like(images)
    return torch.where(hidden.reshape(len(images), 1, *images.shape[2:]), noise, images)


# ---- terms


def divergence(logits: Tensor, of_masked: Tensor) -> Tensor:
    r""":math:`\mathrm{KL}(p(x) \| p(\tilde x)) = \sum_c p_c(x) \ln (p_c(x) / p_c(\tilde x))`, (images,), nats.

    Args:
        logits: of the image, (images, classes).
        of_masked: of the image with parts hidden.
    """
    known, found = (_wide(values).log_softmax(1) for values in (logits, of_masked))
    return kl_div(found, known, reduction="none", log_target=True).sum(1)


def keep(first: FirstPass, again: Again) -> Tensor:
    r"""What the map shows should suffice for the class.

    .. math::
        \frac1{|\mathcal A|} \sum_{i \in \mathcal A} q_i\,
        \mathrm{CE}\bigl(f(M_i x_i + (1 - M_i)\, \mathrm{blur}(x_i)), y_i\bigr)

    M is the map stretched to the image (where its cells lie, as it is drawn) and divided by its highest value, fixed;
    :math:`\mathcal A` are the images whose map is alive, q is as in :mod:`camtrain.loss.criterion`.

    Costs a forward and a backward pass. In the spirit of Li et al., CVPR 2018 (GAIN), arXiv 1802.10171, who ask that
    the rest of the image does not suffice, and let the gradient through the mask; where that was tried here, with what
    is shown and at a weight of 1, accuracy collapsed.
    """

    def hidden(images: Tensor) -> Tensor:
        images = images[: len(first.target)]
        return _as_is(lambda: shown(images, map_mask(first.maps, _size(images), first.placement)), images)

    logits, _ = again(hidden)
    return first.mean(first.confidence * cross_entropy(_wide(logits), first.target, reduction="none"))


def masked_kl(first: FirstPass, again: Again) -> Tensor:
    r"""The network should say the same of the map's best quarter as of the image.

    .. math::
        \frac1{|\mathcal A|} \sum_{i \in \mathcal A} \mathrm{KL}\bigl(p(x_i) \| p(\tilde x_i)\bigr)

    :math:`\tilde x` shows the quarter of the pixels where the stretched map is highest; the others are blurred as in
    :func:`keep`: edges towards one colour would be something that the network never saw. :math:`p(x)` is fixed, and
    weighs by itself: of an image that the network knows nothing of, there is nothing to say again. The weight that was
    tried is 1/2.

    Costs a forward and a backward pass. After Ismail et al., NeurIPS 2021, arXiv 2111.14338, who hide by input
    gradients (:func:`saliency_guided`).
    """

    def hidden(images: Tensor) -> Tensor:
        images = images[: len(first.target)]
        return _as_is(lambda: shown(images, best_pixels(first.maps, _size(images), first.placement)), images)

    logits, _ = again(hidden)
    return first.mean(divergence(first.logits, logits))


def saliency_guided(first: FirstPass, again: Again) -> Tensor:
    r"""Saliency guided training (SGT): pixels of which the class hardly depends should not matter.

    .. math::
        \frac1B \sum_i \mathrm{KL}\bigl(p(x_i) \| p(\tilde x_i)\bigr), \qquad
        \tilde x_i = x_i \text{ with noise in the half of its pixels of smallest } \left| \nabla_x s_y(x_i) \right|

    :math:`s_y` is the logit of the true class; the gradient is the mean over channels, the noise uniform between the
    image's lowest and highest value (:func:`with_noise`). The gradient of the divergence goes through both
    distributions; therefore :math:`p(x)` comes from a pass of its own, like the gradient.

    Costs two forward and two backward passes and a gradient of the image. Ismail et al., NeurIPS 2021, arXiv
    2111.14338; the share of 1/2 and the weight of 1 are those of their code for images. It sorts gradients with their
    sign, and by magnitude as an option; the paper speaks of small gradients. It takes them in evaluation mode, here
    they are those of the mode in which the network trains.
    """
    whole: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        whole.append(images[: len(first.target)].detach().clone().requires_grad_())
        return whole[0]

    with warnings.catch_warnings():
        # The compiler looks at it where the network's input is computed from images that have a gradient.
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)
        logits, _ = again(watched)
    (images,) = whole
    of_class = logits.gather(1, first.target[:, None]).sum()
    (gradient,) = torch.autograd.grad(of_class, images, retain_graph=True)
    masked, _ = again(lambda _: with_noise(images.detach(), gradient))
    return first.ranks.mean(divergence(logits, masked))


TERMS: dict[str, Callable[[FirstPass, Again], Tensor]] = dict(
    zip(SECOND_PASS, (keep, masked_kl, saliency_guided), strict=True)
)
"""From the first pass, and a way to make further ones, to a scalar; by the name of the setting that is its weight."""


def second_pass(cam: CamConfig, first: FirstPass, again: Again | None) -> dict[str, Tensor]:
    """The terms that are on, scalars without their weights, by name.

    Raises:
        UserError: there is no way to make a further pass.
    """
    names = second_pass_terms(cam)
    if again is None:
        raise UserError(f"{names[0]} needs a further pass: give again=net.again(images)")
    return {name: TERMS[name](first, again) for name in names}


def check_one_class(cam: CamConfig, multilabel: bool, prefix: str = "") -> None:
    """Raise :class:`UserError` for a term that needs one class per image, where there are several.

    Args:
        cam: of one arm.
        multilabel: whether images have several classes.
        prefix: of the arm's keys.
    """
    names = second_pass_terms(cam) if multilabel and cam.weight != 0 else []
    if names:
        value = getattr(cam, names[0])
        raise UserError(
            f"{prefix}{names[0]}={value:g}: images have several classes, and so no map of their own; set"
            f" {prefix}{names[0]}=0"
        )


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]


def _wide(values: Tensor) -> Tensor:
    """In float32 or wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@torch.no_grad()
def _as_is(make: Callable[[], Tensor], images: Tensor) -> Tensor:
    """What is made without gradients and in full precision, also where the pass that it is made for runs in less."""
    with torch.autocast(images.device.type, enabled=False):
        return make()
