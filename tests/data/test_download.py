"""Archives: nothing hostile is unpacked, nothing that is not whole is left, over a real server on loopback."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from served import Quiet

from camtrain.data.download import Archive, extract, provide
from camtrain.errors import UserError


def add(tar: tarfile.TarFile, name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
    tar.addfile(entry, io.BytesIO(content) if kind == tarfile.REGTYPE else None)


def tarred(path: Path, *names: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as opened:
        add(opened, "set/good.txt", b"good" * 1000)
        for name in names:
            add(opened, name, kind=kind, link=link)
    return path


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "kind", "link", "said"),
    [
        ("../outside", tarfile.REGTYPE, "", "leads out"),
        ("set/../../outside", tarfile.REGTYPE, "", "leads out"),
        ("/outside", tarfile.REGTYPE, "", "leads out"),
        ("..\\outside", tarfile.REGTYPE, "", "leads out"),
        ("C:/outside", tarfile.REGTYPE, "", "leads out"),
        ("set/link", tarfile.SYMTYPE, "../../outside", "neither a file nor a folder"),
        ("set/link", tarfile.SYMTYPE, "good.txt", "neither a file nor a folder"),
        ("set/link", tarfile.LNKTYPE, "set/good.txt", "neither a file nor a folder"),
        ("set/device", tarfile.CHRTYPE, "", "neither a file nor a folder"),
        ("set/pipe", tarfile.FIFOTYPE, "", "neither a file nor a folder"),
    ],
)
def test_hostile_tar(tmp_path: Path, name: str, kind: bytes, link: str, said: str) -> None:
    archive = tarred(tmp_path / "a.tar.gz", name, kind=kind, link=link)
    with pytest.raises(UserError, match=said) as caught:
        extract(archive, tmp_path / "deep" / "into")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("outside*"))


def test_owners_and_special_permissions_are_not_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        entry = tarfile.TarInfo("set/good.txt")
        entry.mode, entry.uid, entry.uname = 0o6777, 12345, "somebody"
        opened.addfile(entry)
    extract(tmp_path / "a.tar", tmp_path / "into")
    found = (tmp_path / "into" / "set" / "good.txt").stat()
    assert found.st_mode & 0o7777 == 0o755
    assert found.st_uid == tmp_path.stat().st_uid


@pytest.mark.parametrize(
    ("name", "said"), [("../outside", "leads out"), ("/outside", "leads out"), ("link", "neither")]
)
def test_hostile_zip(tmp_path: Path, name: str, said: str) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        entry = zipfile.ZipInfo(name)
        if name == "link":
            entry.external_attr = 0o120777 << 16
        opened.writestr(entry, "../outside")
    with pytest.raises(UserError, match=said):
        extract(archive, tmp_path / "deep" / "into")
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "gz"])
def test_good_archives_and_damaged_ones(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"good.txt.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr("set/good.txt", "good" * 1000)
    elif kind == "gz":
        archive.write_bytes(gzip.compress(b"good" * 1000))
    else:
        tarred(archive)
    extract(archive, tmp_path / "into")
    found = tmp_path / "into" / ("good.txt" if kind == "gz" else "set/good.txt")
    assert found.read_text().startswith("good")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UserError, match="damaged"):
        extract(archive, tmp_path / "again")
    drawn = random.Random(kind)
    for _ in range(200):  # some of them are whole enough
        other = bytearray(whole)
        for _ in range(drawn.choice((1, 4))):
            other[drawn.randrange(len(other))] = drawn.randrange(256)
        archive.write_bytes(other[drawn.choice((0, 0, 10)) :])
        with contextlib.suppress(UserError):
            extract(archive, tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "into", "again"}


def test_set_is_fetched_once_and_whole(tmp_path: Path, server: tuple[str, Path]) -> None:
    address, served = server
    archives = [tarred(served / "one.tar.gz"), tarred(served / "two ü.tar", "other/b.txt")]
    published = [
        Archive(f"http://nowhere.invalid/{path.name}", md5(path), into)
        for path, into in zip(archives, ("", "part"), strict=True)
    ]
    root = tmp_path / "sets" / "mine"
    provide(root, published, address)
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*.txt")) == [
        "part/other/b.txt",
        "part/set/good.txt",
        "set/good.txt",
    ]
    assert [path.name for path in root.parent.iterdir()] == ["mine"]
    asked = len(Quiet.asked)
    provide(root, published, address)
    assert len(Quiet.asked) == asked == 2


Broken = Callable[[Path], Archive]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: Archive("cut.tar", md5(tarred(folder / "cut.tar"))), r"broke off after \d+ of \d+ bytes"),
        (lambda folder: Archive(tarred(folder / "other.tar").name, "0" * 32), "damaged or another one"),
        (lambda _: Archive("missing.tar", "0" * 32), "the server answers 404"),
        (
            lambda folder: Archive("evil.tar", md5(tarred(folder / "evil.tar", "../evil")), "part"),
            "refused, because the entry '../evil' leads out",
        ),
    ],
)
def test_what_goes_wrong_leaves_no_set_and_keeps_what_was_whole(
    tmp_path: Path, server: tuple[str, Path], make: Broken, said: str
) -> None:
    address, served = server
    good = tarred(served / "good.tar")
    archives = [Archive(f"http://nowhere.invalid/{good.name}", md5(good)), make(served)]
    root = tmp_path / "mine"
    for attempt in range(2):
        with pytest.raises(UserError, match=said) as caught:
            provide(root, archives, address)
        assert "\n" not in str(caught.value)
        assert not root.exists()
        assert Quiet.asked.count("/good.tar") == 1, f"fetched again in attempt {attempt}"
    provide(root, archives[:1], address)
    assert (root / "set" / "good.txt").is_file()


def test_addresses_that_are_no_addresses(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")
    with pytest.raises(UserError, match="only http"):
        provide(tmp_path / "mine", [Archive("a.tar", "0" * 32)], f"file://{tmp_path}")
    with pytest.raises(UserError, match=r"cannot be fetched .*dataset\.mirror"):
        provide(tmp_path / "mine", [Archive("http://127.0.0.1:9/a.tar", "0" * 32)])


def test_two_processes_do_not_fetch_into_one_another(tmp_path: Path) -> None:
    (tmp_path / ".mine.partial").mkdir()
    with (
        FileLock(tmp_path / ".mine.partial" / "lock"),
        pytest.raises(UserError, match="another process is fetching"),
    ):
        provide(tmp_path / "mine", [Archive("http://127.0.0.1:9/a.tar", "0" * 32)])
