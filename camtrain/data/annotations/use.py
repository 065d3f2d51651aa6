"""The way in: the annotations of a data set become regions of its images, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from camtrain.data.annotations.assign import Assigned, assign, check_use, report
from camtrain.data.annotations.find import find
from camtrain.data.annotations.match import Known, Names
from camtrain.data.listing import Listing


class Said(NamedTuple):
    """What a user should know of the annotations."""

    lines: list[str]
    files: set[Path]  # that these lines speak of


def annotate(
    root: Path,
    given: str | Sequence[str] | None,
    bases: Sequence[Path],
    images: Iterable[Known],
    listings: Sequence[Listing],
) -> Said:
    """Give images that have no mask the regions that annotations tell of.

    Args:
        root: of the data set.
        given: names of files and folders, relative to root; `auto` to look; None for none.
        bases: folders of the splits.
        images: of all splits, of those that are not listed as well: a bare name may be theirs.
        listings: whose regions are added to.

    Raises:
        UserError: annotations that were asked for cannot be used.
    """
    found = find(root, given, bases)
    if not found.sources:
        return Said(list(report(found, Assigned(), 0)), set(found.unread))
    names = Names(images, root)
    regions = {path: region for part in listings for path, region in zip(part.paths, part.regions, strict=True)}
    assigned = assign(found, names, regions, {path for path, region in regions.items() if region is not None})
    check_use(found, assigned, names.classes)
    for part in listings:
        part.regions = [
            region or assigned.boxes.get(path) for path, region in zip(part.paths, part.regions, strict=True)
        ]
    return Said(list(report(found, assigned, len(regions))), {*found.files, *found.unread})
