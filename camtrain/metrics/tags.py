"""Under which tags the figures of classification are kept. Without torch: sweeps read them too."""

from __future__ import annotations

from collections.abc import Container

ACCURACY, PRECISION = "accuracy", "average_precision"
BALANCED = f"{ACCURACY}/balanced"
"""Tag of the mean over classes of the share that is classified correctly."""

ENERGY = "cam/energy_in_mask"
"""Tag of the share of the map's energy that lies on the object."""


def metric_name(multilabel: bool) -> str:
    """Name of the figure, the first part of its tag."""
    return PRECISION if multilabel else ACCURACY


def primary_tag(figures: Container[str]) -> str:
    """Tag of the figure by which classification is judged: accuracy, or, in a multi-label set, mean average
    precision."""
    accuracy = f"{metric_name(multilabel=False)}/val"
    return accuracy if accuracy in figures else f"{metric_name(multilabel=True)}/val"
