"""The commit that `camtrain --version` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from camtrain.cli import checked_out_commit

DIGITS = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("where", ["detached", "branch", "packed", "worktree"])
def test_the_commit_of_a_checkout(tmp_path: Path, where: str) -> None:
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text(f"{DIGITS}\n" if where == "detached" else "ref: refs/heads/mine\n")
    if where == "packed":
        (git / "packed-refs").write_text(
            f"# pack-refs with: peeled\n{DIGITS[::-1]} refs/heads/my\n{DIGITS} refs/heads/mine\n"
        )
    else:
        (git / "refs" / "heads" / "mine").write_text(f"{DIGITS}\n")
    folder = tmp_path
    if where == "worktree":
        (git / "worktrees" / "other").mkdir(parents=True)
        (git / "worktrees" / "other" / "HEAD").write_text("ref: refs/heads/mine\n")
        (git / "worktrees" / "other" / "commondir").write_text("../..\n")
        folder = tmp_path / "other"
        folder.mkdir()
        (folder / ".git").write_text(f"gitdir: {git / 'worktrees' / 'other'}\n")
    assert checked_out_commit(folder) == DIGITS[:7]


def test_no_checkout(tmp_path: Path) -> None:
    assert checked_out_commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/without_a_commit\n")
    assert checked_out_commit(tmp_path) is None
