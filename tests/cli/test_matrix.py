"""docs/providers.md says what the adapters and their settings do."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from bridge.cli.matrix import markdown, section_kind
from bridge.config.kinds import CATALOGUE
from bridge.config.section import fields
from bridge.providers.catalogue import KINDS, adapters

DOCS = Path(__file__).parents[2] / "docs" / "providers.md"
EXAMPLES = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
SECTIONS = {section_kind(section): section for section in CATALOGUE}


def test_the_page_is_what_the_adapters_say() -> None:
    assert DOCS.read_text() == markdown(), "run: python -m bridge.cli.matrix > docs/providers.md"


def test_every_kind_has_a_section_settings_and_an_adapter() -> None:
    assert set(SECTIONS) == {*KINDS, "smtp"}
    assert [cls.kind for cls in adapters()] == list(KINDS)
    for kind in SECTIONS:
        assert f"\n## {kind}\n" in DOCS.read_text()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: re.findall('kind = "(.*)"', text)[0])
def test_every_example_holds_keys_its_kind_has(example: str) -> None:
    (provider,) = tomllib.loads(re.sub(r"(?m)^#", "", example))["provider"]
    section = SECTIONS[provider["kind"]]

    assert {key.removesuffix("_file") if key not in fields(section) else key for key in provider} <= set(
        fields(section)
    )
    required = set(getattr(section, "needs", ()))
    plain = tomllib.loads(example)["provider"][0]
    assert required <= {key.removesuffix("_file") for key in plain} | set(plain)
