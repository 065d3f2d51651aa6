"""Which files of a folder are images, and what is said of the others."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
from image_folders import folder_error, noise, write_folder
from PIL import Image

from camtrain.data import files
from camtrain.data.build import build
from camtrain.data.files import below, content, counted, is_image, suffixes, why_left_out
from camtrain.data.sources.folder import list_folder


def test_suffixes_are_those_that_pillow_decodes() -> None:
    assert {".jpg", ".jfif", ".png", ".apng", ".bmp", ".webp", ".tiff", ".gif", ".pgm", ".jp2", ".tga"} <= suffixes()
    assert not {".pdf", ".h5", ".grib", ".wmf", ".eps", ".mpg", ".txt", ""} & suffixes()
    assert is_image(Path("A.JPG"))


@pytest.mark.parametrize("suffix", ["jfif", "pgm", "jp2", "tga", "bmp", "gif", "ico", "JPE"])
def test_formats_are_read_by_their_content(tmp_path: Path, suffix: str) -> None:
    config = write_folder(tmp_path)
    picture = Image.fromarray(noise(32, 32, 3))
    picture.save(tmp_path / "train" / "cat" / f"a.{suffix}")
    picture.save(tmp_path / "train" / "cat" / "b.jpg", format="PNG")
    train, _ = build(config, 0)
    assert len(train.targets) == 8
    images, _ = train.gather([0, 1])
    assert (images.float().flatten(1).std(1) > 5).all()


def test_plugins_of_pillow_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: called.append(1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setitem(sys.modules, "pillow_avif", None)
    files.load_plugins()
    assert called == [1]


def test_what_is_left_out_is_counted_by_suffix_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = suffixes() - {".heic"}
    monkeypatch.setattr(files, "suffixes", lambda: known)
    config = write_folder(tmp_path)
    cats = tmp_path / "train" / "cat"
    for name in ("1.HEIC", "2.heic", "notes.txt", "film.mov", "README"):
        (cats / name).write_bytes(b"x")
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "loose.png")
    (note,) = list_folder(config, "train").notes
    assert note.startswith("6 files left out: 2 x .heic (needs pillow-heif: pip install pillow-heif), ")
    for part in ("1 x .txt (no image)", "1 x .mov (a video: extract its frames)", "1 x readme (no suffix)"):
        assert part in note.replace("README", "readme")
    assert "1 x .png (in no class folder)" in note
    for path in cats.glob("*.png"):
        path.unlink()
    assert re.search(r"cat: no images in this class folder \(5 files left out: 2 x \.heic", folder_error(config))


def test_every_left_out_file_has_a_place_in_the_line() -> None:
    left_out = [(Path(f"{number}.x{number % 9}"), "no image") for number in range(20)]
    (line,) = counted("file% left out", left_out)
    assert line.startswith("20 files left out: 3 x .x0 (no image)")
    assert sum(map(int, re.findall(r"(\d+) (?:x|more)", line))) == 20
    assert list(counted("file% left out", [])) == []
    assert why_left_out(Path("a.NEF")).startswith("a raw photograph")


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\0\0\0\x18ftypheic", "HEIF"),
        (b"<svg xmlns=", "it is text, such as SVG or a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"%PDF-1.7", "it is PDF"),
        (b"", "the file is empty"),
    ],
)
def test_files_that_are_called_like_images_are_named(tmp_path: Path, start: bytes, said: str) -> None:
    (tmp_path / "a.jpg").write_bytes(start)
    assert said in str(content(tmp_path / "a.jpg"))
    (tmp_path / "b.jpg").write_bytes(b"anything")
    assert content(tmp_path / "b.jpg") is None


def test_folders_below_a_class_are_read_and_that_is_said(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    cats = tmp_path / "train" / "cat"
    (cats / "session 2" / "album.jpg").mkdir(parents=True)
    for place in ("session 2", "session 2/album.jpg", "session 2/.hidden", "@eaDir/x.png", "__MACOSX"):
        (cats / place).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(cats / place / "deep.png")
    (cats / "round").symlink_to(cats)  # a loop
    (tmp_path / "train" / "@eaDir").mkdir()  # no class
    (cats / "Thumbs.db").write_text("left by a desktop")
    (tmp_path / "boxes.csv").write_text("path,xmin,ymin,xmax,ymax,class\ntrain/cat/session 2/deep.png,1,1,5,5,cat\n")
    listing = list_folder(config, "train")
    assert listing.classes == ["cat", "dog"]
    names = [path.relative_to(cats).as_posix() for path in listing.paths if "deep" in path.name]
    assert names == ["session 2/album.jpg/deep.png", "session 2/deep.png"]
    assert [bool(region) for region in listing.regions].count(True) == 1
    (note,) = listing.notes
    assert note.startswith("2 images in folders below the class folders; the first: ")
    assert len(listing.paths) == 8
    assert [path.name for path in below(cats)].count("image 0 ä.png") == 1
