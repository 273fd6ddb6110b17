"""The settings shown: resolved and masked, as the example file, as a JSON schema."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import orjson
import pytest
import tomli_w

from bridge.config.pending import PENDING
from bridge.config.schema import all_keys, keys_of, tables, walk
from bridge.config.show import example, json_schema, masked
from bridge.providers.template import PLACEHOLDERS
from tests.settings.conftest import CAPTURE, REST, Folder

ROOT = Path(__file__).parent.parent.parent
FULL = (
    REST
    + """
body = { to = "{to}", text = "{text}", fixed = "x", n = 1, on = true, list = [1.5, "{html}"] }
headers = { X-A = "y" }
[[provider.outcome]]
status = [422, 423]
error = "/error"
equals = 5
reply = "550 5.1.1 No such recipient"
fault = "recipient"
[[smtp.listener]]
address = "[::1]:0"
allowed_networks = ["10.0.0.0/8"]
[[user]]
name = "ann"
password = "x"
"""
)


@pytest.mark.parametrize("text", [CAPTURE, REST, FULL])
def test_what_is_shown_is_toml_and_json(folder: Folder, text: str) -> None:
    shown = masked(folder.load(text))

    assert tomllib.loads(tomli_w.dumps(shown)) == shown
    assert orjson.loads(orjson.dumps(shown)) == shown


def test_a_null_in_a_body_can_be_shown(folder: Folder) -> None:
    settings = folder.load(REST, PROVIDER__BODY='{"to": "{to}", "text": "{text}", "none": null, "in": [null]}')

    assert "null" in tomli_w.dumps(masked(settings))
    assert getattr(settings.provider[0], "body")["none"] is None  # noqa: B009


def test_what_is_shown_can_be_read_again(folder: Folder) -> None:
    first = folder.load(REST)
    again = masked(first)
    for provider in again["provider"]:
        del provider["body"]  # beside `shape` it would be one too many

    second = folder.load(tomli_w.dumps(again))
    assert masked(second) == masked(first)


def test_what_is_shown_is_in_units(folder: Folder) -> None:
    shown = masked(folder.load(FULL))

    assert (shown["smtp"]["timeout"], shown["smtp"]["max_message_size"], shown["retry"]["first"]) == (
        "5m",
        "25MiB",
        "1s",
    )
    assert shown["relay"]["from"] == ""
    assert shown["smtp"]["listener"][0]["address"] == "[::1]:0"
    assert shown["provider"][0]["outcome"][0] == {
        "status": [422, 423],
        "error": "/error",
        "equals": "5",
        "contains": "",
        "reply": "550 5.1.1 No such recipient",
        "fault": "recipient",
    }
    assert shown["provider"][0]["body"] == {
        "to": "{to}",
        "text": "{text}",
        "fixed": "********",
        "n": 1,
        "on": True,
        "list": [1.5, "{html}"],
    }


# --- the example file


def uncommented(text: str) -> dict[str, Any]:
    """The lines with one mark, as TOML."""
    lines = [line[1:] for line in text.splitlines() if re.match(r"#[a-z\[]", line)]
    return tomllib.loads("\n".join(lines))


def keys_in(tree: Any, names: tuple[str, ...] = ()) -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        path = (*names, key)
        found.add(".".join(path))
        for inner in value if isinstance(value, list) else [value]:
            if path in tables() and isinstance(inner, dict):
                found |= keys_in(inner, path)
    return found


def test_the_example_file_is_the_one_that_is_made() -> None:
    assert (ROOT / "config.example.toml").read_text() == example(), "make it again: see bridge.config.show.example"


def test_the_example_file_has_every_key_and_no_other() -> None:
    written = keys_in(uncommented(example()))
    alternatives = {key for key in all_keys() if key.endswith("_file") and key.removesuffix("_file") in all_keys()}

    assert written == all_keys() - alternatives
    assert {key for key in alternatives if f"(or {key.rpartition('.')[2]})" not in " ".join(example().split())} == set()


def test_the_example_file_is_all_comments() -> None:
    assert tomllib.loads(example()) == {}
    assert max(len(line) for line in example().splitlines()) <= 122


@pytest.mark.parametrize("table", sorted({names[0] for names in tables()} - {"provider", "user", "route", "http"}))
def test_a_table_of_the_example_uncommented_is_the_default(folder: Folder, table: str) -> None:
    shown = uncommented(example())[table]
    shown.pop("rewrite", None)  # no default
    default = folder.load(CAPTURE)

    settings = folder.load(tomli_w.dumps({table: shown}) + CAPTURE)
    assert getattr(settings, table) == getattr(default, table)


def test_a_provider_of_the_example_uncommented_is_the_default(folder: Folder) -> None:
    shown = uncommented(example())["provider"][0]
    (outcome,) = shown.pop("outcome")
    del shown["body"]  # instead of `shape`
    default = folder.load(f"[[provider]]\nkind = 'rest'\nurl = '{shown['url']}'\n")

    assert folder.load(tomli_w.dumps({"provider": [shown]})) == default
    outcome |= {"status": 422}
    assert folder.load(tomli_w.dumps({"provider": [shown | {"outcome": outcome}]})).provider[0] != default.provider[0]


def test_a_user_of_the_example_needs_only_a_password(folder: Folder) -> None:
    (shown,) = uncommented(example())["user"]
    shown["password"] = "x"

    (user,) = folder.load(tomli_w.dumps({"user": shown}) + CAPTURE).user
    assert (user.name, user.senders) == ("printer", ("*",))


def test_the_least_that_sends_mail_does(folder: Folder) -> None:
    lines = [line[4:] for line in example().splitlines() if line.startswith("#   ")]
    folder.write("secrets/token", "t")

    assert folder.load("\n".join(lines)).provider[0].kind == "rest"


def test_the_example_says_what_is_not_available_yet() -> None:
    text = " ".join(example().replace("##", "").split())

    assert text.count("Not available yet.") == len(PENDING) - 2  # provider.auth and spool.url are in part


def test_the_example_names_every_placeholder_of_a_body(folder: Folder) -> None:
    described = json_schema()["$defs"]["RestProvider"]["properties"]["body"]["description"]
    block = [line[4:] for line in described.splitlines() if line.startswith("    ")]

    assert {name for name in PLACEHOLDERS if f"{{{name}}}" not in described} == set()
    assert {name for name in re.findall(r"\{([a-z_]+)\}", described) if name not in PLACEHOLDERS} == set()
    assert folder.problems(REST + "\n".join(block)) == []


# --- the schema


def definitions() -> dict[str, dict[str, Any]]:
    schema = json_schema()
    return {"Settings": schema, **schema["$defs"]}


def objects() -> dict[str, dict[str, Any]]:
    return {name: one for name, one in definitions().items() if one.get("type") == "object"}


def test_the_schema_knows_every_key_and_no_other() -> None:
    found = objects()

    assert set(found) == {"Settings", *(section.__name__ for _, section, _ in walk())}
    for _, section, _ in walk():
        assert set(found[section.__name__]["properties"]) == set(keys_of(section))
        assert found[section.__name__]["additionalProperties"] is False


def test_the_schema_describes_every_key() -> None:
    missing = {
        f"{name}.{key}"
        for name, one in objects().items()
        for key, value in one["properties"].items()
        if not value.get("description")
    }

    assert missing == set()


def test_the_schemas_references_lead_somewhere() -> None:
    text = orjson.dumps(json_schema()).decode()

    assert set(re.findall(r'"#/\$defs/(\w+)"', text)) == set(definitions()) - {"Settings"}


def test_the_schema_takes_one_table_where_there_may_be_many() -> None:
    for names, section, many in walk():
        if many and len(names) == 1 and names[0] != "provider":
            one, several = json_schema()["properties"][names[0]]["anyOf"]
            assert one == {"$ref": f"#/$defs/{section.__name__}"} == several["items"]


def test_the_schemas_defaults_are_written_as_in_the_file() -> None:
    smtp = json_schema()["$defs"]["Smtp"]["properties"]
    listener = json_schema()["$defs"]["Listener"]["properties"]

    assert (smtp["timeout"]["default"], smtp["max_message_size"]["default"]) == ("5m", "25MiB")
    assert listener["address"]["default"] == "127.0.0.1:2525"
    assert json_schema()["$defs"]["User"]["properties"]["rate"]["default"] == ""


@pytest.mark.parametrize("key", ["timeout", "max_message_size"])
def test_the_schemas_patterns_take_the_defaults(key: str) -> None:
    value = json_schema()["$defs"]["Smtp"]["properties"][key]

    assert re.search(value["pattern"], value["default"])
