"""Published sets: miniatures of their layouts on disk, read by torchvision's own classes, fetched from a server."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from image_folders import TRAINED_ALONE
from PIL import Image
from served import Quiet
from torchvision import datasets

from camtrain.config.options import DatasetName
from camtrain.config.schema import PublishedConfig
from camtrain.data.batches import one_batch
from camtrain.data.build import build
from camtrain.data.download import Archive
from camtrain.data.sources import SOURCES, voc
from camtrain.data.sources.published import Published
from camtrain.errors import UserError

RANDOM = np.random.default_rng(0)


def image(path: Path, width: int = 40, height: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def object_in(name: str, box: tuple[int, int, int, int], difficult: int = 0) -> str:
    edges = "".join(f"<{edge}>{at}</{edge}>" for edge, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{edges}</bndbox></object>"


def make_voc(root: Path, year: str) -> None:
    base = root / "VOCdevkit" / f"VOC{year}"
    contents = {
        "with_mask": object_in("cat", (1, 1, 20, 30)) + object_in("person", (21, 1, 40, 30)),
        "with_boxes": object_in("dog", (11, 6, 30, 25)) + object_in("car", (1, 1, 5, 5), difficult=1),
    }
    for split in voc.SPLITS[year]:
        names = [f"{split}_{name}" for name in contents]
        text(base / "ImageSets" / "Main" / f"{split}.txt", *names)
        for name, content in zip(names, contents.values(), strict=True):
            image(base / "JPEGImages" / f"{name}.jpg")
            text(base / "Annotations" / f"{name}.xml", f"<annotation>{content}</annotation>")
        values = np.zeros((30, 40))
        values[5:25, 8:20], values[5:25, 22:30], values[4] = 8, 15, 255
        mask(base / "SegmentationClass" / f"{names[0]}.png", values)


def make_pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        names = [f"{kind}_{split}_{number}" for kind in ("Abyssinian", "american_bulldog") for number in range(2)]
        text(base / "annotations" / f"{split}.txt", *(f"{name} {1 + ('bull' in name)} 1 1" for name in names))
        for name in names:
            image(base / "images" / f"{name}.jpg")
            values = np.full((30, 40), 2)
            values[10:20, 10:30], values[9] = 1, 3
            mask(base / "annotations" / "trimaps" / f"{name}.png", values)


def make_birds(root: Path) -> None:
    base = root / "CUB_200_2011"
    names = [f"00{kind}.Bird_{kind}/Bird_{kind}_{number}.jpg" for kind in (1, 2) for number in range(4)]
    for name in names:
        image(base / "images" / name)
    count = range(1, len(names) + 1)
    text(base / "images.txt", *(f"{number} {name}" for number, name in zip(count, names, strict=True)))
    text(base / "classes.txt", "1 001.Bird_1", "2 002.Bird_2")
    text(base / "image_class_labels.txt", *(f"{number} {1 + (number > 4)}" for number in count))
    text(base / "train_test_split.txt", *(f"{number} {number % 2}" for number in count))
    text(base / "bounding_boxes.txt", *(f"{number} 10.0 5.0 20.0 15.0" for number in count))
    values = np.zeros((30, 40))
    values[5:20, 10:20], values[0] = 204, 51
    for name in names[:4]:
        mask((root / "segmentations" / name).with_suffix(".png"), values)


def make_imagenette(root: Path) -> None:
    for split in ("train", "val"):
        for wnid in classes_of_imagenette():
            image(root / "imagenette2-320" / split / wnid / f"{split}.JPEG")


def classes_of_imagenette() -> list[str]:
    return list(datasets.Imagenette._WNID_TO_CLASS)


def make_imagenet(root: Path) -> None:
    for split in ("train", "val"):
        for wnid in ("n01440764", "n02102040"):
            image(root / split / wnid / f"{split}.JPEG")


def make_eurosat(root: Path) -> None:
    for kind in ("Forest", "River"):
        for number in range(12):
            image(root / "eurosat" / "2750" / kind / f"{kind}_{number}.jpg", 64, 64)


def make_cifar(root: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickled batches, with their own checksums in place of the published ones in torchvision's class."""
    label = "fine_labels" if "100" in kind.__name__ else "labels"
    base = root / kind.base_folder

    def write(name: str, content: object) -> str:
        base.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((base / name).read_bytes()).hexdigest()

    def batch() -> dict[str, Any]:
        return {"data": RANDOM.integers(0, 255, (4, 3072), dtype=np.uint8), label: [0, 1, 0, 1]}

    for part in ("train_list", "test_list"):
        monkeypatch.setattr(kind, part, [[name, write(name, batch())] for name, _ in getattr(kind, part)])
    names = write(kind.meta["filename"], {kind.meta["key"]: ["first", "second"]})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": names})


def make_fashion(root: Path) -> None:
    base = root / "FashionMNIST" / "raw"
    base.mkdir(parents=True)
    for part in ("train", "t10k"):
        values = RANDOM.integers(0, 255, (8, 28, 28), dtype=np.uint8)
        (base / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 0x803, 8, 28, 28) + values.tobytes())
        (base / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, 8) + bytes(range(8)))


MAKE: dict[DatasetName, Callable[[Path, pytest.MonkeyPatch], None]] = {
    DatasetName.voc2007: lambda root, _: make_voc(root, "2007"),
    DatasetName.voc2012: lambda root, _: make_voc(root, "2012"),
    DatasetName.oxford_pet: lambda root, _: make_pets(root),
    DatasetName.cub200: lambda root, _: make_birds(root),
    DatasetName.cifar10: lambda root, patch: make_cifar(root, datasets.CIFAR10, patch),
    DatasetName.cifar100: lambda root, patch: make_cifar(root, datasets.CIFAR100, patch),
    DatasetName.fashion_mnist: lambda root, _: make_fashion(root),
    DatasetName.imagenette: lambda root, _: make_imagenette(root),
    DatasetName.imagenet: lambda root, _: make_imagenet(root),
    DatasetName.eurosat: lambda root, _: make_eurosat(root),
}

FETCHED = [name for name, source in SOURCES.items() if isinstance(source, Published) and source.archives]


def source_of(name: DatasetName) -> Published:
    source = SOURCES[name]
    assert isinstance(source, Published)
    return source


COUNTS = {
    DatasetName.voc2007: (2, 2),
    DatasetName.voc2012: (2, 2),
    DatasetName.oxford_pet: (4, 4),
    DatasetName.cub200: (4, 4),
    DatasetName.cifar10: (20, 4),
    DatasetName.cifar100: (4, 4),
    DatasetName.fashion_mnist: (8, 8),
    DatasetName.imagenette: (10, 10),
    DatasetName.imagenet: (2, 2),
}


def config_of(name: DatasetName, root: Path, **more: Any) -> PublishedConfig:
    return PublishedConfig(name=name, root=str(root), image_size=24, cache=None, **more)


@pytest.mark.parametrize("name", MAKE)
def test_every_set_is_read_from_its_layout(name: DatasetName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKE[name](tmp_path, monkeypatch)
    train, val = build(config_of(name, tmp_path), 0, guided=True)
    if name in COUNTS:
        assert (len(train.targets), len(val.targets)) == COUNTS[name]
    else:  # split by file name
        assert len(train.targets) + len(val.targets) == 24
        assert len(val.targets) > 0
    assert list(train.classes) == list(val.classes)
    images, regions = train.gather(range(len(train.targets)))
    assert images.shape[1:] == (3, 24, 24)
    assert images.float().std() > 10
    assert (regions is not None and bool(regions.any())) == (int(train.has_region.sum()) > 0)


def test_voc_counts_from_one_leaves_difficult_objects_out_and_prefers_masks(tmp_path: Path) -> None:
    make_voc(tmp_path, "2012")
    train, _ = voc.list_voc(tmp_path, "2012")
    present = [[voc.CLASSES[kind] for kind in row.nonzero().flatten().tolist()] for row in train.targets]
    assert present == [["cat", "person"], ["dog"]]
    config = config_of(DatasetName.voc2012, tmp_path)
    config.image_size = 30
    images, _ = build(config, 0, guided=True)
    _, regions = images.gather([0, 1])  # the middle square: columns 5 to 35 of 40
    assert sorted(regions[0].unique().tolist()) == [0, 8, 15, 255]
    assert (regions[0] == 8).sum() == 20 * 12
    dog = torch.zeros(30, 30, dtype=torch.uint8)
    dog[5:25, 5:25] = 12
    assert torch.equal(regions[1], dog)
    assert train.regions[1] is not None
    assert [box.value for box in train.regions[1]] == [12, 255]  # type: ignore[union-attr]


def test_pets_have_trimaps_and_birds_have_masks_or_boxes(tmp_path: Path) -> None:
    make_pets(tmp_path)
    make_birds(tmp_path)
    config = config_of(DatasetName.oxford_pet, tmp_path)
    config.image_size = 30
    _, regions = build(config, 0, guided=True)[0].gather([0])
    assert (regions == 1).sum() == 200
    assert (regions == 255).sum() == 30
    config.name = DatasetName.cub200
    train, _ = build(config, 0, guided=True)
    _, regions = train.gather(range(4))  # the first class has masks, of half its boxes
    assert regions is not None
    assert [int((row == 1).sum()) for row in regions] == [150, 150, 300, 300]
    assert list(train.classes) == ["Bird 1", "Bird 2"]
    (tmp_path / "CUB_200_2011" / "bounding_boxes.txt").write_text("1 2\n")
    with pytest.raises(UserError, match="do not fit one another"):
        build(config, 0)


def test_annotations_that_are_none(tmp_path: Path) -> None:
    make_voc(tmp_path, "2012")
    file = tmp_path / "VOCdevkit" / "VOC2012" / "Annotations" / "train_with_boxes.xml"
    for content in ("<annotation>", f"<annotation>{object_in('unicorn', (1, 1, 2, 2))}</annotation>"):
        file.write_text(content)
        with pytest.raises(UserError, match=r"train_with_boxes\.xml: not an annotation"):
            build(config_of(DatasetName.voc2012, tmp_path), 0)


def test_facts_are_those_of_torchvision() -> None:
    def same(name: DatasetName, *theirs: tuple[str, str]) -> None:
        assert [(archive.url, archive.md5) for archive in source_of(name).archives] == list(theirs)

    years = datasets.voc.DATASET_YEAR_DICT
    for name, keys in ((DatasetName.voc2007, ("2007", "2007-test")), (DatasetName.voc2012, ("2012",))):
        same(name, *((years[key]["url"], years[key]["md5"]) for key in keys))
    same(DatasetName.oxford_pet, *datasets.OxfordIIITPet._RESOURCES)
    same(DatasetName.cifar10, (datasets.CIFAR10.url, datasets.CIFAR10.tgz_md5))
    same(DatasetName.cifar100, (datasets.CIFAR100.url, datasets.CIFAR100.tgz_md5))
    fashion = datasets.FashionMNIST
    same(DatasetName.fashion_mnist, *((fashion.mirrors[0] + name, md5) for name, md5 in fashion.resources))
    same(DatasetName.imagenette, datasets.Imagenette._ARCHIVES["320px"])


def pack(root: Path, into: Path, like: tuple[Archive, ...]) -> tuple[Archive, ...]:
    """Archives with the names of the published ones, which together hold what is under root."""
    made = []
    for archive in like:
        path = into / archive.name
        base = root / archive.into
        if archive.name.endswith(".gz") and not archive.name.endswith(".tar.gz"):
            path.write_bytes(gzip.compress((base / archive.name.removesuffix(".gz")).read_bytes()))
        else:
            parts = [part for part in sorted(base.iterdir()) if part.name == archive.name.split(".")[0]]
            parts = parts or sorted(base.iterdir())
            if archive.name.endswith(".zip"):
                with zipfile.ZipFile(path, "w") as opened:
                    for file in sorted(base.rglob("*")):
                        opened.write(file, file.relative_to(base))
            else:
                with tarfile.open(path, "w:gz" if archive.name.endswith("gz") else "w") as packed:
                    for part in parts:
                        packed.add(part, part.name)
        made.append(archive._replace(md5=hashlib.md5(path.read_bytes()).hexdigest()))
    return tuple(made)


@pytest.mark.parametrize("name", FETCHED)
def test_every_set_is_fetched_whole_or_not_at_all(
    name: DatasetName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path]
) -> None:
    address, served = server
    MAKE[name](tmp_path / "original", monkeypatch)
    made = pack(tmp_path / "original", served, source_of(name).archives)

    def publish(archives: tuple[Archive, ...]) -> None:
        monkeypatch.setitem(SOURCES, name, replace(source_of(name), archives=archives))  # type: ignore[arg-type]

    root = tmp_path / "fetched"
    publish(made)
    last = served / made[-1].name
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or another one"):
        build(config_of(name, root, download=True, mirror=address), 0, guided=True)
    publish((*made[:-1], made[-1]._replace(md5="0" * 32)))
    last.write_bytes(whole)
    with pytest.raises(UserError, match="damaged or another one"):
        build(config_of(name, root, download=True, mirror=address), 0, guided=True)
    assert not root.exists()
    publish(made)
    fetched = build(config_of(name, root, download=True, mirror=address), 0, guided=True)
    original = build(config_of(name, tmp_path / "original"), 0, guided=True)
    for one, other in zip(fetched, original, strict=True):
        assert torch.equal(one.targets, other.targets)
        assert len(one.targets) == len(other.targets)
        both = (one_batch(part, list(range(len(one.targets))), torch.device("cpu"))[:4] for part in (one, other))
        assert all(torch.equal(*pair) for pair in zip(*both, strict=True))
    asked = len(Quiet.asked)
    build(config_of(name, root, download=True, mirror=address), 0, guided=True)
    assert len(Quiet.asked) == asked


@pytest.mark.parametrize("name", MAKE)
def test_a_set_that_is_not_there(name: DatasetName, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{name.value} is not there") as caught:
        build(config_of(name, tmp_path), 0)
    assert "\n" not in str(caught.value)
    assert ("dataset.download=true" in str(caught.value)) == (name in FETCHED)


def test_imagenet_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fetch it by hand"):
        build(config_of(DatasetName.imagenet, tmp_path, download=True), 0)


def test_command_trains_on_voc(run_command: Command, tmp_path: Path) -> None:
    make_voc(tmp_path / "voc", "2012")
    settings = ("dataset.root=voc", "dataset.image_size=32", "dataset.cache=c", "trainer.epochs=1")
    done = run_command("dataset=voc2012", *settings, *TRAINED_ALONE)
    assert done.returncode == 0, done.stderr
    assert "average precision" in done.stdout
