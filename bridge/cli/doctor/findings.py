"""What is found in a dialogue, and the settings that follow from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bridge.reply import Reply

Value = str | bool | int | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A line for config.toml. `table` as in "smtp.listener"; `remark`: stands behind it."""

    table: Literal["smtp", "smtp.listener", "tls", "user", "relay", "route"]
    key: str
    value: Value
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`weight`: "change": the device does not get through as it is; "guess": perhaps that is why; "note": good to know.

    `rule`: a stable name. `says`: what the device does, in plain words. `reply`: what the listener answers to that. `do`: what
    can be done where it is not a setting.
    """

    rule: str
    weight: Literal["change", "guess", "note"]
    says: str
    reply: Reply | None = None
    do: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()


def listener(key: str, value: Value, remark: str = "") -> Setting:
    return Setting(table="smtp.listener", key=key, value=value, remark=remark)


def gets_through(findings: Iterable[Finding]) -> bool:
    """With the settings as they are."""
    return all(finding.weight == "note" for finding in findings)


def merged(findings: Iterable[Finding]) -> tuple[Setting, ...]:
    """Every setting once; of lists the union, of `tls_minimum` the lowest, of the rest the first."""
    found: dict[tuple[str, str], Setting] = {}
    for setting in (setting for finding in findings for setting in finding.settings):
        at = (setting.table, setting.key)
        before = found.get(at)
        if before is None:
            found[at] = setting
        elif isinstance(before.value, tuple) and isinstance(setting.value, tuple):
            union = tuple(dict.fromkeys((*before.value, *setting.value)))
            found[at] = Setting(table=setting.table, key=setting.key, value=union, remark=before.remark)
        elif setting.key == "tls_minimum" and str(setting.value) < str(before.value):
            found[at] = setting
    return tuple(found.values())


def as_toml(settings: Sequence[Setting], *, address: str) -> str:
    """The lines for config.toml. `address`: of the listener that is meant."""
    tables = dict.fromkeys(setting.table for setting in settings)
    return "\n".join("\n".join(_table(table, settings, address)) for table in tables)


def _table(table: str, settings: Sequence[Setting], address: str) -> list[str]:
    own = [setting for setting in settings if setting.table == table]
    if table == "smtp.listener":
        keys = {setting.key for setting in own}
        shown = [] if "address" in keys else [f"address = {toml_value(address)}"]
        return ["[[smtp.listener]]", *shown, *map(_line, own), ""]
    head = f"[[{table}]]" if table in ("user", "route") else f"[{table}]"
    return [head, *map(_line, own), ""]


def _line(setting: Setting) -> str:
    text = f"{setting.key} = {toml_value(setting.value)}"
    return f"{text}  # {setting.remark}" if setting.remark else text


def toml_value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04X}" for c in escaped) + '"'
