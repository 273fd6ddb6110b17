"""The settings shown: resolved with secrets masked, as a JSON schema, and as the commented example file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from bridge.config.pending import PENDING
from bridge.config.schema import walk
from bridge.config.section import Section, fields, has_marker, sections_in
from bridge.config.settings import Settings
from bridge.config.types import SecretMarker

WIDTH = 118
_WHOLE_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}


def masked(settings: Settings) -> dict[str, Any]:
    """Everything the settings come to, as TOML or JSON can hold it; a secret that is set is `********`."""
    shown: dict[str, Any] = settings.model_dump(mode="json", by_alias=True)
    return shown


def json_schema() -> dict[str, Any]:
    """For editors: every key with its description and default."""
    schema = Settings.model_json_schema(by_alias=True)
    for section in {section for _, section, _ in walk()} | {Settings}:
        properties = (schema if section is Settings else schema["$defs"][section.__name__])["properties"]
        for key, field in fields(section).items():
            _widen(properties, key, field)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _widen(properties: dict[str, Any], key: str, field: FieldInfo) -> None:
    """What the loader makes of the file before it is checked: `x_file` for a secret `x`, one table where there may be many."""
    classes, many = sections_in(field)
    if not classes and "default" in properties[key]:
        properties[key]["default"] = _plain(field)
    if classes:
        properties[key].pop("default", None)  # the defaults of the keys in it say the same
    if classes and many:
        array = properties[key]
        taken = {name: array.pop(name) for name in ("description", "title") if name in array}
        properties[key] = {**taken, "anyOf": [array["items"], array]}
    if has_marker(field, SecretMarker):
        properties[f"{key}_file"] = {
            "type": "string",
            "default": "",
            "description": f"The file that holds `{key}`; a relative name is looked up in $CREDENTIALS_DIRECTORY, then beside "
            "this file.",
        }


def example() -> str:
    """`config.example.toml`: every key, commented out, with its default; keys without one show an example."""
    return "\n".join(_example_lines()) + "\n"


_HEAD = """\
# smtp-rest-bridge: every setting, commented out, with its default. A line that has no default shows an example.
#
# Looked for as --config FILE, $SMTP_BRIDGE_CONFIG, ./config.toml, /etc/smtp-bridge/config.toml. Each key may also be
# a variable: SMTP_BRIDGE_SMTP__HOSTNAME for smtp.hostname, SMTP_BRIDGE_PROVIDER__URL for the url of the one [[provider]].
# Every secret `x` may be given as `x_file`, the name of a file that holds it; a relative name is looked up in
# $CREDENTIALS_DIRECTORY, then beside this file. `smtp-bridge check` says what it all comes to.
# Durations are "500ms" "20s" "5m" "2h" "7d", sizes "25MiB" "10GB", lists may also be text separated by commas.
#
# The least that sends mail:
#
#   [[provider]]
#   kind = "rest"
#   url = "https://mail.example.com/send-email"
#   auth = "bearer"
#   token_file = "secrets/token"
"""


def _example_lines() -> Iterator[str]:
    yield _HEAD.rstrip("\n")
    for key, field in fields(Settings).items():
        classes, many = sections_in(field)
        yield from _table_lines(key, field, classes, many=many)


def _table_lines(name: str, field: FieldInfo, classes: tuple[type[Section], ...], *, many: bool) -> Iterator[str]:
    yield ""
    yield from _comment(field.description or "", pending=_is_pending(name))
    yield f"#[[{name}]]" if many else f"#[{name}]"
    section = max(classes, key=lambda one: len(fields(one)))  # of the kinds, the one with the most keys
    inner: list[tuple[str, FieldInfo, tuple[type[Section], ...], bool]] = []
    for key, each in fields(section).items():
        below, several = sections_in(each)
        if below:
            inner.append((f"{name}.{key}", each, below, several))
        else:
            yield from _key_lines(name, key, each)
    for one in inner:
        yield from _table_lines(one[0], one[1], one[2], many=one[3])
    yield from _other_kinds(name, section, classes)


def _other_kinds(name: str, main: type[Section], classes: tuple[type[Section], ...]) -> Iterator[str]:
    """The kinds of a table beside the one that was shown: what they must be given, and keys that no other had before them."""
    shown = {(key, field.description) for key, field in fields(main).items()}
    for section in classes:
        needed = set(getattr(section, "needs", ()))
        mine = {
            key: field
            for key, field in fields(section).items()
            if key != "kind" and (key in needed or (key, field.description) not in shown)
        }
        if section is main or not mine:
            continue
        shown |= {(key, field.description) for key, field in mine.items()}
        yield from ("", f"#[[{name}]]", f"#kind = {_toml(_kind_of(section))}")
        for key, field in mine.items():
            yield from _key_lines(name, key, field)


def _kind_of(section: type[Section]) -> str:
    return str(get_args(section.model_fields["kind"].annotation)[0])


def toml_default(key: str, field: FieldInfo) -> str:
    """What stands for a key in an example: its default, or an example of a value."""
    return _toml(_shown_value(key, field))


def _key_lines(table: str, key: str, field: FieldInfo) -> Iterator[str]:
    secret = f" (or {key}_file)" if has_marker(field, SecretMarker) else ""
    yield from _comment(f"{field.description or ''}{secret}", pending=_is_pending(f"{table}.{key}"))
    yield f"#{key} = {_toml(_shown_value(key, field))}"


def _is_pending(key: str) -> bool:
    return key in PENDING and key not in ("provider", "provider.auth", "spool.url")


def _comment(text: str, *, pending: bool) -> Iterator[str]:
    """Two marks, so that the lines with one are those to uncomment."""
    for paragraph in (f"{text} Not available yet." if pending else text).splitlines():
        # What is indented is an example.
        indent = "   " if paragraph.startswith(" ") else ""
        yield from textwrap.wrap(
            paragraph.strip(), WIDTH, initial_indent=f"## {indent}", subsequent_indent=f"## {indent}", **_WHOLE_WORDS
        )


def _shown_value(key: str, field: FieldInfo) -> Any:
    if field.default is PydanticUndefined:
        return "rest" if key == "kind" else (field.examples or [""])[0]
    return _plain(field)


def _plain(field: FieldInfo) -> Any:
    """The default as it would stand in the file."""
    annotated = TypeAdapter(_annotated(field))
    return annotated.dump_python(field.default, mode="json")


def _annotated(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return str(to_jsonable_python(value))
