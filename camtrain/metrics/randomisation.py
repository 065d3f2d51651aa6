r"""Does a map depend on what the network has learnt? (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018)

The weights are replaced by fresh ones layer by layer, from the output back to the input ("cascading randomisation"),
and each map is compared with the one before. A map that hardly changes shows the image's edges, or the network's
build, but not what was learnt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from torch import Tensor, nn

STAGES = 8
"""Steps of the cascade: the last layer by itself, the others in groups of about equal number."""


def stages(network: nn.Module) -> list[list[str]]:
    """Names of the parts that own weights, from the last to the first, in :data:`STAGES` groups at most."""
    names = [name for name, part in network.named_modules() if any(True for _ in part.parameters(recurse=False))]
    head, rest = names[-1:], names[-2::-1]
    groups = min(STAGES - 1, len(rest))
    bounds = [round(number * len(rest) / groups) for number in range(groups + 1)] if groups else []
    return [head, *(rest[low:high] for low, high in itertools.pairwise(bounds))]


def cascade(network: nn.Module, trained: dict[str, Tensor]) -> Iterator[int]:
    """Turn the trained network back into a fresh one, in place, stage by stage.

    Args:
        network: freshly initialised; of the same build as the trained one.
        trained: state dict of the trained network.

    Yields:
        Parts that are fresh so far: 0 first, when the network is the trained one; all of them last, when it is fresh.
    """
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(trained)
    done = 0
    yield done
    for group in stages(network):
        own = network.state_dict()
        for name in own:
            if name.rpartition(".")[0] in group:
                own[name] = fresh[name]
        network.load_state_dict(own)
        done += len(group)
        yield done
