"""task=layers: the layers of a network, and the route by which each has its map."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import Command


def test_layers_are_listed_and_nothing_is_written(run_command: Command, tmp_path: Path) -> None:
    done = run_command("task=layers", "model=resnet18", "dataset.image_size=64")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^-> +layer4 +512 +4 x 4 +16 +\d+ +-7.5 +closed form +closed form$", done.stdout, re.MULTILINE)
    assert re.search(
        r"^ +layer3\.0\.bn1 +256 +8 x 8 +8 +\d+ +-3.5 +model\.batch_norm=frozen only +autograd$",
        done.stdout,
        re.MULTILINE,
    )
    assert not list(tmp_path.iterdir())
