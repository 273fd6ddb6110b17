"""The key `provider.body`: a table whose texts are templates, as `bridge.providers.template` fills them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, JsonValue, PlainSerializer

from bridge.config.types import MASK, decode_json
from bridge.providers.template import placeholders

DESCRIPTION = """\
Instead of `shape`: the JSON that is sent, as a table. Its texts are templates; numbers, true and false stay as they \
are. For example:
    [provider.body]
    personalizations = [{ to = "{to_objects}", cc = "{cc_objects}" }]
    from = { email = "{from_email}", name = "{from_name}" }
    subject = "[shop] {subject}"
    content = { plain = "{text}", html = "{html}" }
Lists of addresses, with their names: {to} {cc} {bcc} {reply_to}; as one text: {to_line} {cc_line} {bcc_line} \
{reply_to_line}; without names: {to_emails} {cc_emails} {bcc_emails} {reply_to_emails}; as {"email", "name"}: \
{to_objects} {cc_objects} {bcc_objects} {reply_to_objects}.
One person: {to_email} {to_name} (a call for each recipient, unless the body shows all of them in another way). The \
sender: {from} {from_email} {from_name} {from_object}.
The mail: {subject} {body} (the text, or that of the HTML) {text} {html} {date} {message_id} {headers} (an object) \
{header_list} {attachments} {alternatives} {raw} (all of it, in base64).
What the header fields X-Bridge-Tag and X-Bridge-Metadata ask for: {tags} {metadata} (an object).
The envelope: {envelope_from} {envelope_to}. The bridge: {id} and {key} (the same for every retry), {queue_id}.
A placeholder alone in its text stands for the value itself, text, list or object, and its key is left out when that \
is empty (not for {subject}, {body}, {envelope_from}). Inside longer text only texts and lists of texts fit; lists are \
joined with ", ". A brace is written {{ or }}."""


def _table_from_text(value: Any) -> Any:
    return decode_json(value) if isinstance(value, str) and value else value or {}


def _each(node: Any, change: Callable[[Any], Any]) -> Any:
    """The same tree with every leaf changed."""
    if isinstance(node, dict):
        return {key: _each(value, change) for key, value in node.items()}
    return [_each(value, change) for value in node] if isinstance(node, list) else change(node)


def _check_leaf(value: Any) -> Any:
    # orjson writes integers of 64 bits, and JSON has no infinity.
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that JSON does not have")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("holds a number of more than 64 bits")
    return value


def _mask_leaf(value: Any) -> Any:
    """Some APIs take their key in the body: a text without a placeholder may be one. TOML has no null."""
    if isinstance(value, str):
        return value if not value or placeholders(value) else MASK
    return "null" if value is None else value


Body = Annotated[
    dict[str, JsonValue],
    BeforeValidator(_table_from_text),
    AfterValidator(lambda body: _each(body, _check_leaf)),
    PlainSerializer(lambda body: _each(body, _mask_leaf), return_type=dict[str, Any]),
]
