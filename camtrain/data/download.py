"""Archives from the network: checked before they are unpacked, so that a set's folder is there whole or not at all.

Nothing in an archive is trusted: paths that lead out of the folder, links and devices are refused. The folder is built
beside its place and renamed when everything is in it; archives that had arrived whole before an interruption are not
fetched again. torchvision's own functions for this know neither a mirror nor a timeout, and unpack links.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import logging
import lzma
import shutil
import stat
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from filelock import FileLock, Timeout
from tqdm import tqdm

from camtrain.errors import DISK, MALFORMED, UserError, of_system

log = logging.getLogger("camtrain")


BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)
"""What comes of unpacking a damaged archive, beside :data:`camtrain.errors.MALFORMED`."""

CHUNK = 2**20

TIMEOUT = 60
"""Seconds without a byte after which a server counts as silent."""


class Archive(NamedTuple):
    """Where a file is published, its checksum, and where it is unpacked."""

    url: str
    md5: str  # as published with the set: guards against damage, not against its publisher
    into: str = ""  # folder inside the set's

    @property
    def name(self) -> str:
        return urllib.parse.unquote(self.url.rpartition("/")[2])


def provide(root: Path, archives: Sequence[Archive], mirror: str | None = None) -> None:
    """Fetch and unpack a set into `root` unless something is there already.

    Args:
        root: folder of the set.
        archives: what the set consists of.
        mirror: address of a folder that holds the archives under their own names, in place of where they are published.

    Raises:
        UserError: an archive cannot be fetched, is not what it should be, or is hostile. Nothing is at `root` then.
    """
    root = root.resolve()
    if root.is_dir() and any(root.iterdir()):
        return
    if (root.exists() and not root.is_dir()) or root.is_mount():
        raise UserError(f"{root}: a set becomes a folder of its own; name one that is empty or not there yet")
    partial = root.with_name(f".{root.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with FileLock(partial / "lock").acquire(blocking=False):
            if not root.is_dir() or not any(root.iterdir()):  # else another process has fetched it meanwhile
                content = partial / "content"
                shutil.rmtree(content, ignore_errors=True)
                content.mkdir()
                for archive in archives:
                    extract(fetch(archive, partial, mirror), content / archive.into)
                if root.is_dir():
                    root.rmdir()
                content.rename(root)
            shutil.rmtree(partial, ignore_errors=True)
    except Timeout:
        raise UserError(f"{root}: another process is fetching this set; wait for it") from None
    except OSError as error:
        raise of_system(error, f"{root}: the set cannot be written there ({error.strerror or error})") from error


def fetch(archive: Archive, folder: Path, mirror: str | None = None) -> Path:
    """The archive's file in `folder`, whole and with the right checksum.

    Raises:
        UserError: it cannot be fetched, or is not what it should be.
    """
    path = folder / archive.name
    if path.is_file() and _md5(path) == archive.md5:
        return path
    url = f"{mirror.rstrip('/')}/{urllib.parse.quote(archive.name)}" if mirror else archive.url
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url}: only http and https addresses are fetched")
    log.info("%-9s %s", "download", url)
    arriving = path.with_name(f"{path.name}.arriving")
    try:
        with arriving.open("wb") as opened:
            for chunk in download(url):
                opened.write(chunk)
        found = _md5(arriving)
        if found != archive.md5:
            raise UserError(
                f"{url}: the file is damaged or another one (MD5 {found}, published {archive.md5}); it was deleted"
            )
        arriving.rename(path)
    finally:
        arriving.unlink(missing_ok=True)
    return path


def download(url: str) -> Iterator[bytes]:
    """What a server sends, piece by piece.

    Raises:
        UserError: it sends nothing, or not all of it.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            length, arrived = int(answer.headers.get("Content-Length") or 0), 0
            with tqdm(total=length or None, unit="B", unit_scale=True, disable=None, leave=False) as bar:
                while chunk := _piece(url, answer):
                    yield chunk
                    arrived += len(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        error.close()
        raise UserError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, error) from error
    if length and arrived != length:
        raise UserError(f"{url}: the connection broke off after {arrived} of {length} bytes; try again")


def _piece(url: str, answer: http.client.HTTPResponse) -> bytes:
    """The next piece; an error here is the network's, whereas the caller's are the disk's."""
    try:
        return answer.read(CHUNK)
    except OSError as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> UserError:
    reason = getattr(error, "reason", None) or error
    return UserError(f"{url}: cannot be fetched ({reason}); dataset.mirror=ADDRESS names another source")


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar, zip or gz file into `folder`.

    Raises:
        UserError: it is hostile or damaged. What was unpacked until then stays, so `folder` must not be final.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if archive.name.endswith(".zip"):
            _extract_zip(archive, folder)
        elif archive.name.endswith(".gz") and not archive.name.endswith(".tar.gz"):
            with gzip.open(archive) as content:
                _write(content, folder / archive.name.removesuffix(".gz"))
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter=lambda member, into: _checked(archive, member, into))
    except (*BROKEN, *MALFORMED) as error:
        if isinstance(error, OSError) and (error.errno in DISK or error.filename):
            raise
        raise UserError(f"{archive.name}: damaged ({error})") from error


def _checked(archive: Path, member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """A tar's entry as it is unpacked.

    `tarfile.data_filter` takes away owners and permissions and refuses devices and paths that lead out of the folder.
    It lets links within the folder pass, and unpacks absolute paths as relative ones: here both are refused.
    """
    if not (member.isreg() or member.isdir()):
        raise _hostile(archive, member.name, "is neither a file nor a folder")
    inside = _path_inside(archive, member.name)
    return tarfile.data_filter(member.replace(name=str(inside), deep=False), folder)


def _extract_zip(archive: Path, folder: Path) -> None:
    """Unpack entry by entry: zipfile has no filters, and quietly repairs hostile paths instead of refusing them."""
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _hostile(archive, entry.filename, "is neither a file nor a folder")
            place = folder / _path_inside(archive, entry.filename)
            if entry.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            else:
                with packed.open(entry) as content:
                    _write(content, place)


def _path_inside(archive: Path, name: str) -> PurePosixPath:
    """Where an entry goes, relative to the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0] or "\0" in name:
        raise _hostile(archive, name, "leads out of the folder")
    return path


def _write(content: IO[bytes] | gzip.GzipFile, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as opened:
        shutil.copyfileobj(content, opened, CHUNK)


def _hostile(archive: Path, name: str, what: str) -> UserError:
    return UserError(f"{archive.name}: refused, because the entry {name!r} {what}")


def _md5(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
