"""docs/providers/: a page for each kind, made from its adapter; its least configuration loads and builds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bridge.cli.provider_pages import CREDENTIALS, SECTIONS, pages
from bridge.config.load import load_settings
from bridge.config.section import fields
from bridge.providers.base import Policy
from bridge.providers.catalogue import KINDS, adapter, build
from bridge.providers.events import HOOKS

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "docs" / "providers"


def test_the_pages_are_what_the_code_says_and_there_is_no_other() -> None:
    kept = {path.name: path.read_text() for path in DIRECTORY.iterdir()}

    assert kept == pages(), "run: python -m bridge.cli.provider_pages docs/providers"


def test_every_kind_has_a_page_that_says_where_its_credentials_come_from() -> None:
    assert set(SECTIONS) == set(CREDENTIALS) == {*KINDS, "smtp", "rest", "capture"}


def _service_account() -> str:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    found = {"client_email": "a@b.example", "private_key": pem, "private_key_id": "1", "type": "service_account"}
    return json.dumps(found)


@pytest.mark.parametrize("kind", SECTIONS)
async def test_the_least_configuration_loads_and_its_provider_is_built(kind: str, tmp_path: Path) -> None:
    (found,) = re.findall(r"```toml\n(.*?)```", (DIRECTORY / f"{kind}.md").read_text(), re.DOTALL)
    for name in re.findall(r'_file = "(.*)"', found):
        file = tmp_path / name  # beside the settings file, where the page says it is
        file.parent.mkdir(exist_ok=True)
        file.write_text(_service_account() if name.endswith(".json") else "c2VjcmV0LXNlY3JldA==")
    (tmp_path / "config.toml").write_text(found)

    settings = load_settings(environ={"HOME": str(tmp_path)}, cwd=tmp_path)

    (provider,) = settings.provider
    assert provider.kind == provider.name == kind
    if kind in KINDS:
        built = build(kind, kind, Policy(), provider)
        assert built.name == kind
        await built.aclose()


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_setting_and_every_error_code_stands_on_the_page(kind: str) -> None:
    text = (DIRECTORY / f"{kind}.md").read_text()

    assert [key for key in fields(SECTIONS[kind]) if f"`{key}`" not in text and key not in ("region", "outcome")] == []
    codes = adapter(kind).codes if kind in KINDS else {}
    assert [code for code in codes if f"`{code}`" not in text] == []
    assert (f"/webhooks/{kind}`" in text) == (kind in HOOKS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_adapter_calls_unverified_is_not_told_as_a_fact(kind: str) -> None:
    """Its comments say so, and then its page does."""
    source = (ROOT / "bridge" / "providers" / f"{kind}.py").read_text()
    text = (DIRECTORY / f"{kind}.md").read_text()

    doubted = re.search(r"#.*(unverified|from memory|nothing is documented)", source) is not None
    assert doubted == bool(adapter(kind).unverified)
    assert all(fact in text for fact in adapter(kind).unverified)
