"""The settings by which experiments are told apart: every key but those that change no figure."""

from __future__ import annotations

from camtrain.config.schema import Config, keys, plain

NO_SETTINGS = (
    *("seed", "run", "runs", "images", "class_name"),
    *("trainer.device", "trainer.threads", "trainer.workers", "dataset.cache", "dataset.download"),
    *("evaluate.images", "evaluate.image_epochs"),
)
"""Keys in which runs may differ and still be the same experiment."""


def settings(config: Config) -> dict[str, str | float | bool]:
    """Every key that makes another experiment, with its value."""
    return {
        key: f"[{','.join(str(plain(part)) for part in value)}]" if isinstance(value, list) else plain(value)
        for key, value, _ in keys(config)
        if key not in NO_SETTINGS and not key.startswith("report.")
    }
