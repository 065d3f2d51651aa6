"""From annotations to the regions of images, and what is said of those that are not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from camtrain.data.annotations.entries import Annotation
from camtrain.data.annotations.find import Found
from camtrain.data.annotations.match import Known, Names
from camtrain.data.decode import displayed_size, fault
from camtrain.data.listing import BadImage, Box
from camtrain.errors import UserError

MASKED = "the image has a mask, which counts instead"
OTHER_CLASS = "of another class than the image's folder"


@dataclass
class Assigned:
    """The regions of images, and a count of everything else."""

    boxes: dict[Path, tuple[Box, ...]] = field(default_factory=dict)
    used: int = 0
    elsewhere: int = 0  # annotations of images in a split that is not listed
    unused: dict[str, list[str]] = field(default_factory=dict)  # by reason, where they stand
    remarks: dict[str, list[str]] = field(default_factory=dict)  # on annotations that are used

    @property
    def total(self) -> int:
        """Annotations that were used or not, without those elsewhere."""
        return self.used + sum(map(len, self.unused.values()))

    def leave_out(self, reason: str, where: str) -> None:
        """Count an annotation that is not used."""
        self.unused.setdefault(reason, []).append(where)

    def remark(self, what: str, where: str) -> None:
        """Count an annotation that is used although something is odd."""
        self.remarks.setdefault(what, []).append(where)


def assign(found: Found, names: Names, wanted: Collection[Path], masked: Collection[Path]) -> Assigned:
    """Give each image the regions of its own class.

    Args:
        found: the annotations.
        names: images of all splits.
        wanted: images of the splits that are listed.
        masked: those of them that have a mask, which counts instead.
    """
    result = Assigned()
    regions: dict[Path, list[Box]] = {}
    crowds: dict[Path, list[Annotation]] = {}
    sizes: dict[Path, tuple[int, int] | None] = {}
    for file, annotation in found.annotations():
        match = names.find(annotation.image, file, annotation.label)
        image = match.image
        if image is None:
            named = f": {annotation.image}, while there is {match.instead}" if annotation.image else ""
            result.leave_out(match.why_not if named else annotation.unusable, f"{annotation.where}{named}")
            continue
        if image.path not in wanted:
            result.elsewhere += 1
            continue
        if image.path in masked:
            result.leave_out(MASKED, annotation.where)
            continue
        if match.other_case:
            result.remark("the image's name is written in other capitals", annotation.where)
        if image.path not in sizes:
            sizes[image.path] = _size(image.path)
        boxes = _checked(annotation, image, names, sizes[image.path], result)
        if boxes and annotation.crowd:
            crowds.setdefault(image.path, []).append(annotation._replace(boxes=boxes))
        elif boxes:
            result.used += 1
            regions.setdefault(image.path, []).extend(boxes)
    for path, several in crowds.items():
        for annotation in several:
            if path in regions:
                result.leave_out("a crowd, beside single objects of the image", annotation.where)
            else:
                result.used += 1
                result.remark("a crowd, which is taken as the object where there is nothing else", annotation.where)
        regions.setdefault(path, [box for annotation in several for box in annotation.boxes])
    result.boxes = {path: tuple(boxes) for path, boxes in regions.items()}
    return result


def _checked(
    annotation: Annotation, image: Known, names: Names, size: tuple[int, int] | None, result: Assigned
) -> tuple[Box, ...]:
    """An annotation's boxes in pixels of its image; none, and the reason counted, where it cannot be used."""
    if annotation.unusable:
        result.leave_out(annotation.unusable, annotation.where)
        return ()
    if annotation.label is not None:
        same = names.same_class(annotation.label, image)
        if same.image is None:
            result.leave_out(OTHER_CLASS, f"{annotation.where}: {annotation.label} in {image.path}")
            return ()
        if same.other_case:
            result.remark("the class is written in other capitals", f"{annotation.where}: {annotation.label}")
    boxes = annotation.boxes
    if size is None:
        if annotation.shares:
            result.leave_out("the image cannot be read", annotation.where)
            return ()
        return boxes  # their image is reported when it is read
    if annotation.shares:
        boxes = tuple(_in_pixels(box, size) for box in boxes)
    why = next((why for why in (fault(box, size) for box in boxes) if why), "")
    if why:
        result.leave_out(why, f"{annotation.where}, {size[0]}x{size[1]} pixels")
        return ()
    if annotation.size not in (None, size):
        drawn_on = "x".join(map(str, annotation.size or ()))
        result.remark(
            "drawn on an image of another size, and may lie elsewhere here",
            f"{annotation.where}: {drawn_on}, {image.path} has {size[0]}x{size[1]} pixels",
        )
    return boxes


def _in_pixels(box: Box, size: tuple[int, int]) -> Box:
    """A box from shares of the image to its pixels, to a tenth: shares are written with few decimals."""
    left, top, right, bottom = (round(edge * extent, 1) for edge, extent in zip(box[:4], (*size, *size), strict=True))
    outline = tuple(tuple(value * size[place % 2] for place, value in enumerate(part)) for part in box.outline)
    return Box(left, top, right, bottom, where=box.where, outline=outline)


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return displayed_size(path)
    except BadImage:
        return None


def check_use(found: Found, result: Assigned, classes: Collection[str]) -> None:
    """Raise :class:`UserError` if annotations that were asked for are of no use at all."""
    if not found.asked_for or not result.total or result.used or result.elsewhere or MASKED in result.unused:
        return
    reason, places = max(result.unused.items(), key=lambda item: len(item[1]))
    text = f"{places[0]}: {reason}"
    if reason == OTHER_CLASS:
        text += f"; the classes are named after their folders: {', '.join(sorted(classes)[:5])}"
    if result.total > 1:
        text += f"; none of {result.total} annotations can be used"
    raise UserError(f"{text}; correct them, or leave them out: dataset.annotations=null")


def report(found: Found, result: Assigned, images: int) -> Iterator[str]:
    """Lines that say what was read, how much of it is used, and why the rest is not."""
    if found.files:
        formats = " and ".join(dict.fromkeys(source.format for source in found.sources))
        count = f"{result.used} used" if result.used < result.total else "all used"
        there = f"{_count(result.total, 'annotation')}, {count}, on {len(result.boxes)} of {images} images"
        yield f"{_list(found.files)} ({formats}): {there if result.total else 'no annotations'}"
    for reason, places in sorted(result.unused.items(), key=lambda item: -len(item[1])):
        yield f"{_count(len(places), 'annotation')} left out: {reason}; the first: {places[0]}"
    for what, places in result.remarks.items():
        yield f"{_count(len(places), 'annotation')}: {what}; the first: {places[0]}"
    counted = Counter(file.suffix.lower() for file, why in found.unread.items() if not why)
    wrong = [why for why in found.unread.values() if why]
    words = [_count(number, f"{suffix} file") for suffix, number in sorted(counted.items())] + wrong[:3]
    if words:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        yield f"not read as annotations: {'; '.join(words)}{more}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _list(files: Sequence[Path]) -> str:
    """Two files by name; of more the first, and how many."""
    if len(files) <= 2:
        return " and ".join(map(str, files))
    return f"{files[0]} and {len(files) - 1} more files"
