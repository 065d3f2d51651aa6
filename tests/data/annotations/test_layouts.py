"""One set of boxes in the layouts of many tools: every one gives the same regions, pixel by pixel."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from camtrain.config.schema import FolderConfig
from camtrain.data.decode import region_of
from camtrain.data.sources.folder import splits


class Object(NamedTuple):
    """An object of an image: pixels, maxima exclusive."""

    split: str
    folder: str  # class of the image
    name: str
    size: tuple[int, int]
    label: str
    left: int
    top: int
    right: int
    bottom: int

    @property
    def path(self) -> Path:
        return Path(self.split, self.folder, self.name)

    @property
    def edges(self) -> tuple[int, int, int, int]:
        return self[5:]

    @property
    def extent(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.right - self.left, self.bottom - self.top


CLASSES = ("cat", "dog", "Käfer")


def objects() -> Iterator[Object]:
    """Two objects of its class in each of 12 images, and one of another class that overlaps neither."""
    rng = np.random.default_rng(5)
    for split in ("train", "val"):
        for number, folder in enumerate(CLASSES):
            for image in range(2):
                width, height = (int(edge) for edge in rng.integers(60, 120, 2))
                left, top = (int(edge) for edge in rng.integers(2, 20, 2))
                there = (split, folder, f"{split[0]}{number} {image}.png", (width, height))
                yield Object(*there, folder, left, top, left + 17, top + 13)
                yield Object(*there, folder, left + 8, top + 6, left + 21, top + 25)
                yield Object(*there, CLASSES[number - 1], left + 22, top, width, top + 5)


OBJECTS = tuple(objects())


def table(
    path: Path, columns: str, row: Callable[[Object], tuple[object, ...]], split: str = "", **dialect: str
) -> None:
    encoding = dialect.pop("encoding", "utf-8")
    with path.open("w", newline="", encoding=encoding) as opened:
        rows = csv.writer(opened, **dialect)  # type: ignore[arg-type]
        rows.writerow(columns.split())
        rows.writerows(row(entry) for entry in OBJECTS if entry.split in (split or entry.split))


def own(root: Path) -> None:
    table(root / "boxes.csv", "path class xmin ymin xmax ymax", lambda o: (o.path, o.label, *o.edges))


def semicolons_and_utf16(root: Path) -> None:
    columns = "path class xmin ymin xmax ymax"
    commas = lambda o: (o.path, o.label, *(f"{edge},0" for edge in o.edges))  # noqa: E731
    table(root / "boxes.csv", columns, commas, delimiter=";", encoding="utf-16")


def tabs_and_backslashes(root: Path) -> None:
    columns = "Path XMin YMin XMax YMax Class"
    row = lambda o: (f" {str(o.path).replace('/', chr(92))}", *(f" {e} " for e in o.edges), f"{o.label} ")  # noqa: E731
    table(root / "my boxes.tsv", columns, row, delimiter="\t", encoding="utf-8-sig", lineterminator="\r\n")


def via_csv(root: Path) -> None:
    columns = "#filename file_size file_attributes region_count region_id region_shape_attributes region_attributes"

    def row(entry: Object) -> tuple[object, ...]:
        shape = {"name": "rect", **dict(zip(("x", "y", "width", "height"), entry.extent, strict=True))}
        return entry.name, 900, "{}", 3, 0, json.dumps(shape), json.dumps({"animal": entry.label})

    table(root / "via_export_csv.csv", columns, row)


def via_json(root: Path) -> None:
    project: dict[str, dict[str, object]] = {}
    for entry in OBJECTS:
        image = project.setdefault(f"{entry.name}900", {"filename": entry.name, "size": 900, "regions": []})
        xs, ys = (entry.left, entry.right, entry.right, entry.left), (entry.top, entry.top, entry.bottom, entry.bottom)
        shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
        attributes = {"note": "x", "class": {entry.label: True, "other": False}}
        image["regions"].append({"shape_attributes": shape, "region_attributes": attributes})  # type: ignore[attr-defined]
    (root / "via_project.json").write_text(json.dumps({"_via_settings": {}, "_via_img_metadata": project}))


def tensorflow(root: Path) -> None:
    for split in ("train", "val"):
        columns = "filename width height class xmin ymin xmax ymax"
        table(root / split / "_annotations.csv", columns, lambda o: (o.name, *o.size, o.label, *o.edges), split)


def vott(root: Path) -> None:
    columns = "image xmin ymin xmax ymax label"
    row = lambda o: (o.name, *(float(edge) for edge in o.edges), o.label)  # noqa: E731
    table(root / "vott-export.csv", columns, row, quoting=csv.QUOTE_NONNUMERIC)  # type: ignore[arg-type]


def open_images(root: Path) -> None:
    columns = "ImageID Source LabelName Confidence XMin XMax YMin YMax IsOccluded IsTruncated IsGroupOf"

    def row(entry: Object) -> tuple[object, ...]:
        left, top, right, bottom = shares(entry)
        code = f"/m/{CLASSES.index(entry.label)}"
        return Path(entry.name).stem, "xclick", code, 1, left, right, top, bottom, 0, 0, 0

    for split in ("train", "val"):
        table(root / f"{split}-annotations-bbox.csv", columns, row, split)
    names = "".join(f"/m/{number},{name}\n" for number, name in enumerate(CLASSES))
    (root / "class-descriptions-boxable.csv").write_text(names, encoding="utf-8")


def shares(entry: Object) -> list[float]:
    return [round(edge / entry.size[place % 2], 6) for place, edge in enumerate(entry.edges)]


def coco(file: Path, split: str = "", name: Callable[[Object], object] = lambda o: o.name, how: str = "box") -> None:
    chosen = [entry for entry in OBJECTS if entry.split in (split or entry.split)]
    images = {entry.path: entry for entry in chosen}
    number = {path: place for place, path in enumerate(images, 100)}
    width, height = zip(*(entry.size for entry in images.values()), strict=True)
    annotations = [
        {"id": place, "image_id": number[entry.path], "category_id": CLASSES.index(entry.label), **region(entry, how)}
        for place, entry in enumerate(chosen)
    ]
    content = {
        "images": [
            {"id": number[path], "file_name": str(name(entry)), "width": width[place], "height": height[place]}
            for place, (path, entry) in enumerate(images.items())
        ],
        "annotations": annotations,
        "categories": [{"id": place, "name": name, "supercategory": "animal"} for place, name in enumerate(CLASSES)],
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


def region(entry: Object, how: str) -> dict[str, object]:
    """A region as COCO writes it."""
    left, top, right, bottom = entry.edges
    if how == "box":
        return {"bbox": entry.extent, "segmentation": [], "area": 1, "iscrowd": 0}
    if how == "polygon":
        return {"segmentation": [[left, top, right, top, right, bottom, left, bottom]], "iscrowd": 0}
    width, height = entry.size
    tall, wide = bottom - top, right - left
    gap = height - tall
    counts = [left * height + top, *([tall, gap] * wide)[:-1], (width - right) * height + height - bottom]
    text = how == "text"
    return {"segmentation": {"size": [height, width], "counts": compressed(counts) if text else counts}, "iscrowd": 0}


def compressed(counts: list[int]) -> str:
    """Run lengths as COCO's text."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


def coco_whole(root: Path) -> None:
    coco(root / "coco.json", name=lambda o: o.path)


def coco_by_split(root: Path) -> None:  # Roboflow
    for split in ("train", "val"):
        coco(root / split / "_annotations.coco.json", split)


def coco_instances(root: Path) -> None:  # CVAT
    for split in ("train", "val"):
        coco(root / "annotations" / f"instances_{split}.json", split, how="polygon")


def coco_runs(root: Path) -> None:
    coco(root / "annotations" / "result.json", name=lambda o: f"C:\\data\\{o.folder}\\{o.name}", how="runs")


def coco_text(root: Path) -> None:
    coco(root / "annotations" / "result.json", name=lambda o: Path("/somewhere", o.path), how="text")


def each_image(root: Path, folder: str, suffix: str, text: Callable[[list[Object]], str]) -> None:
    """A file for each image, beside it or in a parallel folder."""
    for path in dict.fromkeys(entry.path for entry in OBJECTS):
        file = (root / folder / path).with_suffix(suffix)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text([entry for entry in OBJECTS if entry.path == path]), encoding="utf-8")


def voc(entries: list[Object], source: str = "<database>Unknown</database>", first: int = 0) -> str:
    size = dict(zip(("width", "height"), entries[0].size, strict=True))
    parts = [
        f"<source>{source}</source><size>{''.join(f'<{key}>{value}</{key}>' for key, value in size.items())}</size>"
    ]
    for entry in entries:
        left, top, right, bottom = entry.edges
        edges = {"xmin": left + first, "ymin": top + first, "xmax": right, "ymax": bottom}
        box = "".join(f"<{key}>{value}</{key}>" for key, value in edges.items())
        parts.append(f"<object><name>{entry.label}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>")
    return f"<annotation><filename>elsewhere.jpg</filename>{''.join(parts)}</annotation>"


def labelimg(root: Path) -> None:
    each_image(root, "", ".xml", voc)


def pascal(root: Path) -> None:
    source = "<database>The VOC2007 Database</database><annotation>PASCAL VOC2007</annotation>"
    each_image(root, "Annotations", ".xml", lambda entries: voc(entries, source, 1))


def yolo(entries: list[Object]) -> str:
    lines = []
    for entry in entries:
        left, top, right, bottom = (edge / entry.size[place % 2] for place, edge in enumerate(entry.edges))
        numbers = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        lines.append(f"{CLASSES.index(entry.label)} " + " ".join(f"{number:.6f}" for number in numbers))
    return "\n".join(lines) + "\n"


def yolo_beside(root: Path) -> None:
    each_image(root, "", ".txt", yolo)
    (root / "train" / "classes.txt").write_text("\n".join(CLASSES))
    (root / "val" / "classes.txt").write_text("\n".join(CLASSES))


def yolo_labels(root: Path) -> None:
    each_image(root, "labels", ".txt", yolo)
    (root / "data.yaml").write_text(json.dumps({"nc": 3, "names": CLASSES}))


def yolo_polygons(root: Path) -> None:
    def text(entries: list[Object]) -> str:
        corners = ((0, 1, 2, 1, 2, 3, 0, 3), [shares(entry) for entry in entries])
        lines = [
            [CLASSES.index(e.label), *(s[c] for c in corners[0])] for e, s in zip(entries, corners[1], strict=True)
        ]
        return "\n".join(" ".join(map(str, line)) for line in lines)

    each_image(root, "labels", ".txt", text)
    (root / "labels" / "obj.names").write_text("\n".join(CLASSES) + "\n")


def labelme(root: Path, kind: str = "rectangle") -> None:
    def text(entries: list[Object]) -> str:
        shapes = []
        for entry in entries:
            left, top, right, bottom = entry.edges
            around = [[left, top], [right, top], [right, bottom], [left, bottom]]
            points = [[right, bottom], [left, top]] if kind == "rectangle" else around
            shapes.append({"label": entry.label, "points": points, "shape_type": kind, "flags": {}})
        width, height = entries[0].size
        return json.dumps({"shapes": shapes, "imagePath": "x", "imageWidth": width, "imageHeight": height})

    each_image(root, "", ".json", text)


def labelme_polygons(root: Path) -> None:
    labelme(root, "polygon")


LAYOUTS = (
    *(own, semicolons_and_utf16, tabs_and_backslashes, via_csv, via_json, tensorflow, vott, open_images, coco_whole),
    *(coco_by_split, coco_instances, coco_runs, coco_text, labelimg, pascal, yolo_beside, yolo_labels, yolo_polygons),
    *(labelme, labelme_polygons),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for entry in OBJECTS[::3]:
        (root / entry.path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", entry.size).save(root / entry.path)
    return root


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
def test_every_layout_gives_the_same_regions(write: Callable[[Path], None], images: Path, tmp_path: Path) -> None:
    for path in images.rglob("*.png"):
        (tmp_path / path.relative_to(images)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.relative_to(images)).hardlink_to(path)
    write(tmp_path)
    seen = 0
    found = splits(FolderConfig(root=str(tmp_path)))
    for listing in found:
        for number, path in enumerate(listing.paths):
            entries = [entry for entry in OBJECTS if tmp_path / entry.path == path]
            expected = np.zeros(entries[0].size[::-1], np.uint8)
            for left, top, right, bottom in (entry.edges for entry in entries if entry.label == entry.folder):
                expected[top:bottom, left:right] = 1
            np.testing.assert_array_equal(region_of(listing, number, entries[0].size), expected)
            seen += 1
    assert seen == 12
    said = found[0].notes
    assert "36 annotations, 24 used, on 12 of 12 images" in said[0]
    assert "12 annotations left out: of another class than the image's folder" in said[1]
    assert len(said) == 2
