"""Body templates: what they put where, what they leave out, and what is an error of the settings."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import orjson
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Email
from bridge.providers.template import LISTS, OBJECTS, PLACEHOLDERS, TEXTS, check_template, fill, placeholders
from bridge.providers.values import template_values
from tests.providers.conftest import PLAIN, TO_ANN
from tests.providers.test_shapes import RICH, TO_ALL

TO: dict[str, Any] = {"to": "{to}", "t": "{text}"}


def filled(body: Any, raw: bytes = RICH, to: Addressing = TO_ALL, email: Email | None = None) -> Any:
    names = placeholders(body)
    values = template_values(email or parse(raw), to, names=names, queue_id="Q", key="Q-1")
    return orjson.loads(orjson.dumps(fill(body, values)))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{subject}", "Grüße"),
        ("Re: {subject}!", "Re: Grüße!"),
        ("{from}", '"Shop, Inc." <shop@example.com>'),
        ("{from_email}", "shop@example.com"),
        ("{from_name}", "Shop, Inc."),
        ("{from_object}", {"email": "shop@example.com", "name": "Shop, Inc."}),
        ("{to}", ["Ann <ann@example.com>", "bob@example.com"]),
        ("{to_line}", "Ann <ann@example.com>, bob@example.com"),
        ("mail to {to}", "mail to Ann <ann@example.com>, bob@example.com"),
        ("{to_emails}", ["ann@example.com", "bob@example.com"]),
        ("{to_objects}", [{"email": "ann@example.com", "name": "Ann"}, {"email": "bob@example.com"}]),
        ("{to_email}", "ann@example.com"),
        ("{cc_emails}", ["j@example.com"]),
        ("{bcc}", ["secret@example.com"]),
        ("{reply_to_line}", "Help <help@example.com>"),
        ("{text}", "Text"),
        ("{body}", "Text"),
        ("{html}", "<p>Text</p>"),
        ("{headers}", {"X-Tag": ["one", "two"], "List-Unsubscribe": "<https://example.com/u>"}),
        ("{message_id}", "<1@example.com>"),
        ("{envelope_from}", "bounces@example.com"),
        ("{envelope_to}", ["ann@example.com", "bob@example.com", "j@example.com", "secret@example.com"]),
        ("{id}", "Q-1"),
        ("{key}", "Q-1"),
        ("{queue_id}", "Q"),
        ("{{subject}}", "{subject}"),
        ("{{}} {subject} }}", "{} Grüße }"),
        ("no placeholder", "no placeholder"),
        ("", ""),
    ],
)
def test_what_a_text_becomes(text: str, value: Any) -> None:
    assert filled({"x": text}) == {"x": value}


def test_raw_is_the_mime_in_base64_without_bcc() -> None:
    assert b"secret@" not in base64.b64decode(filled({"x": "{raw}"})["x"])


def test_tables_and_lists_are_walked_and_other_values_kept() -> None:
    body = {"a": {"b": ["{subject}", 1, True, None, {"c": "{from_email}"}]}, "d": 1.5, "e": {}, "f": []}

    assert filled(body) == {"a": {"b": ["Grüße", 1, True, None, {"c": "shop@example.com"}]}, "d": 1.5, "e": {}, "f": []}


def test_keys_of_empty_values_are_left_out_with_what_becomes_empty() -> None:
    body = {
        "cc": "{cc}",
        "html": "{html}",
        "from": {"email": "{from_email}", "name": "{from_name}"},
        "files": {"list": ["{attachments}"]},
        "note": "{cc_line} ",
        "subject": "{subject}",
        "text": "{body}",
    }
    bare = PLAIN.replace(b"Shop <shop@example.com>", b"shop@example.com").replace(b"The text.\r\n", b"")

    assert filled(body, bare.replace(b"Subject: Hello\r\n", b""), TO_ANN) == {
        "from": {"email": "shop@example.com"},
        "note": " ",
        "subject": "",
        "text": "",
    }


def test_nothing_in_a_mail_is_read_as_a_placeholder_or_as_json() -> None:
    email = replace(parse(PLAIN), subject='{from}", "admin": "true', text='{{"a"}} {to}')

    assert filled({"s": "{subject}", "t": "say {text}"}, email=email) == {
        "s": '{from}", "admin": "true',
        "t": 'say {{"a"}} {to}',
    }


def test_a_template_with_html_only_gets_the_text_as_html() -> None:
    email = replace(parse(PLAIN), text="1 < 2\n")

    assert filled({"h": "{html}"}, email=email) == {"h": "<pre>1 &lt; 2\n</pre>"}
    assert filled({"h": "{html}", "t": "{text}"}, email=email) == {"t": "1 < 2\n"}


def test_a_template_with_text_only_gets_the_html_as_text() -> None:
    email = replace(parse(PLAIN), text="", html="<p>Hi</p>")

    assert filled({"t": "{text}"}, email=email) == {"t": "Hi"}
    assert filled({"t": "{text}", "h": "{html}"}, email=email) == {"h": "<p>Hi</p>"}


@pytest.mark.parametrize("name", sorted(PLACEHOLDERS))
def test_every_placeholder_has_a_value_of_its_kind(name: str) -> None:
    value = filled({"x": f"{{{name}}}"}).get("x")

    expected = str if name in TEXTS else list if name in LISTS else (list, dict)
    assert isinstance(value, expected) or (name in ("alternatives", "tags", "metadata") and value is None)
    assert name in TEXTS | LISTS | OBJECTS


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({**TO, "x": "{subjct}"}, "x: unknown placeholder {subjct}, did you mean {subject}?"),
        ({**TO, "x": "{}"}, "x: unknown placeholder {}"),
        ({**TO, "a": {"b": ["{zzz}"]}}, "a.b[0]: unknown placeholder {zzz}"),
        ({**TO, "x": "a { b"}, "x: a single '{'; write '{{' for the character itself"),
        ({**TO, "x": "a } b"}, "x: a single '}'; write '}}' for the character itself"),
        ({**TO, "x": "see {headers}"}, "x: {headers} is no text and must stand alone"),
        ({**TO, "x": "see {raw}"}, "x: {raw} is no text and must stand alone"),
        ({"t": "{text}"}, "no placeholder names the recipients: use {to} or {envelope_to}"),
        ({"t": "{text}", "c": "{cc}"}, "no placeholder names the recipients: use {to} or {envelope_to}"),
        ({"to": "{to}"}, "no placeholder holds what the mail says: use {body}, {text}, {html} or {raw}"),
    ],
)
def test_a_wrong_template_is_named_with_its_place(body: Any, problem: str) -> None:
    assert check_template(body) == (problem,)


@pytest.mark.parametrize(
    "body",
    [
        TO,
        {"to": "{to_email}", "t": "{body}"},
        {"m": {"to": "{to_objects}", "html": "{html}"}},
        {"rcpt": "{envelope_to}", "mime": "{raw}"},
        {"to": "{to_line}", "t": "{text}", "n": 1, "l": [None, True], "braces": "{{}}"},
    ],
)
def test_a_usable_template_has_no_problems(body: Any) -> None:
    assert check_template(body) == ()


def test_the_neutral_tag_and_metadata_have_placeholders_and_are_no_headers() -> None:
    raw = PLAIN.replace(b"Subject:", b"X-Bridge-Tag: a, b\r\nX-Bridge-Metadata: order=17\r\nSubject:")

    body = {"tags": "{tags}", "metadata": "{metadata}", "headers": "{headers}"}
    assert filled(body, raw, TO_ANN) == {"tags": ["a", "b"], "metadata": {"order": "17"}}
    assert b"X-Bridge" not in base64.b64decode(filled({"raw": "{raw}"}, raw, TO_ANN)["raw"])
