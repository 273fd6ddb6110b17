"""Body templates of `kind = "rest"`: a table whose texts hold `{placeholders}`. Replaced in the values, not in the JSON
text, so nothing in a mail can break out of its place.

A text that is one placeholder alone takes the value as it is: text, list or object. Inside longer text only texts and lists
of texts fit, the latter joined with ", ". A brace that is meant is doubled: `{{`, `}}`. A key whose placeholder stands alone
and is empty is left out (many APIs refuse an empty `cc`), except those of `KEPT`; so is a table of which nothing is left.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

_FORMS = ("", "_line", "_emails", "_objects")  # of a field with addresses
_FIELDS = ("to", "cc", "bcc", "reply_to")
LISTS: Final = frozenset({f"{field}{form}" for field in _FIELDS for form in ("", "_emails")} | {"envelope_to", "tags"})
OBJECTS: Final = frozenset(
    {"from_object", "headers", "header_list", "attachments", "alternatives", "metadata"}
    | {f"{field}_objects" for field in _FIELDS}
)
TEXTS: Final = frozenset(
    {
        "id",
        "key",
        "queue_id",
        "from",
        "from_email",
        "from_name",
        "to_email",
        "to_name",
        "subject",
        "text",
        "body",
        "html",
    }
    | {"message_id", "date", "envelope_from", "raw"}
    | {f"{field}_line" for field in _FIELDS}
)
PLACEHOLDERS: Final = TEXTS | LISTS | OBJECTS
KEPT: Final = frozenset({"subject", "body", "envelope_from"})
_WHOLE = frozenset({"raw"})  # not text of a size to be put into other text
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

Values = Mapping[str, Callable[[], Any]]


class _Empty:
    """Nothing to be sent: the key is left out."""


_EMPTY = _Empty()


def check_template(body: Any) -> tuple[str, ...]:
    """What is wrong with a template, each with its place; () when it can be used."""
    problems = [problem for path, text in _leaves(body, "") for problem in _check_text(path, text)]
    names = placeholders(body)
    if not problems and not ("envelope_to" in names or one_at_a_time(names) or carries_field(names, "to")):
        problems.append("no placeholder names the recipients: use {to} or {envelope_to}")
    if not problems and names.isdisjoint({"body", "text", "html", "raw"}):
        problems.append("no placeholder holds what the mail says: use {body}, {text}, {html} or {raw}")
    return tuple(problems)


def one_at_a_time(names: frozenset[str]) -> bool:
    """Only `{to_email}` says who is mailed, so every recipient needs a call."""
    return "to_email" in names and "envelope_to" not in names and not carries_field(names, "to")


def carries_field(names: frozenset[str], field: str) -> bool:
    """Whether the template shows `to`, `cc`, `bcc` or `reply_to` in one of its forms."""
    return not names.isdisjoint({f"{field}{form}" for form in _FORMS})


def placeholders(body: Any) -> frozenset[str]:
    return frozenset(m[1] for _, text in _leaves(body, "") for m in _TOKEN.finditer(text) if m[1] is not None)


def fill(body: Any, values: Values) -> Any:
    """The template with the values in it; each value is made only if it is named."""
    filled = _fill(body, values)
    return {} if filled is _EMPTY else filled


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}[{index}]")


def _check_text(path: str, text: str) -> Iterator[str]:
    for match in _TOKEN.finditer(text):
        name = match[1]
        if match[0] in ("{", "}"):
            yield f"{path}: a single {match[0]!r}; write {match[0] * 2!r} for the character itself"
        elif name is not None and name not in PLACEHOLDERS:
            near = difflib.get_close_matches(name, sorted(PLACEHOLDERS), 1)
            # What is no name is not repeated: a fixed text in a body may be a key, and hold braces.
            shown = f"{{{name}}}" if re.fullmatch("[A-Za-z_]{0,30}", name) else "in braces"
            yield f"{path}: unknown placeholder {shown}" + (f", did you mean {{{near[0]}}}?" if near else "")
        elif name in OBJECTS | _WHOLE and match[0] != text:
            yield f"{path}: {{{name}}} is no text and must stand alone"


def _fill(node: Any, values: Values) -> Any:
    if isinstance(node, str):
        return _fill_text(node, values)
    if isinstance(node, Mapping):
        pairs = [(key, _fill(value, values)) for key, value in node.items()]
        return _left({key: value for key, value in pairs if value is not _EMPTY}, node)
    if isinstance(node, list | tuple):
        return _left([v for v in (_fill(value, values) for value in node) if v is not _EMPTY], node)
    return node


def _left(filled: Any, node: Any) -> Any:
    return _EMPTY if node and not filled else filled


def _fill_text(text: str, values: Values) -> Any:
    match = _TOKEN.fullmatch(text)
    if match and match[1] is not None:
        value = values[match[1]]()
        return _EMPTY if value in ("", [], {}) and match[1] not in KEPT else value
    return _TOKEN.sub(lambda m: m[0][0] if m[1] is None else _as_text(values[m[1]]()), text)


def _as_text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
