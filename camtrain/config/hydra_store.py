"""Between Hydra and the dataclasses: registers the schema, and turns composed and stored trees into a :class:`Config`.

Beside the command line, its arguments and its error messages the only module that knows Hydra and OmegaConf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from camtrain.arms import spread
from camtrain.config.given import Given
from camtrain.config.messages import message
from camtrain.config.options import AUTO, CamConfig, DatasetName, check_enough
from camtrain.config.schema import DATASETS, RENAMED, Config
from camtrain.config.validate import check, check_arms, check_fork, check_trainable, check_values, check_views, views_of
from camtrain.errors import UserError
from camtrain.files import absolute

PATHS = (
    *("dataset.root", "dataset.cache", "model.weights", "run", "runs", "trainer.baselines"),
    *("reference.network", "reference.classes", "treatment.network", "treatment.classes"),
    *("export.output", "export.runtime"),
)
"""Keys that may hold a path which is needed again after the command."""


def register() -> None:
    """Make the schema known to Hydra. A group of its own keeps it out of the choices that a user sees."""
    schema = OmegaConf.structured(Config)
    options = (node.options for node in (schema.model, schema.reference, schema.treatment))
    for mapping in (*schema.arms.values(), schema.arms_by, *options):
        OmegaConf.set_struct(mapping, False)  # further keys need no + in front
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=schema, package="_global_")
    for name, kind in DATASETS.items():
        node = OmegaConf.structured(kind)
        if "options" in node:
            OmegaConf.set_struct(node.options, False)
        store.store(group="schema/dataset", name=name.value, node=node, package="dataset")


def prefer(conf: Path) -> None:
    """Let our launchers and sweepers stand where Hydra's own plugins are installed, too: those store others under the
    same names, by whose keys Hydra would check ours.

    Args:
        conf: folder of our configuration files.
    """
    Plugins.instance()  # loads them
    stored = ConfigStore.instance().repo.get("hydra", {})
    for path in conf.glob("hydra/*/*.yaml"):
        stored.get(path.parent.name, {}).pop(path.name, None)


def typed(cfg: DictConfig) -> Config:
    """The composed configuration as checked dataclasses, whose paths mean the same from any folder.

    Raises:
        UserError: a key that does not exist, a value that is missing or out of its range, or arms that cannot be.
    """
    for key in unknown_keys(cfg):
        raise UserError(f"{key}: no such key; a + in front of it does not create one")
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{key} is not set: give it as {key}=VALUE")
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:  # what an interpolation stands for is seen only now
        raise UserError(message(error)) from error
    assert isinstance(config, Config)
    check_arms(config.arms)
    config.arms, config.arms_by = spread(config.arms, config.arms_by), {}
    check(config)
    config.cam.views = views_of(config)
    cam_of_arms(config)
    make_absolute(config)
    return config


def make_absolute(config: Config, keys: Sequence[str] = PATHS) -> None:
    """Replace paths that start from the present or a home folder; `model.weights` may be a name, which stays."""
    for key in keys:
        section, _, name = key.rpartition(".")
        holder = getattr(config, section) if section else config
        value = getattr(holder, name, None)
        if isinstance(value, list):
            setattr(holder, name, [_absolute(key, str(path)) for path in value])
        elif isinstance(value, str):
            setattr(holder, name, _absolute(key, value))


def _absolute(key: str, path: str) -> str:
    if key.endswith(".network"):
        return Given.of(path).absolute()
    named = key == "model.weights" and not path.startswith("~") and not Path(path).is_file()
    named |= key in ("dataset.cache", "trainer.baselines") and path == AUTO
    return path if named or "://" in path else absolute(path)


def unknown_keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys that the schema does not have: Hydra adds them where an override begins with +."""
    node: Any = OmegaConf.get_type(cfg)
    if not dataclasses.is_dataclass(node):
        return
    known = {entry.name for entry in dataclasses.fields(node)}
    for name in map(str, cfg):
        if name not in known:
            yield f"{prefix}{name}"
        elif not OmegaConf.is_missing(cfg, name) and isinstance(cfg[name], DictConfig):
            yield from unknown_keys(cfg[name], f"{prefix}{name}.")


def cam_of_arms(config: Config) -> dict[str, CamConfig]:
    """The settings `cam.*` of each arm: those at the top of the configuration, with the arm's differences.

    Args:
        config: its arms are mappings that differ in `cam` only, see :func:`camtrain.config.validate.check_arms`.

    Returns:
        By the arm's name, in the order of `arms`; the first one is the reference.

    Raises:
        UserError: a difference is in no key of `cam`, or its value does not fit.
    """
    found = {}
    for name, difference in config.arms.items():
        # Under their whole key, so that errors name it.
        tree = OmegaConf.create({"arms": {name: {"cam": OmegaConf.structured(config.cam)}}})
        try:
            tree.merge_with({"arms": {name: difference}})
            cam = OmegaConf.to_object(tree.arms[name].cam)
        except OmegaConfBaseException as error:
            raise UserError(message(error)) from error
        assert isinstance(cam, CamConfig)
        check_values(cam, f"arms.{name}.cam.")
        check_trainable(cam, f"arms.{name}.cam.")
        check_views(cam, config, f"arms.{name}.cam.")
        check_enough(cam, f"arms.{name}.cam.")
        found[name] = cam
    check_fork(found, config.trainer)
    return found


def from_tree(tree: Mapping[str, Any]) -> Config:
    """The configuration of a finished run, from what `result.json` holds.

    Keys that came later have their defaults, and former names are read as today's. Ranges are not checked: its data set
    may be gone by now, and need not be there.

    Raises:
        LookupError, TypeError, ValueError: not a configuration.
    """
    if any("${" in text for text in _texts(tree)):
        raise ValueError("an interpolation, which could read anything; a finished run has values")
    sections = {key: dict(value) if isinstance(value, Mapping) else value for key, value in dict(tree).items()}
    for former, key in RENAMED.items():
        section, _, name = former.rpartition(".")
        if name in sections.get(section, {}):
            sections[section][key.rpartition(".")[2]] = sections[section].pop(name)
    if "views" not in sections["cam"]:  # a former version, like the next one
        sections["cam"] |= {"views": "none", "consistency": 0.0}
    if "registered" not in sections["evaluate"]:
        sections["evaluate"]["registered"] = False
        if sections["model"]["name"] == "small_resnet":
            sections["model"]["options"] = {"tiles": False, **sections["model"].get("options", {})}
    schema = OmegaConf.structured(Config(dataset=DATASETS[DatasetName[sections["dataset"]["name"]]]()))
    if "arms" in sections:
        schema.arms = {}  # a default arm that was removed does not come back
    try:
        config = OmegaConf.to_object(OmegaConf.merge(schema, sections))
    except OmegaConfBaseException as error:
        raise ValueError(message(error)) from error
    assert isinstance(config, Config)
    return config


def _texts(tree: Any) -> Iterator[str]:
    """Every text of a tree, keys included."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for key, part in tree.items():
            yield from _texts(key)
            yield from _texts(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _texts(part)


def to_tree(config: Config) -> dict[str, Any]:
    """The configuration as plain values, for `result.json`; :func:`from_tree` reads it."""
    tree: Any = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    return dict(tree)


def to_yaml(config: Config) -> str:
    """The configuration as a person reads it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
