r"""Class activation maps as pure functions.

Every map is computed from the activations :math:`A` of the target layer, shape (maps, channels, height, width), and
the gradient :math:`g = \partial s / \partial A` of a score :math:`s` of the target class. A gradient that is the same
in every cell may be given as (maps, channels, 1, 1). :math:`N` is height times width; sums and means are over cells
unless a channel index k is written.

The maps returned here are *before* ReLU: :math:`L`, shape (maps, height, width), in float32 at least.
:mod:`camtrain.metrics.concentration` and :mod:`camtrain.loss.terms` work with :math:`L^+ = \mathrm{relu}(L)`.

The first six can be trained through: every operation is differentiable in both arguments. :func:`eigencam` and
:func:`scorecam` are for evaluation only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camtrain.config.options import CamVariant

XGRADCAM_EPSILON = 1e-7


def cam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Class activation map :math:`L = \sum_k w_{ck} A_k` (Zhou et al., CVPR 2016).

    The class weight is recovered from the closed-form gradient, :math:`w_{ck} = N g_k`; defined for global average
    pooling followed by one linear layer only, which the caller has to make sure of.
    """
    cells = activations.shape[-2] * activations.shape[-1]
    return cells * gradcam(activations, gradients)


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Grad-CAM :math:`L = \sum_k \overline{g_k} A_k`, the bar a mean over cells (Selvaraju et al., ICCV 2017)."""
    activations, gradients = _wide(activations, gradients)
    return _weighted_sum(activations, gradients.mean((-2, -1)))


def gradcampp(activations: Tensor, gradients: Tensor, epsilon: float = 0.0) -> Tensor:
    r"""Grad-CAM++ :math:`L = \sum_k w_k A_k` (Chattopadhay et al., WACV 2018, eq. 19).

    .. math::
        w_k = \sum \mathrm{relu}(g_k)\, \alpha_k, \qquad
        \alpha_k = \frac{g_k^2}{2 g_k^2 + \left(\sum A_k\right) g_k^3 + \epsilon},
        \qquad \alpha_k = 0 \text{ where } g_k = 0

    The published formula has no :math:`\epsilon`; then :math:`\alpha_k = 1 / (2 + g_k \sum A_k)`, which is what is
    computed. The `grad-cam` package adds 1e-6, which is not small beside :math:`g^2` (some :math:`10^{-6}` behind
    global average pooling) and lets the largest gradients dominate: `epsilon=1e-6` gives its values. Unlike that of
    the other maps, the distribution depends on the scale of the score. Where activations of a negative sum, which the
    derivation does not know, would bring the denominator below :math:`g^2`, it is held there.
    """
    activations, gradients = _wide(activations, gradients)
    total = activations.sum((-2, -1), keepdim=True)
    positive = gradients.relu()  # alpha matters only where the gradient is positive
    if epsilon:
        square = positive.square()
        alpha = square / (2 * square + total * square * positive + epsilon)
    else:
        alpha = 1 / (2 + positive * total).clamp_min(1)
    # A gradient that is the same in every cell counts once for each.
    cells = activations.shape[-2] * activations.shape[-1]
    return _weighted_sum(activations, cells * (positive * alpha).mean((-2, -1)))


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""HiResCAM :math:`L = \sum_k g_k A_k`, cell by cell (Draelos and Carin 2020, arXiv 2011.08891)."""
    activations, gradients = _wide(activations, gradients)
    return _sum_of_products(activations, gradients)


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""XGrad-CAM :math:`L = \sum_k w_k A_k`, :math:`w_k = \sum g_k A_k / (\sum A_k + \epsilon)` (Fu et al., BMVC 2020).

    :math:`\epsilon` is 1e-7, as in the `grad-cam` package. Made for activations after a ReLU: where they may be
    negative, a channel whose sum happens to be near zero gets a weight that means nothing.
    """
    activations, gradients = _wide(activations, gradients)
    total = activations.sum((-2, -1)) + XGRADCAM_EPSILON
    total = torch.where(total.abs() < XGRADCAM_EPSILON, XGRADCAM_EPSILON, total)
    return _weighted_sum(activations, (gradients * activations).sum((-2, -1)) / total)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""LayerCAM :math:`L = \sum_k \mathrm{relu}(g_k) A_k`, cell by cell (Jiang et al., TIP 2021)."""
    activations, gradients = _wide(activations, gradients)
    return _sum_of_products(activations, gradients.relu())


def eigencam(activations: Tensor) -> Tensor:
    r"""Eigen-CAM: projection of each cell's channels on their first principal axis (Muhammad and Yeasin, IJCNN 2020).

    .. math:: L = (O - \bar O)\, v_1, \qquad O - \bar O = U \Sigma V^\top

    with :math:`O` the N x channels matrix of activations, :math:`\bar O` its mean over cells and :math:`v_1` the first
    column of V. No class and no gradient enters.

    The paper decomposes O itself and projects it, :math:`L = O v_1`; of activations after a ReLU :math:`v_1` is then
    much like their mean. Centring is that of the `grad-cam` package (`get_2d_projection` in
    `utils/svd_on_activations.py`), and makes :math:`v_1` the axis along which cells differ most. A singular vector has
    no sign; the package takes the one that the decomposition happens to give. Here it is the one with which L rises
    with the sum of a cell's activations: :math:`\sum_i L_i \sum_k (O - \bar O)_{ik} \ge 0`.

    Args:
        activations: (maps, channels, height, width), detached.

    Returns:
        (maps, height, width), before ReLU; zero where every cell is the same, nan where activations are not finite.
    """
    count, _, height, width = activations.shape
    cells = _wide(activations)[0].flatten(2).mT
    finite = cells.isfinite().all(2).all(1)
    cells = torch.where(finite[:, None, None], cells, 0.0)  # no decomposition exists, and torch raises
    centred = cells - cells.mean(1, keepdim=True)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    projection = left[:, :, 0] * values[:, :1]
    rises = (projection * centred.sum(2)).sum(1, keepdim=True) >= 0
    signed = torch.where(rises, projection, -projection).masked_fill(~finite[:, None], torch.nan)
    return signed.reshape(count, height, width)


def scorecam(
    images: Tensor, activations: Tensor, score_of: Callable[[Tensor, int], Tensor], batch_size: int = 64
) -> Tensor:
    r"""Score-CAM :math:`L = \sum_k \mathrm{softmax}_k\!\left(s(X \circ M_k)\right) A_k` (Wang et al., CVPR-W 2020).

    :math:`M_k` is channel k stretched bilinearly to the image's size and scaled to 0..1. No gradient enters, but
    every channel costs a forward pass.

    Args:
        images: (maps, 3, size, size), what is masked: normalised images, so that a masked pixel is the mean colour.
        activations: (maps, channels, height, width), detached.
        score_of: from images (n, 3, size, size), all made from the one with the given number, to the scores (n,) of
            its target class.
        batch_size: images in a forward pass.

    Returns:
        (maps, height, width), before ReLU.
    """
    weights = []
    for number, (image, channels) in enumerate(zip(images, _wide(activations)[0], strict=True)):
        scores = []
        for part in channels.split(batch_size):
            masks = interpolate(part[:, None], image.shape[-2:], mode="bilinear", align_corners=False)
            low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
            scores.append(score_of(image * ((masks - low) / (high - low + 1e-8)), number))
        weights.append(torch.cat(scores).softmax(0))
    return _weighted_sum(
        _wide(activations)[0], torch.stack(weights) if weights else activations.new_zeros(0, activations.shape[1])
    )


METHODS: dict[CamVariant, Callable[[Tensor, Tensor], Tensor]] = {
    CamVariant.cam: cam,
    CamVariant.gradcam: gradcam,
    CamVariant.gradcampp: gradcampp,
    CamVariant.hirescam: hirescam,
    CamVariant.xgradcam: xgradcam,
    CamVariant.layercam: layercam,
}
"""The methods that can be trained through: from activations (maps, channels, height, width) and gradients, of the same
shape or (maps, channels, 1, 1), to maps (maps, height, width) before ReLU."""


def _wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In float32 or wider: half precision loses a map's small cells and overflows in its sums."""
    return tuple(tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors)


def _weighted_sum(activations: Tensor, weights: Tensor) -> Tensor:
    """Sum over channels of one weight each: (maps, channels, height, width), (maps, channels) to the maps."""
    cells = activations.flatten(2)
    # The product is written so that its backward hands the network a gradient in the activations' own memory layout.
    channels_last = activations.is_contiguous(memory_format=torch.channels_last)
    maps = cells.mT @ weights[:, :, None] if channels_last else weights[:, None, :] @ cells
    return maps.reshape(activations.shape[0], *activations.shape[2:])


def _sum_of_products(activations: Tensor, factors: Tensor) -> Tensor:
    """Sum over channels, cell by cell; a factor that is the same in every cell makes it a weighted sum."""
    if factors.shape[-2:] == (1, 1):
        return _weighted_sum(activations, factors[:, :, 0, 0])
    return (factors * activations).sum(1)
