"""A published set: fetched if that is asked for, then read from its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from camtrain.config.schema import PublishedConfig
from camtrain.data import download
from camtrain.data.download import Archive
from camtrain.data.images import Split
from camtrain.errors import UserError, first_line


@dataclass(frozen=True)
class Published:
    """The source of a published set.

    Args:
        read: from the set's folder to its training and validation split.
        archives: what is fetched into that folder; none where it has to be fetched by hand.
    """

    read: Callable[[Path], tuple[Split, Split]]
    archives: tuple[Archive, ...] = ()

    def splits(self, config: PublishedConfig, _seed: int = 0, /) -> tuple[Split, Split]:
        """Training and validation split.

        Raises:
            UserError: the set is not there, is not whole, or cannot be fetched.
        """
        name, root = config.name.value, Path(config.root).expanduser()
        if config.download:
            if not self.archives:
                raise UserError(f"dataset={name} has to be fetched by hand: its publisher asks for an account")
            download.provide(root, self.archives, config.mirror)
        try:
            return self.read(root)
        except (RuntimeError, OSError, KeyError) as error:
            # torchvision goes on to recommend an argument of its own.
            reason = first_line(error).partition(" You can use download=")[0]
            remedy = "; dataset.download=true fetches it into a folder that is empty or not there yet"
            raise UserError(
                f"dataset.root={config.root}: {name} is not there ({reason}){remedy if self.archives else ''}"
            ) from error

    def validation(self, config: PublishedConfig, seed: int = 0, /) -> Split:
        """The second of both splits."""
        return self.splits(config, seed)[1]
