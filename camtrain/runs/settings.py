"""The settings by which experiments are told apart: every key but those that change no figure."""

from __future__ import annotations

from collections.abc import Mapping

from camtrain.config import schema
from camtrain.config.schema import Config, keys

NO_SETTINGS = (
    *("seed", "run", "runs", "images", "class_name"),
    *("trainer.device", "trainer.threads", "trainer.workers", "dataset.cache", "dataset.download"),
    *("evaluate.images", "evaluate.image_epochs"),
)
"""Keys in which runs may differ and still be the same experiment."""


def settings(config: Config) -> dict[str, str | float | bool]:
    """Every key that makes another experiment, with its value."""
    found: dict[str, str | float | bool] = {}
    for key, value, _ in keys(config):
        if key not in NO_SETTINGS and not key.startswith("report."):
            found |= leaves(key, value)
    return found


def leaves(key: str, value: object) -> dict[str, str | float | bool]:
    """The values below a key, each under its own; an empty mapping, as that of an arm without differences, is one."""
    if isinstance(value, list):
        return {key: f"[{','.join(str(schema.plain(part)) for part in value)}]"}
    if not isinstance(value, Mapping):
        return {key: schema.plain(value)}
    below = (leaves(f"{key}.{name}", part) for name, part in value.items())
    return {name: leaf for part in below for name, leaf in part.items()} or {key: "the default"}
