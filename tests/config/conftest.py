"""A configuration from overrides, as the command composes it before a run."""

from __future__ import annotations

from collections.abc import Callable

import hydra
import pytest

from camtrain.cli import CONF
from camtrain.config.hydra_store import register, typed
from camtrain.config.schema import Config

Configured = Callable[..., Config]


@pytest.fixture(scope="session")
def configured() -> Configured:
    """Compose and check the configuration of these overrides, in this process."""
    register()

    def compose(*overrides: str) -> Config:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return typed(hydra.compose("config", overrides=list(overrides)))

    return compose
