"""Three processes compute what one does: the checks of `three_ranks.py`, which runs in all of them."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT


def test_three_processes_compute_what_one_does() -> None:
    script = ROOT / "tests" / "distributed" / "three_ranks.py"
    path = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "tests"))
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["sums", "batch_norm", "random_numbers", "evaluation"]
