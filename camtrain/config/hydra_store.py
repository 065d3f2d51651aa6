"""The only module that knows Hydra and OmegaConf: registers the schema and turns a composed tree into dataclasses."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from camtrain.config.schema import DATASETS, Config


def register() -> None:
    """Make the schema known to Hydra. Its own group keeps it out of the choices that a user sees."""
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    for name, node in DATASETS.items():
        store.store(group="schema/dataset", name=name.value, node=node, package="dataset")
