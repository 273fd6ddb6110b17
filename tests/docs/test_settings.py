"""Every settings block of a page is taken by the real settings, and every JSON and YAML block is what it says it is.

A fragment is completed: a provider, and those that its routes name. A file that it names is put in place.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import yaml

from bridge.config.load import SettingsError, load_settings
from bridge.config.section import Section, fields, has_marker, sections_in
from bridge.config.settings import Settings
from bridge.config.types import SecretMarker
from tests.conftest import _certificate
from tests.docs.blocks import ROOT, SHELL, Block, all_blocks, pages

KEY_HASH = "sha256$" + "0" * 64


def completed(tree: dict[str, Any]) -> dict[str, Any]:
    """With a provider, those and the users that routes name, and a user where somebody must log in."""
    found = dict(tree)
    providers = found.get("provider", [])
    if isinstance(providers, dict):  # [[provider.outcome]] or [provider.body] alone
        providers = [{"kind": "rest", "url": "https://mail.example.com/send-email", **providers}]
    names = {one.get("name") or one.get("kind") for one in providers}
    routes = found.get("route", [])
    for route in routes if isinstance(routes, list) else [routes]:
        missing = dict.fromkeys(name for name in route.get("providers", ()) if name not in names)
        providers = [*providers, *({"kind": "capture", "name": name} for name in missing)]
        names |= set(missing)
        users = found.get("user", [])
        users = users if isinstance(users, list) else [users]
        if route.get("user") and route["user"] not in {user["name"] for user in users}:
            found["user"] = [*users, {"name": route["user"], "password": "secret"}]
    listeners = found.get("smtp", {}).get("listener", [])
    listeners = listeners if isinstance(listeners, list) else [listeners]
    if any(one.get("require_auth") for one in listeners) and not found.get("user"):
        found["user"] = [{"name": "ann", "password": "secret"}]
    found["provider"] = providers or [{"kind": "capture"}]
    return found


def placed(value: Any, directory: Path, key: str = "") -> Any:
    """The same with every named file in `directory`, and with real hashes for `...`."""
    if isinstance(value, dict):
        return {name: placed(one, directory, name) for name, one in value.items()}
    if isinstance(value, list):
        return [placed(one, directory, key) for one in value]
    if key == "key_hash" and "..." in value:
        return KEY_HASH
    if key == "password_hash" and "..." in value:
        return argon2()
    if key.endswith("_file") and value:
        return str(_file(directory / Path(value).name, key))
    return value


@cache
def argon2() -> str:
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("secret")


def _file(path: Path, key: str) -> Path:
    certificate, private = _certificate()
    if key in ("cert_file", "client_ca_file", "ca_file"):
        content = certificate + (private if key == "cert_file" else b"")
    elif key == "key_file":
        content = private
    elif key == "password_hash_file":
        content = argon2().encode()
    else:
        content = b"c2VjcmV0LXNlY3JldA=="
    path.write_bytes(content)
    return path


def check(text: str, directory: Path) -> None:
    """Raises SettingsError."""
    tree = placed(completed(tomllib.loads(text)), directory)
    config = directory / "config.toml"
    config.write_bytes(tomli_w.dumps(tree).encode())
    load_settings(str(config), environ={"HOME": str(directory)}, cwd=directory)


def written(block: Block) -> list[Block]:
    """The settings that a command of the block writes: `cat > config.toml <<'X'`, `tee config.toml <<'X'`."""
    found = re.findall(r"(?ms)(?:>|tee) *\S+\.toml <<'?(\w+)'?\n(.*?)^\1$", block.text)
    return [Block(block.page, block.line, "toml", text) for _, text in found]


WRITTEN = [one for block in all_blocks(*SHELL) for one in written(block)]


@pytest.mark.parametrize("block", [*all_blocks("toml"), *WRITTEN], ids=lambda block: block.place)
def test_the_settings_take_it(block: Block, tmp_path: Path) -> None:
    try:
        check(block.text, tmp_path)
    except (SettingsError, tomllib.TOMLDecodeError) as error:
        pytest.fail(f"{block.place}: {error}\n(a block that is no settings of ours gets another language than toml)")


def test_settings_that_a_command_writes_are_found() -> None:
    block = Block("x.md", 1, "sh", "cat > /etc/config.toml <<'X'\n[smtp]\nX\nsudo tee a.toml <<Y\n[relay]\nY\n")

    assert [one.text for one in written(block)] == ["[smtp]\n", "[relay]\n"]
    assert len(WRITTEN) >= 2


def test_a_mistake_in_a_block_would_be_found(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="allowed_networks"):
        check('[[smtp.listener]]\nallowed_network = ["10.0.0.0/8"]\n', tmp_path)


def keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """`smtp.listener.address` and, as people say it, `listener.address`."""
    for key, field in fields(section).items():
        yield f"{prefix}{key}"
        if has_marker(field, SecretMarker):
            yield f"{prefix}{key}_file"
        for inner in sections_in(field)[0]:
            yield from keys(inner, f"{prefix}{key}.")


KEYS = set(keys(Settings))
TOP = {key for key in KEYS if "." not in key}


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_setting_named_in_a_sentence_exists(page: Path) -> None:
    """Events of the log and spans of a trace look alike: those stand in the code as they are."""
    named = set(re.findall(r"(?<!`)`([a-z]+(?:\.[a-z_]+)+)(?: = [^`]*)?`(?!`)", page.read_text()))

    unknown = {name for name in named if name.partition(".")[0] in TOP} - KEYS
    assert {name for name in unknown if f'"{name}"' not in _code()} == set()


def test_a_setting_that_is_none_would_be_found() -> None:
    assert {"retry.expire", "provider.api_key_file", "smtp.listener.address"} <= KEYS
    assert "smtp.lifetime" not in KEYS


@cache
def _code() -> str:
    return "".join(path.read_text() for path in (ROOT / "bridge").rglob("*.py"))


@pytest.mark.parametrize("block", all_blocks("json"), ids=lambda block: block.place)
def test_json_can_be_read(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", all_blocks("yaml", "yml"), ids=lambda block: block.place)
def test_yaml_can_be_read(block: Block) -> None:
    assert list(yaml.safe_load_all(re.sub(r"\{\{.*?\}\}", "x", block.text)))


@pytest.mark.parametrize("block", all_blocks("python"), ids=lambda block: block.place)
def test_python_can_be_compiled(block: Block) -> None:
    compile(block.text, block.place, "exec")
