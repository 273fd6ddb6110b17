"""SendGrid's twin over HTTP: what it takes, what it refuses and how it says so."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from bridge.sandbox import Sandbox
from bridge.sandbox.mail import Attachment
from tests.sandbox.conftest import KEY

TO = [{"email": "ann@example.com", "name": "Ann"}]
MAIL: dict[str, Any] = {
    "personalizations": [{"to": TO}],
    "from": {"email": "shop@example.com", "name": "Shop"},
    "subject": "Hi",
    "content": [{"type": "text/plain", "value": "Hello"}],
}
PNG = base64.b64encode(b"png").decode()
FILE = {"content": PNG, "filename": "a.png"}
HTML = {"type": "text/html", "value": "<p>"}


@pytest.fixture
async def api(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=sandbox.twin_url("sendgrid"), headers=headers, trust_env=False) as client:
        yield client


def people(*names: str) -> list[dict[str, str]]:
    return [{"email": f"{name}@example.com"} for name in names]


def error_of(response: httpx.Response) -> tuple[int, str | None]:
    (error,) = response.json()["errors"]
    assert error.keys() == {"message", "field", "help"}
    assert error["message"]
    return response.status_code, error["field"]


async def test_a_mail_is_taken_with_an_empty_202_and_an_id_in_a_header(
    api: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    response = await api.post("/v3/mail/send", json=MAIL)

    (received,) = sandbox.received("sendgrid")
    assert (response.status_code, response.content) == (202, b"")
    assert "content-type" not in response.headers
    assert response.headers["x-message-id"] == received.provider_id
    assert len(received.provider_id) == 22
    assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= response.headers.keys()
    assert received.payload == MAIL


async def test_all_of_a_mail_is_understood(api: httpx.AsyncClient, sandbox: Sandbox) -> None:
    payload = {
        **MAIL,
        "personalizations": [{"to": TO, "cc": people("cc"), "bcc": people("bcc"), "custom_args": {"b": "2"}}],
        "content": [*MAIL["content"], HTML, {"type": "text/calendar", "value": "BEGIN"}],
        "reply_to_list": [{"email": "r@example.com", "name": "R"}],
        "headers": {"X-A": "1", "Message-ID": "<1@example.com>"},
        "custom_args": {"a": "1", "b": "1"},
        "categories": ["news"],
        "attachments": [{**FILE, "type": "image/png", "disposition": "inline", "content_id": "logo"}, FILE],
    }
    await api.post("/v3/mail/send", json=payload)

    mail = sandbox.received("sendgrid")[0].mail
    assert mail is not None
    assert (mail.sender, mail.sender_name) == ("shop@example.com", "Shop")
    assert (mail.to, mail.cc, mail.bcc) == (
        (("ann@example.com", "Ann"),),
        (("cc@example.com", ""),),
        ("bcc@example.com",),
    )
    assert mail.recipients == ("ann@example.com", "cc@example.com", "bcc@example.com")
    assert (mail.reply_to, mail.subject, mail.text, mail.html) == ((("r@example.com", "R"),), "Hi", "Hello", "<p>")
    assert (mail.headers, mail.message_id) == ((("X-A", "1"),), "<1@example.com>")
    assert (mail.metadata, mail.tags) == ({"a": "1", "b": "2"}, ("news",))
    digest = hashlib.sha256(b"png").hexdigest()
    assert mail.attachments == (
        Attachment(
            filename="a.png",
            content_type="image/png",
            size=3,
            sha256=digest,
            content_id="logo",
            disposition="inline",
        ),
        Attachment(filename="a.png", content_type="application/octet-stream", size=3, sha256=digest),
    )


async def test_each_personalization_is_a_message_under_one_id(api: httpx.AsyncClient, sandbox: Sandbox) -> None:
    batch = [{"to": people("a")}, {"to": people("b"), "subject": "Own", "from": {"email": "own@example.com"}}]
    response = await api.post("/v3/mail/send", json={**MAIL, "personalizations": batch})

    first, second = sandbox.received("sendgrid")
    assert (first.recipients, first.subject, first.sender) == (("a@example.com",), "Hi", "shop@example.com")
    assert (second.recipients, second.subject, second.sender) == (("b@example.com",), "Own", "own@example.com")
    assert first.provider_id == second.provider_id == response.headers["x-message-id"]
    assert first.id != second.id


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"personalizations": []}, "personalizations"),
        ({"personalizations": [{}]}, "personalizations.0.to"),
        ({"personalizations": [{"to": []}]}, "personalizations.0.to"),
        ({"personalizations": [{"to": TO}, {"cc": TO}]}, "personalizations.1.to"),
        ({"personalizations": [{"to": [{"email": "x"}]}]}, "personalizations.0.to.0.email"),
        ({"personalizations": [{"to": [{"email": "ä@x.example" * 40}]}]}, "personalizations.0.to.0.email"),
        ({"personalizations": [{"to": [{**TO[0], "name": "a, b"}]}]}, "personalizations.0.to.0.name"),
        ({"personalizations": [{"to": TO, "cc": people("ANN")}]}, "personalizations"),
        ({"personalizations": [{"to": TO, "bcc": people("b", "b")}]}, "personalizations"),
        ({"personalizations": [{"to": TO, "headers": {"Bcc": "x"}}]}, "personalizations.0.headers.bcc"),
        ({"personalizations": [{"to": TO, "custom_args": {"a": 1}}]}, "personalizations.0.custom_args.a"),
        ({"personalizations": [{"to": TO, "custom_args": {"a": "x" * 10_000}}]}, "personalizations.0.custom_args"),
        ({"personalizations": [{"to": people(*map(str, range(501)))}] * 2}, "personalizations"),
        ({"from": None}, "from"),
        ({"from": {"email": "a@x.example", "nick": ""}}, "from.nick"),
        ({"subject": ""}, "subject"),
        ({"content": []}, "content"),
        ({"content": [{"type": "text/plain", "value": ""}]}, "content.0.value"),
        ({"content": [{"type": "text/plain; charset=utf-8", "value": "x"}]}, "content.0.type"),
        ({"content": [HTML, *MAIL["content"]]}, "content"),
        ({"headers": {"Subject": "x"}}, "headers.subject"),
        ({"headers": {"X A": "x"}}, "headers.X A"),
        ({"headers": {"X-A": "x\r\nBcc: y"}}, "headers.X-A"),
        ({"headers": {"X-A": "x", "x-a": "y"}}, "headers"),
        ({"headers": {"X-A": 1}}, "headers.X-A"),
        ({"reply_to": TO[0], "reply_to_list": TO}, "reply_to"),
        ({"reply_to_list": TO * 2}, "reply_to_list"),
        ({"categories": ["a"] * 2}, "categories.1"),
        ({"categories": [str(number) for number in range(11)]}, "categories"),
        ({"attachments": [{**FILE, "content": "?"}]}, "attachments.0.content"),
        ({"attachments": [{**FILE, "content": ""}]}, "attachments.0.content"),
        ({"attachments": [{"content": PNG}]}, "attachments.0.filename"),
        ({"attachments": [{**FILE, "type": "text/plain; charset=x"}]}, "attachments.0.type"),
        ({"attachments": [{**FILE, "filename": "a\r\nb"}]}, "attachments.0.filename"),
        ({"attachments": [{**FILE, "disposition": "Inline"}]}, "attachments.0.disposition"),
        ({"attachments": [{**FILE, "size": 1}]}, "attachments.0.size"),
        ({"send_at": 1_700_000_000 + 73 * 3600}, "send_at"),
        ({"text": "x"}, "text"),
    ],
)
async def test_what_the_documentation_forbids_is_refused_by_its_field(
    api: httpx.AsyncClient, sandbox: Sandbox, changes: dict[str, Any], field: str
) -> None:
    response = await api.post("/v3/mail/send", json={**MAIL, **changes})

    assert error_of(response) == (400, field)
    assert sandbox.messages == []


@pytest.mark.parametrize("field", ["personalizations", "from", "subject", "content"])
async def test_what_is_required_is_required(api: httpx.AsyncClient, field: str) -> None:
    payload = {name: value for name, value in MAIL.items() if name != field}

    assert error_of(await api.post("/v3/mail/send", json=payload)) == (400, field)


async def test_a_thousand_recipients_are_taken(api: httpx.AsyncClient, sandbox: Sandbox) -> None:
    batch = [{"to": people(*map(str, range(500)))}, {"to": people(*map(str, range(500)))}]

    assert (await api.post("/v3/mail/send", json={**MAIL, "personalizations": batch})).status_code == 202
    assert len(sandbox.messages) == 2


async def test_the_sandbox_mode_checks_and_sends_nothing(api: httpx.AsyncClient, sandbox: Sandbox) -> None:
    payload = {**MAIL, "mail_settings": {"sandbox_mode": {"enable": True}}}

    assert (await api.post("/v3/mail/send", json=payload)).status_code == 200
    assert sandbox.messages == []


async def test_bodies_and_types_that_are_no_json_are_refused(api: httpx.AsyncClient) -> None:
    as_json = {"Content-Type": "application/json"}

    assert error_of(await api.post("/v3/mail/send", content=b"{", headers=as_json)) == (400, None)
    assert error_of(await api.post("/v3/mail/send", content=b'"\xff"', headers=as_json)) == (400, None)
    assert error_of(await api.post("/v3/mail/send", content=b"[]", headers=as_json)) == (400, None)
    assert error_of(await api.post("/v3/mail/send", data={"a": "b"})) == (415, None)
    assert error_of(await api.get("/v3/mail/send")) == (405, None)
    assert error_of(await api.get("/v3/nothing")) == (404, None)


async def test_the_key_can_be_checked_without_sending(api: httpx.AsyncClient) -> None:
    good = await api.get("/v3/scopes")
    bad = await api.get("/v3/scopes", headers={"Authorization": "Bearer wrong"})

    assert (good.status_code, "mail.send" in good.json()["scopes"]) == (200, True)
    assert error_of(bad) == (401, None)
    assert bad.json()["errors"][0]["message"] == "The provided authorization grant is invalid, expired, or revoked"


@pytest.mark.parametrize(
    ("fail", "status", "message"),
    [
        ("sendgrid=maximum_credits_exceeded:1", 401, "Maximum credits exceeded"),
        ("sendgrid=401:1", 401, "The provided authorization grant is invalid, expired, or revoked"),
        ("sendgrid=429:1", 429, "too many requests"),
        ("sendgrid=413:1", 413, "Payload Too Large"),
        ("sendgrid=access_forbidden:1", 403, "access forbidden"),
        ("sendgrid=504:1", 504, "error"),
    ],
)
async def test_it_fails_as_the_real_one_does(
    api: httpx.AsyncClient, sandbox: Sandbox, fail: str, status: int, message: str
) -> None:
    sandbox.fail(fail)
    failed, second = [await api.post("/v3/mail/send", json=MAIL) for _ in range(2)]

    assert error_of(failed)[0] == status
    assert failed.json()["errors"][0]["message"] == message
    assert (failed.headers["x-ratelimit-remaining"] == "0") == (status == 429)
    assert second.status_code == 202


async def test_more_than_30_mb_are_too_much() -> None:
    async with (
        Sandbox(key=KEY) as sandbox,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as client,
    ):
        content = [{"type": "text/plain", "value": "x" * 31 * 1024 * 1024}]
        response = await client.post(
            sandbox.twin_url("sendgrid") + "/v3/mail/send", json={**MAIL, "content": content}, timeout=30
        )

    assert error_of(response) == (413, None)
