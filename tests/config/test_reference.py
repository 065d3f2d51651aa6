"""The reference of all settings: every field has its documentation, and docs/settings.md is current."""

from __future__ import annotations

import dataclasses
import inspect
import typing

import pytest
from conftest import ROOT

from camtrain.config.reference import accepted_values, reference
from camtrain.config.schema import DATASETS, Config

SECTIONS = [node for node in typing.get_type_hints(Config).values() if dataclasses.is_dataclass(node)]


@pytest.mark.parametrize("node", [Config, *SECTIONS, *dict.fromkeys(DATASETS.values())])
def test_every_setting_is_documented(node: type) -> None:
    assert not str(inspect.getdoc(node)).startswith(f"{node.__name__}(")  # which dataclasses write themselves
    kinds = typing.get_type_hints(node)
    for entry in dataclasses.fields(node):
        if dataclasses.is_dataclass(kinds[entry.name]):
            continue
        assert entry.metadata["doc"].strip(), entry.name
        assert accepted_values(node, entry.name), entry.name


def test_the_document_is_current() -> None:
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m camtrain.config.reference > docs/settings.md"
