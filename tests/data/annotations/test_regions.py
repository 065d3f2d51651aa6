"""Shapes and masks of each format, against values by hand and known run lengths."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camtrain.data.annotations import coco, labelme, tables, via, voc_xml, yolo
from camtrain.data.annotations.entries import Annotation, ellipse, json_of, polygons, strips, text_of
from camtrain.data.decode import region_of
from camtrain.data.listing import Box, Listing
from camtrain.errors import UserError


def drawn(boxes: tuple[Box, ...], width: int = 40, height: int = 30) -> np.ndarray:
    listing = Listing(["a"], [Path("x")], None, [boxes], None)  # type: ignore[arg-type]
    return region_of(listing, 0, (width, height)) == 1


@pytest.mark.parametrize(
    ("size", "counts", "text"),
    [
        ([4, 4], [5, 2, 2, 2, 5], "52203"),
        ([9, 10], [6, 1, 40, 4, 5, 4, 5, 4, 21], "61X13mN000`0"),
        ([40, 40], [245, 5, 35, 5, 35, 5, 35, 5, 35, 5, 1190], "e75S10000000ST1"),
    ],
)
def test_run_lengths_as_pycocotools_writes_them(size: list[int], counts: list[int], text: str) -> None:
    plain = coco.decoded({"size": size, "counts": counts})
    np.testing.assert_array_equal(coco.decoded({"size": size, "counts": text}), plain)
    expected = np.concatenate([np.full(count, place % 2) for place, count in enumerate(counts)])
    np.testing.assert_array_equal(plain, expected.reshape(size[::-1]).T == 1)


@pytest.mark.parametrize("runs", [{}, {"size": [2, 2], "counts": [3]}, {"size": [2, 2], "counts": "~"}])
def test_malformed_run_lengths(runs: Mapping[str, object]) -> None:
    with pytest.raises((LookupError, ValueError)):
        coco.decoded(runs)


def test_strips_make_up_the_mask() -> None:
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        mask = rng.random((30, 40)) < share
        mask[0, 0] = False
        boxes = tuple(strips(mask))
        np.testing.assert_array_equal(drawn(boxes), mask)
        assert sum((box.right - box.left) * (box.bottom - box.top) for box in boxes) == mask.sum()
    assert list(strips(np.ones((3, 4), bool), 5, 6)) == [Box(5, 6, 9, 9)]


def test_an_ellipse_is_its_pixels_whose_centres_lie_inside() -> None:
    y, x = np.mgrid[:30, :40] + 0.5
    for across, down, turn in ((9.3, 9.3, 0), (12.2, 5.7, 0), (12.2, 5.7, 0.6)):
        along = (x - 19.2) * math.cos(turn) + (y - 14.6) * math.sin(turn)
        aside = (y - 14.6) * math.cos(turn) - (x - 19.2) * math.sin(turn)
        expected = (along / across) ** 2 + (aside / down) ** 2 < 1
        found = drawn(tuple(ellipse(19.2, 14.6, across, down, turn)))
        assert (found ^ expected).sum() <= 1


def test_polygons_have_a_box_of_their_own() -> None:
    (box,) = polygons([[2, 3, 12, 3, 12, 8], [20, 5, 22, 5, 22, 9, 20, 9], [1, 1, 2, 2]])
    assert box[:4] == (2, 3, 22, 9)
    assert len(box.outline) == 2


def test_labelme(tmp_path: Path) -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 2:] = 1
    buffer = io.BytesIO()
    Image.fromarray(mask * 255).save(buffer, "PNG")
    shapes = [
        {"label": "a", "points": [[2, 3], [9, 3], [9, 8], [2, 8]]},
        {"label": "a", "points": [[10, 10], [10, 13]], "shape_type": "circle"},
        {
            "label": "a",
            "points": [[30, 20], [34, 23]],
            "shape_type": "mask",
            "mask": base64.b64encode(buffer.getvalue()).decode(),
        },
        {"label": "a", "points": [[10, 10]], "shape_type": "point"},
        {"label": None, "points": [[1, "x"], [3, 4]], "shape_type": "rectangle"},
        {"label": "a", "shape_type": "rectangle"},
        "what",
    ]
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"shapes": shapes, "imageWidth": 40, "imageHeight": None}))
    assert labelme.is_labelme(json_of(file))
    polygon, circle, bits, *others = labelme.read(file)
    assert (polygon.image, polygon.label, polygon.size) == (str(tmp_path / "x"), "a", None)
    assert drawn(polygon.boxes).sum() == 7 * 5
    assert circle.boxes[0][:4] == pytest.approx((7, 7, 13, 13))
    expected = np.zeros((30, 40), bool)
    expected[21:23, 32:35] = True
    np.testing.assert_array_equal(drawn(bits.boxes), expected)
    assert [entry.unusable for entry in others] == [
        "a point has no area",
        "a coordinate is not a number",
        *["a coordinate is missing"] * 2,
    ]


def test_via_shapes_and_classes() -> None:
    rectangle = via.shape({"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4})
    assert next(rectangle)[:4] == (1, 2, 4, 6)
    assert next(via.shape({"name": "circle", "cx": 9, "cy": 9, "r": 4}))[:4] == pytest.approx((5, 5, 13, 13))
    for name, reason in (("polyline", "a polyline has no area"), (None, "it has no shape")):
        with pytest.raises(ValueError, match=reason):
            via.shape({"name": name})
    for attributes, label in (
        ({}, None),
        (None, None),
        ({"animal": "cat"}, "cat"),
        ({"quality": "good", "Class ": "cat"}, "cat"),
        ({"quality": "good", "colour": "red"}, None),
        ({"type": {"cat": False, "dog": True}}, "dog"),
        ({"type": {"cat": False}}, None),
        ({"class": " "}, None),
    ):
        assert via.class_of(attributes) == label
    images = via.images_of({"a": {"filename": "a", "regions": ["x", {}, {"shape_attributes": {"name": "rect"}}]}})
    assert images is not None
    assert [entry.unusable for entry in via.read(Path("x"), images)] == [
        *("a coordinate is missing", "a coordinate is missing", "a coordinate is missing"),
    ]
    for other in ({}, [], {"a": 1}, {"a": {"filename": "a"}}):
        assert via.images_of(other) is None


def test_pascal_voc_counts_from_one_where_it_says_so(tmp_path: Path) -> None:
    def edges(source: str) -> tuple[float, ...]:
        file = tmp_path / "x.xml"
        box = "<bndbox><xmin>5</xmin><ymin>6.5</ymin><xmax>25</xmax><ymax>26</ymax></bndbox>"
        file.write_text(f"<annotation>{source}<object><name> cat </name>{box}</object></annotation>")
        (entry,) = voc_xml.read(file, voc_xml.root_of(file))
        assert entry.label == "cat"
        return entry.boxes[0][:4]

    assert edges("") == edges("<source><database>Unknown</database></source>") == (5, 6.5, 25, 26)
    assert edges("<source><database>The VOC2012 Database</database></source>") == (4, 5.5, 25, 26)
    (tmp_path / "y.xml").write_text(
        "<annotation><object/><object><bndbox><xmin>1</xmin></bndbox></object></annotation>"
    )
    found = list(voc_xml.read(tmp_path / "y.xml", voc_xml.root_of(tmp_path / "y.xml")))
    assert [entry.unusable for entry in found] == ["it has no bndbox", "a coordinate is not a number"]
    for text in ("<svg/>", "<annotation>", ""):
        (tmp_path / "z.xml").write_text(text)
        with pytest.raises(UserError, match=r"z\.xml: not an"):
            voc_xml.root_of(tmp_path / "z.xml")


def test_yolo(tmp_path: Path) -> None:
    file = tmp_path / "labels" / "train" / "x.txt"
    file.parent.mkdir(parents=True)
    file.write_text(
        "0 0.5 0.5 0.2 0.4\n\n1 .5 .5 .2 .4 0.93\n2 0 0 .5 0 .5 .5\n7 .5 .5 .2 .2\n0 30 40 5 6\n0 x 0 0 0\na 1\n"
    )
    (tmp_path / "data.yaml").write_text("names: {0: cat, 1: dog, 2: cow}\n")
    described = yolo.description_for(file.parent, tmp_path, {})
    box, scored, polygon, *others = yolo.read(file, yolo.lines_of(file), described)
    assert [entry.label for entry in (box, scored, polygon)] == ["cat", "dog", "cow"]
    assert box.boxes[0][:4] == scored.boxes[0][:4] == pytest.approx((0.4, 0.3, 0.6, 0.7))
    assert polygon.boxes[0].outline == ((0, 0, 0.5, 0, 0.5, 0.5),)
    assert [entry.unusable for entry in others] == [
        *("no class is numbered 7", "its coordinates are not shares of the image"),
        *("a coordinate is not a number", "its class is not a number"),
    ]
    assert not yolo.description_for(tmp_path / "elsewhere", tmp_path / "elsewhere", {}).names
    for content in ("", "[]", "names: 3", "names: {a: b}", "names: [", "path: x"):
        (tmp_path / "data.yaml").write_text(content)
        assert not yolo.description_for(tmp_path, tmp_path, {}).names
    for text in ("a photograph of a cat", "0 1 2", "1"):
        file.write_text(text)
        with pytest.raises(UserError, match="not in the layout of YOLO"):
            yolo.lines_of(file)


def test_key_points_are_no_polygon(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("0 .5 .5 .2 .4 .45 .5 2 .5 .5 2\n0 .5 .5 .2 .4 .45 .5 1 .5 .5 2\n0 -.05 0 1.05 0 .5 .5\n")

    def found() -> list[Annotation]:
        return list(yolo.read(file, yolo.lines_of(file), yolo.description_for(tmp_path, tmp_path, {})))

    says = "its coordinates are not shares of the image (key points are known by kpt_shape in data.yaml)"
    assert [entry.unusable for entry in found()] == [says, says, ""]
    (tmp_path / "data.yaml").write_text("names: [person]\nkpt_shape: [2, 3]\n")
    *people, outline = found()
    for person in people:
        assert person.boxes[0][:4] == pytest.approx((0.4, 0.3, 0.6, 0.7))
        assert not person.boxes[0].outline
    assert outline.boxes[0].outline


@pytest.mark.parametrize(
    ("text", "edges"),
    [
        ("path,xmin,ymin,xmax,ymax\na,1,2,3,4\n", (1, 2, 3, 4)),
        ("path;xmin;ymin;xmax;ymax\na;1,5;2;3;4,25\n;;;;\n", (1.5, 2, 3, 4.25)),
        ('sep=;\npath;xmin;ymin;xmax;ymax\na;"1,5";2;3;4\n', (1.5, 2, 3, 4)),
        ('path,xmin,ymin,xmax,ymax\na,"1,5",2,3,4\n\n\n', (1.5, 2, 3, 4)),
        ("\n path , xmin, ymin, xmax, ymax\n a , 1 , 2 , 3 , 4 \n", (1, 2, 3, 4)),
        ("x_min\ty_min\tX Max\tYMAX\tfile_name\n1\t2\t3\t4\ta\n", (1, 2, 3, 4)),
        ("ImageID,XMin,XMax,YMin,YMax\na,0.1,0.3,0.2,0.4\n", (0.1, 0.2, 0.3, 0.4)),
        ("ImageID,XMin,XMax,YMin,YMax\na,1,3,2,4\n", (1, 2, 3, 4)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_tables(text: str, edges: tuple[float, ...], encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(text.encode(encoding))
    (entry,) = tables.read(file, tables.table(file))
    assert (entry.image, entry.boxes[0][:4], entry.shares) == ("a", edges, max(edges) < 1)


def test_texts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("é".encode("latin-1"))
    for read in (text_of, json_of):
        with pytest.raises(UserError, match="not a text in UTF-8 or UTF-16"):
            read(tmp_path / "x.csv")
    with pytest.raises(UserError, match="cannot be read"):
        text_of(tmp_path)
