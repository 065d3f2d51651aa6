"""A configuration as the plain values of `result.json`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from camtrain.arms import BASELINE
from camtrain.config.options import DatasetName
from camtrain.config.schema import DATASETS, CamConfig, Config


def from_tree(tree: Mapping[str, Any]) -> Config:
    sections = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    sections["evaluate"] = {key.replace("picture", "image"): value for key, value in sections["evaluate"].items()}
    schema = OmegaConf.structured(Config(dataset=DATASETS[DatasetName[sections["dataset"]["name"]]]()))
    config = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(sections)))
    assert isinstance(config, Config)
    return config


def to_tree(config: Config) -> dict[str, Any]:
    tree: Any = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    return dict(tree)


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def cam_of_arms(config: Config) -> dict[str, CamConfig]:
    return {BASELINE: replace(config.cam, weight=0), "regularised": config.cam}
