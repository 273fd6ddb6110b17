"""The table from response to outcome, row by row, and the reading of what providers write into their answers."""

from __future__ import annotations

import ssl
from typing import Any

import httpx
import pytest

from bridge.model import Fault
from bridge.providers.answers import id_of, pointed, reset_delay, retry_delay, safe_words, words_of
from bridge.providers.outcomes import exception_outcome, outcome_for, outcome_for_response

NOW = 1_795_000_000.0
ERROR = b'{"error":{"code":"invalid","message":"No such field"}}'

P, A, M = Fault.PROVIDER, Fault.ACCOUNT, Fault.MESSAGE


def respond(status: int, body: bytes = b"", **headers: str) -> httpx.Response:
    return httpx.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()}, content=body)


@pytest.mark.parametrize(
    ("status", "body", "means", "reply", "fault"),
    [
        (200, b'{"id":"1"}', "sent", "250 2.0.0", None),
        (201, b"", "sent", "250 2.0.0", None),
        (202, b"", "sent", "250 2.0.0", None),
        (204, b"", "sent", "250 2.0.0", None),
        (408, b"", "deferred", "451 4.3.2", P),
        (425, b"", "deferred", "451 4.3.2", P),
        (503, b"", "deferred", "451 4.3.2", P),
        (503, b"<html>", "deferred", "451 4.3.2", P),
        (500, ERROR, "deferred", "451 4.3.2", P),
        (500, b"", "unknown", "451 4.4.2", P),
        (500, b"<html>Internal Server Error</html>", "unknown", "451 4.4.2", P),
        (500, b"[]", "unknown", "451 4.4.2", P),
        (500, b"{}", "unknown", "451 4.4.2", P),
        (502, ERROR, "unknown", "451 4.4.2", P),
        (504, ERROR, "unknown", "451 4.4.2", P),
        (520, b"", "unknown", "451 4.4.2", P),
        (524, b"", "unknown", "451 4.4.2", P),
        (429, b"", "deferred", "451 4.4.5", P),
        (401, b"", "deferred", "451 4.3.5", A),
        (402, b"", "deferred", "451 4.3.5", A),
        (403, ERROR, "deferred", "451 4.3.5", A),
        (404, b"", "deferred", "451 4.3.5", A),
        (405, b"", "deferred", "451 4.3.5", A),
        (410, b"", "deferred", "451 4.3.5", A),
        (300, b"", "deferred", "451 4.3.5", A),
        (301, b"", "deferred", "451 4.3.5", A),
        (302, b"", "deferred", "451 4.3.5", A),
        (308, b"", "deferred", "451 4.3.5", A),
        (200, b"<!DOCTYPE html><p>Welcome", "deferred", "451 4.3.5", A),
        (200, b"\xef\xbb\xbf \n<HTML>", "deferred", "451 4.3.5", A),
        (413, b"", "bounced", "552 5.3.4", M),
        (400, ERROR, "bounced", "554 5.6.0", M),
        (422, ERROR, "bounced", "554 5.6.0", M),
        (400, b"", "bounced", "554 5.6.0", M),
        (409, b"", "deferred", "451 4.3.0", P),
        (406, b"", "deferred", "451 4.3.0", P),
        (415, b"", "deferred", "451 4.3.0", P),
        (418, b"", "deferred", "451 4.3.0", P),
        (501, b"", "deferred", "451 4.3.0", P),
        (507, b"", "deferred", "451 4.3.0", P),
        (101, b"", "deferred", "451 4.3.0", P),
        (600, b"", "deferred", "451 4.3.0", P),
    ],
)
def test_every_row_of_the_table(status: int, body: bytes, means: str, reply: str, fault: Fault | None) -> None:
    outcome = outcome_for_response(respond(status, body), now=NOW)

    assert (outcome.status, str(outcome.reply)[:9], outcome.fault) == (means, reply, fault)


@pytest.mark.parametrize("status", range(100, 600))
def test_no_status_bounces_but_those_about_the_content(status: int) -> None:
    outcome = outcome_for(status, {}, now=NOW)

    assert (outcome.status == "bounced") == (status in (400, 413, 422))
    assert (outcome.status == "bounced") == outcome.reply.permanent


def test_text_html_as_a_content_type_alone_is_no_web_page() -> None:
    json = respond(200, b'{"id":"1"}', content_type="text/html; charset=UTF-8")
    page = respond(200, b"<p>It works!</p>", content_type="text/html")

    assert outcome_for_response(json, now=NOW).status == "sent"
    assert outcome_for_response(page, now=NOW).fault is Fault.ACCOUNT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Mon, 23 Nov 2026 03:27:18 GMT", 1_795_404_438.0 - NOW),
        ("Monday, 23-Nov-26 03:27:18 GMT", 1_795_404_438.0 - NOW),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("Mon, 23 Nov 2026 03:27:18", 1_795_404_438.0 - NOW),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("9" * 400, None),
        ("Mon, 99 Nov 2026 99:27:18 GMT", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str, seconds: float | None) -> None:
    assert retry_delay({"retry-after": value}, NOW) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"ratelimit-reset": "30"}, 30.0),
        ({"x-ratelimit-reset": "30"}, 30.0),
        ({"x-ratelimit-reset": str(int(NOW) + 60)}, 60.0),
        ({"x-ratelimit-reset": str((int(NOW) + 60) * 1000)}, 60.0),
        ({"x-ratelimit-reset": str(int(NOW) - 60)}, 0.0),
        ({"x-sib-ratelimit-reset": "7"}, 7.0),
        ({"x-ratelimit-reset": "tomorrow"}, None),
        ({}, None),
    ],
)
def test_the_reset_of_a_rate_limit(headers: dict[str, str], seconds: float | None) -> None:
    assert reset_delay(headers, NOW) == seconds


def test_429_waits_as_told_and_prefers_retry_after() -> None:
    assert outcome_for_response(respond(429, retry_after="0", x_ratelimit_reset="9"), now=NOW).retry_after == 0.0
    assert outcome_for_response(respond(429, x_ratelimit_reset="9"), now=NOW).retry_after == 9.0
    assert outcome_for_response(respond(429), now=NOW).retry_after is None
    assert outcome_for_response(respond(503, retry_after="8"), now=NOW).retry_after == 8.0
    assert outcome_for_response(respond(503, x_ratelimit_reset="8"), now=NOW).retry_after is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "a"}}, "a"),
        ({"message": "a"}, "a"),
        ({"Message": "a"}, "a"),
        ({"errors": [{"message": "a"}, {"message": "b"}]}, "a"),
        ({"errors": ["a"]}, "a"),
        ({"error": "a"}, "a"),
        ({"error": "a", "message": "b"}, "b"),
        ({"detail": "a"}, "a"),
        ({"message": {"text": "a"}}, ""),
        ({"message": " "}, ""),
        ([{"message": "a"}], ""),
        ("a", ""),
        (None, ""),
    ],
)
def test_words_come_from_where_apis_put_them(body: Any, words: str) -> None:
    assert words_of(body) == words


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a\r\n250 2.0.0 ok", "a 250 2.0.0 ok"),
        ("a\x00\x1b[31m\u2028b", "a [31m b"),
        ("  a   b ", "a b"),
        ("x" * 1000, "x" * 200),
        ("<html><body>Bad</body></html>", ""),
        ("<!DOCTYPE html>", ""),
        ("Bad <p>gateway", ""),
        ("To: <ann@example.com> is bad", "To: <ann@example.com> is bad"),
        ("key SG.secret-1 and SG.secret-12 are wrong", "key *** and *** are wrong"),
        ("SG.secret-1".join("ab"), "a***b"),
    ],
)
def test_words_are_made_safe(text: str, safe: str) -> None:
    assert safe_words(text, ("SG.secret-1", "SG.secret-12", "")) == safe


def test_a_secret_is_taken_out_before_the_text_is_cut() -> None:
    assert "secret" not in safe_words("x" * 195 + "SG.secret-1", ("SG.secret-1",))


def test_words_about_the_content_reach_the_sender_and_others_only_the_log() -> None:
    content = outcome_for_response(respond(422, ERROR), now=NOW)
    key = outcome_for_response(respond(401, b'{"message":"key abc is not ours"}'), now=NOW, secrets=("abc",))

    assert content.reply.text == "Message refused by the mail service: No such field"
    assert "key" not in key.reply.text
    assert key.detail == "HTTP 401: key *** is not ours"


def test_non_ascii_words_make_a_reply_of_ascii() -> None:
    body = '{"message":"Betreff fehlt für Ännchen"}'.encode()

    assert outcome_for_response(respond(400, body), now=NOW).reply.text.isascii()


@pytest.mark.parametrize(
    ("exc", "written", "means", "reply", "fault"),
    [
        (httpx.ConnectError("refused"), False, "deferred", "451 4.4.1", P),
        (httpx.ConnectTimeout(""), False, "deferred", "451 4.4.1", P),
        (httpx.WriteTimeout(""), False, "deferred", "451 4.4.1", P),
        (httpx.WriteError(""), False, "deferred", "451 4.4.1", P),
        (httpx.ReadError(""), False, "deferred", "451 4.4.1", P),
        (httpx.RemoteProtocolError(""), False, "deferred", "451 4.4.1", P),
        (httpx.ProxyError("407"), False, "deferred", "451 4.4.1", P),
        (TimeoutError(), False, "deferred", "451 4.4.1", P),
        (ssl.SSLError("bad"), False, "deferred", "451 4.4.1", P),
        (OSError(113, "no route"), False, "deferred", "451 4.4.1", P),
        (httpx.PoolTimeout(""), False, "deferred", "451 4.4.5", P),
        (httpx.UnsupportedProtocol(""), False, "deferred", "451 4.3.5", A),
        (httpx.InvalidURL("x"), False, "deferred", "451 4.3.5", A),
        (httpx.LocalProtocolError("x"), False, "deferred", "451 4.3.0", None),
        (KeyError("x"), False, "deferred", "451 4.3.0", None),
        (httpx.ReadError(""), True, "unknown", "451 4.4.2", P),
        (httpx.ReadTimeout(""), True, "unknown", "451 4.4.2", P),
        (httpx.RemoteProtocolError(""), True, "unknown", "451 4.4.2", P),
        (httpx.WriteError(""), True, "unknown", "451 4.4.2", P),
        (TimeoutError(), True, "unknown", "451 4.4.2", P),
        (KeyError("x"), True, "unknown", "451 4.4.2", P),
    ],
)
def test_what_an_exception_means(exc: Exception, written: bool, means: str, reply: str, fault: Fault | None) -> None:
    outcome = exception_outcome(exc, written=written)

    assert (outcome.status, str(outcome.reply)[:9], outcome.fault) == (means, reply, fault)


def test_only_texts_of_the_network_reach_the_log() -> None:
    assert exception_outcome(httpx.ConnectError("[Errno 111] refused"), written=False).detail.endswith("refused")
    assert exception_outcome(KeyError("body text"), written=True).detail == "KeyError"
    assert exception_outcome(httpx.LocalProtocolError("header value"), written=False).detail == "LocalProtocolError"


DOCUMENT = {"a": {"b/c": [10, {"d~e": "x"}]}, "": 1, "0": "zero", "n": None}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/a/b~1c/0", 10),
        ("/a/b~1c/1/d~0e", "x"),
        ("/", 1),
        ("/0", "zero"),
        ("", DOCUMENT),
        ("/a/b~1c/2", None),
        ("/a/b~1c/01", None),
        ("/a/b~1c/-", None),
        ("/a/x/y", None),
        ("/0/0", None),
        ("/n/0", None),
    ],
)
def test_json_pointers(pointer: str, value: Any) -> None:
    assert pointed(DOCUMENT, pointer) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("abc", "abc"),
        (17, "17"),
        ("<1@example.com>", "<1@example.com>"),
        (True, ""),
        (None, ""),
        ([1], ""),
        ({}, ""),
        ("a b\r\n", ""),
        ("x" * 201, ""),
    ],
)
def test_an_id_is_one_printable_word(value: Any, text: str) -> None:
    assert id_of(value) == text
