"""SECURITY.md: the settings it names are there, and the defaults are those."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bridge.config.schema import walk
from bridge.config.section import fields
from bridge.config.settings import Settings
from bridge.config.show import toml_default

TEXT = (Path(__file__).parents[2] / "SECURITY.md").read_text()
TABLES = set(Settings.model_fields)
KEYS = {
    f"{'.'.join(table)}.{key}": toml_default(key, field)
    for table, section, _ in walk()
    for key, field in fields(section).items()
}
LIMITS = re.findall(r"^\| `([a-z_.]+)` \| (\S+) \|", TEXT, re.MULTILINE)


def test_every_setting_it_names_is_one() -> None:
    named = {
        name for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?: =[^`]*)?`", TEXT) if name.split(".")[0] in TABLES
    }

    assert len(named) > 40
    assert named - KEYS.keys() == set()


@pytest.mark.parametrize(("name", "default"), LIMITS)
def test_the_default_of_a_limit_is_the_one_it_says(name: str, default: str) -> None:
    assert KEYS[name].replace("_", "") == default


def test_every_limit_of_a_session_is_told() -> None:
    limits = {name for name in KEYS if name.startswith("smtp.max_")}

    assert limits - {name for name, _ in LIMITS} == set()
