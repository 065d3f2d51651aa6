"""A page that runs an exported network in a browser, as a folder of static files."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from camtrain.errors import MALFORMED, UserError, first_line

PACKAGE = "onnxruntime-web"

RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Of the package's folder `dist`, what a page needs to compute on the CPU."""

PAGE = Path(__file__).with_name("page.html")


def runtime_files(package: str | None) -> dict[str, bytes]:
    """The runtime's files by name.

    Args:
        package: the file that `npm pack onnxruntime-web` leaves; None: it is fetched by npm.

    Raises:
        UserError: it is not there, or is something else.
    """
    if package is not None:
        return _unpacked(Path(package), f"export.runtime={package}")
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"export.format=web: npm is not installed, which fetches {PACKAGE}; install it, or give"
            f" export.runtime=FILE, which npm pack {PACKAGE} leaves on another machine"
        )
    with TemporaryDirectory() as folder:
        done = subprocess.run([npm, "pack", PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
        found = [*Path(folder).glob("*.tgz")]
        if done.returncode or not found:
            reason = first_line(RuntimeError(done.stderr))
            raise UserError(f"export.format=web: npm pack {PACKAGE} failed ({reason}); give export.runtime=FILE")
        return _unpacked(found[0], f"npm pack {PACKAGE}")


def _unpacked(package: Path, where: str) -> dict[str, bytes]:
    """Its files; nothing of it is written anywhere, whatever it holds."""
    try:
        with tarfile.open(package) as opened:
            found = {name: opened.extractfile(f"package/dist/{name}") for name in RUNTIME}
            return {name: part.read() for name, part in found.items() if part is not None}
    except (OSError, tarfile.TarError, EOFError, *MALFORMED) as error:
        raise UserError(
            f"{where}: not the package {PACKAGE} ({type(error).__name__}: {first_line(error)}); npm pack {PACKAGE}"
            " leaves it as a .tgz file"
        ) from error


def page_files(metadata: Mapping[str, Any], runtime: Mapping[str, bytes]) -> dict[str, bytes]:
    """What stands beside `network.onnx`: the page last, without which there is none."""
    facts = json.dumps(metadata, indent=1, ensure_ascii=False) + "\n"
    return {**runtime, "facts.json": facts.encode(), "index.html": PAGE.read_bytes()}
