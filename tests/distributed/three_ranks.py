"""What three processes compute together, against what one does: run as rank 0, it starts the others itself."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from small import batch, classifier
from torch import Tensor, nn
from torch.nn import functional

from camtrain.config.options import CamVariant
from camtrain.data.batches import Batch
from camtrain.distributed import environment
from camtrain.distributed.as_one_batch import AsOneBatch
from camtrain.distributed.ranks import ALONE, Ranks
from camtrain.evaluation.every_epoch import evaluate

COUNT, SIZE = 8, 3


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def passed(network: nn.Module, images: Tensor, weights: Tensor, ranks: Ranks) -> dict[str, Tensor]:
    """Outputs, gradients of a loss that mixes the images, and buffers, as one process has them."""
    rows = torch.arange(len(images)) if ranks.alone else torch.tensor(ranks.rows(COUNT))
    own = images[rows].clone().requires_grad_()
    torch.manual_seed(3)
    with AsOneBatch(ranks, rows, COUNT):
        output = network(own)
    torch.autograd.backward(ranks.mean((output * weights[rows]).square()))
    gradients = [part.grad for part in network.parameters() if part.grad is not None]
    ranks.add_up(gradients)
    assert own.grad is not None
    found = {f"gradient {number}": gradient for number, gradient in enumerate(gradients)}
    found |= {f"buffer {name}": value for name, value in network.named_buffers()}
    return found | {"output": output.detach(), "of images": own.grad}


def compare_passes(network: nn.Module, images: Tensor, ranks: Ranks) -> None:
    weights = torch.rand(COUNT, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alone = passed(copy.deepcopy(network), images, weights, ALONE)
    together = passed(network, images, weights, ranks)
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        rows = torch.tensor(ranks.rows(COUNT)) if name in ("output", "of images") else ...
        close(together[name].to(value.dtype), value[rows])


def batch_norm(ranks: Ranks) -> None:
    torch.manual_seed(0)
    images = torch.randn(COUNT, 3, 5, 4, dtype=torch.float64) * 3 + 7
    norm, plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False, momentum=None)
    network = nn.Sequential(
        norm, nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), plain, nn.Flatten(), nn.Linear(18, 1)
    )
    compare_passes(network.double(), images, ranks)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(60, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 1))
    compare_passes(flat.double(), images, ranks)


class Drawn(nn.Module):
    """Every way to draw random numbers, in one pass."""

    def forward(self, images: Tensor) -> Tensor:
        images = functional.dropout2d(functional.dropout(images, 0.3, True), 0.3, True)
        images = functional.alpha_dropout(images, 0.2, True) + 0.1 * torch.randn_like(images)
        kept = images.new_empty(len(images), 1, 1, 1).bernoulli_(0.6)
        windows = images.flatten(2).transpose(1, 2).reshape(len(images) * 2, -1)  # two of each image
        windows = functional.dropout(windows, 0.4, True).reshape(len(images), -1)
        drawn = torch.rand(len(images), 1, dtype=images.dtype) + torch.bernoulli(torch.full_like(windows[:, :1], 0.5))
        return windows.sum(1, keepdim=True) * kept[:, 0, 0] + drawn


def random_numbers(ranks: Ranks) -> None:
    torch.manual_seed(0)
    images = torch.rand(COUNT, 3, 6, 6).double()
    for layout in (torch.contiguous_format, torch.channels_last):  # numbers are drawn in the order of memory
        network = nn.Sequential(nn.Conv2d(3, 4, 3), Drawn()).double().to(memory_format=layout)
        compare_passes(network, images.contiguous(memory_format=layout), ranks)
        compare_passes(Drawn(), images.contiguous(memory_format=layout), ranks)


def sums(ranks: Ranks) -> None:
    values = torch.arange(7, dtype=torch.float64)
    own = values[torch.tensor(ranks.rows(7))]
    close(ranks.sum(ranks.mean(own)), values.mean())
    close(ranks.norm(own.norm()), values.norm())
    close(ranks.sum(ranks.mean(own[:0])), torch.tensor(0.0, dtype=torch.float64))  # of nothing
    few = values[: 1 + ranks.rank].clone().requires_grad_()
    gathered = ranks.gathered(few)
    assert gathered.tolist() == [0, 0, 1, 0, 1, 2]
    torch.autograd.backward((gathered * torch.arange(6)).sum() * (ranks.rank + 1))
    assert few.grad is not None
    start = [0, 1, 3][ranks.rank]
    close(few.grad, 6.0 * torch.arange(start, start + len(few)).double())  # every rank's loss depends on it: 1 + 2 + 3
    assert ranks.in_turn([f"{row}" for row in ranks.rows(5)]) == ["0", "1", "2", "3", "4"]
    assert ranks.from_first({"given": ranks.rank}) == {"given": 0}
    tensors = [torch.full((2, 2), float(ranks.rank)), torch.tensor([ranks.rank])]
    ranks.add_up(tensors)
    assert tensors[0].unique().tolist() == [3]
    assert tensors[1].tolist() == [3]


def evaluation(ranks: Ranks) -> None:
    """To the last bit, for any number of images, whether every rank has some or not."""
    network = {"one": classifier("small_resnet").eval(), "other": classifier("small_resnet").eval()}
    for multilabel in (False, True):
        for count in range(1, 2 * SIZE + 2):
            whole = batch(count=count, multilabel=multilabel)
            parts: list[Batch] = [whole.select(torch.arange(count) == row) for row in range(count)]
            measured = torch.arange(count) != 1
            alone = evaluate(network, parts, CamVariant.gradcam, measured)
            own = [parts[row] for row in ranks.rows(count)]
            together = evaluate(network, own, CamVariant.gradcam, measured, ranks)
            assert repr(alone.measured.means) == repr(together.measured.means), count
            for name in network:
                assert torch.equal(alone.maps[name], together.maps[name])
                assert torch.equal(alone.logits[name], together.logits[name])
                for tag, values in alone.measured.each[name].items():
                    assert torch.equal(values.nan_to_num(), together.measured.each[name][tag].nan_to_num()), tag


CHECKS: dict[str, Callable[[Ranks], None]] = {
    check.__name__: check for check in (sums, batch_norm, random_numbers, evaluation)
}


def main() -> None:
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", 0))
    others = []
    if rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for other in range(1, SIZE):
            values = {**os.environ, **environment.of(other, SIZE, store.port)}
            others.append(subprocess.Popen([sys.executable, *sys.argv], env=values))
    else:
        store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=SIZE)
    for name, check in CHECKS.items():
        check(Ranks(rank, SIZE))
        if rank == 0:
            print(name, flush=True)
    dist.destroy_process_group()
    assert [other.wait() for other in others] == [0] * len(others)


if __name__ == "__main__":
    main()
