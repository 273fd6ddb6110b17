"""What is in the mail, and who may see it: from the bytes a client sent to what the API got."""

from __future__ import annotations

import asyncio
import base64
import time
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

import pytest

from bridge.sandbox import Sandbox
from tests.e2e.conftest import eventually, rest, statuses


def mail(**headers: str) -> EmailMessage:
    message = EmailMessage(policy=policy.SMTP)
    for name, value in {"From": "Ann <ann@example.com>", "Subject": "hello", **headers}.items():
        message[name.replace("_", "-")] = value
    message.set_content("text\n")
    return message


async def send(
    start_daemon: Any, connect: Any, sandbox: Sandbox, message: bytes, *to: str, **more: str
) -> tuple[str, Any]:
    daemon = await start_daemon(**rest(sandbox.url, **more))
    client = await connect(daemon.listeners[0].port)
    return await client.send(*to, content=message), daemon


async def test_a_plain_mail_to_one_person_is_exactly_four_fields(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    await send(start_daemon, connect, sandbox, mail(To="Bob <bob@example.org>").as_bytes(), "bob@example.org")

    assert sandbox.messages[0].payload == {
        "to": "Bob <bob@example.org>",
        "from": "Ann <ann@example.com>",
        "subject": "hello",
        "body": "text\n",
    }


@pytest.mark.parametrize("path", ["/send-email", "/send-full", "/send-raw"])
async def test_the_envelope_decides_who_is_mailed_and_nobody_sees_a_bcc(
    path: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    message = mail(To="Bob <BOB@Example.org>, stranger@example.net", Cc="Cyd <cyd@example.org>", Bcc="dan@example.org")
    shape = {"/send-email": "simple", "/send-full": "full", "/send-raw": "raw"}[path]
    envelope = ("bob@example.org", "cyd@example.org", "dan@example.org")

    reply, _ = await send(
        *(start_daemon, connect, sandbox, message.as_bytes(), *envelope),
        SMTP_BRIDGE_PROVIDER__URL=sandbox.url + path,
        SMTP_BRIDGE_PROVIDER__SHAPE=shape,
    )

    assert reply.startswith("250 2.0.0")
    (received,) = sandbox.messages
    assert set(received.recipients) == set(envelope)
    if shape == "raw":
        raw = base64.b64decode(received.payload["raw"])
        assert b"dan@example.org" not in raw
        assert b"\r\nBcc:" not in raw
    else:
        assert "stranger@example.net" not in str(received.payload)
        assert received.bcc == ("dan@example.org",)


async def test_recipients_that_no_header_shows_get_a_call_each(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    message = mail(To="list@example.net").as_bytes()

    await send(start_daemon, connect, sandbox, message, "bob@example.org", "cyd@example.org")

    assert sorted(received.to for received in sandbox.messages) == [("bob@example.org",), ("cyd@example.org",)]
    assert all(received.recipients == received.to for received in sandbox.messages)


async def test_raw_as_bytes_is_the_message_with_our_trace_in_front(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    message = mail(To="bob@example.org", X_Custom="1").as_bytes()

    await send(
        *(start_daemon, connect, sandbox, message, "bob@example.org"),
        SMTP_BRIDGE_PROVIDER__URL=sandbox.url + "/send-raw",
        SMTP_BRIDGE_PROVIDER__SHAPE="raw",
        SMTP_BRIDGE_PROVIDER__CONTENT_TYPE="message/rfc822",
    )

    raw = base64.b64decode(sandbox.messages[0].payload["raw"])
    assert raw.endswith(message)
    parsed = BytesParser(policy=policy.default).parsebytes(raw)
    assert "by bridge.example with ESMTP id " in str(parsed["Received"]).replace("\n", " ")
    assert parsed["Date"]
    assert parsed["Message-ID"]


def signed() -> bytes:
    return (
        b"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: signed\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/signed; protocol="application/pkcs7-signature"; micalg=sha-256; boundary=b\r\n\r\n'
        b"--b\r\nContent-Type: text/plain\r\n\r\ntext\r\n"
        b"--b\r\nContent-Type: application/pkcs7-signature\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--b--\r\n"
    )


def invitation() -> bytes:
    message = mail(To="bob@example.org")
    message.add_alternative(
        "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n", subtype="calendar", params={"method": "REQUEST"}
    )
    return message.as_bytes()


@pytest.mark.parametrize("mode", ["auto", "queue", "direct"])
@pytest.mark.parametrize("make", [signed, invitation])
async def test_what_json_would_lose_is_refused_in_every_mode(
    make: Any, mode: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    reply, daemon = await send(start_daemon, connect, sandbox, make(), "bob@example.org", SMTP_BRIDGE_RELAY__MODE=mode)

    assert reply.startswith("554 5.6.5")
    assert await statuses(daemon) == {}
    assert sandbox.messages == []


async def test_degrade_sends_it_with_the_loss_in_the_log(sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    reply, _ = await send(
        start_daemon, connect, sandbox, signed(), "bob@example.org", SMTP_BRIDGE_RELAY__DEGRADE="true"
    )

    assert reply.startswith("250 2.0.0 Ok: sent")
    assert sandbox.messages[0].payload["body"].startswith("text")


async def test_full_carries_an_invitation_with_its_method(sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    await send(
        *(start_daemon, connect, sandbox, invitation(), "bob@example.org"),
        SMTP_BRIDGE_PROVIDER__URL=sandbox.url + "/send-full",
        SMTP_BRIDGE_PROVIDER__SHAPE="full",
    )

    (alternative,) = sandbox.messages[0].payload["alternatives"]
    assert alternative["content_type"].startswith("text/calendar; method=REQUEST")
    assert "METHOD:REQUEST" in alternative["content"]


async def test_attachments_arrive_byte_for_byte_with_their_names(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    message = mail(To="bob@example.org")
    message.add_alternative('<img src="cid:logo">', subtype="html")
    message.get_payload(1).add_related(b"\x89PNG", "image", "png", cid="<logo>", filename="logo.png")  # type: ignore[union-attr]
    content = bytes(range(256)) * 400
    message.add_attachment(content, "application", "pdf", filename="Übersicht – März.pdf")

    await send(start_daemon, connect, sandbox, message.as_bytes(), "bob@example.org")

    payload = sandbox.messages[0].payload
    logo, report = payload["attachments"]
    assert (logo["content_id"], logo["filename"]) == ("logo", "logo.png")
    assert report["filename"] == "Übersicht – März.pdf"
    assert base64.b64decode(report["content"]) == content
    assert payload["html"].strip() == '<img src="cid:logo">'


async def test_a_template_sends_what_it_names(sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    body = '{"to": "{to}", "from": "{from}", "subject": "[bridge] {subject}", "body": "{text}"}'

    await send(
        *(start_daemon, connect, sandbox, mail(To="bob@example.org").as_bytes(), "bob@example.org"),
        SMTP_BRIDGE_PROVIDER__BODY=body,
    )

    assert sandbox.messages[0].subject == "[bridge] hello"


async def test_mail_that_new_settings_cannot_express_is_refused_not_degraded(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    sandbox.fail("503")
    reply, daemon = await send(
        *(start_daemon, connect, sandbox, signed(), "bob@example.org"),
        SMTP_BRIDGE_PROVIDER__URL=sandbox.url + "/send-raw",
        SMTP_BRIDGE_PROVIDER__SHAPE="raw",
    )
    assert reply.startswith("250 2.0.0 Ok: queued")
    await daemon.stop()
    sandbox.recover()

    daemon = await start_daemon(**rest(sandbox.url, SMTP_BRIDGE_BOUNCE__FROM="off"))

    await eventually(lambda: _bounced(daemon))
    (row,) = await daemon.spool.list_messages(status="failed")
    assert row["recipients"][0]["enhanced"] == "5.6.5"
    assert sandbox.messages == []


async def _bounced(daemon: Any) -> bool:
    return await statuses(daemon) == {"bob@example.org": "bounced"}


async def test_display_addresses_that_json_cannot_show_are_logged_once(
    sandbox: Sandbox, bridge_process: Any, connect: Any
) -> None:
    process = await bridge_process(**rest(sandbox.url))
    client = await connect(process.port)
    message = mail(To="bob@example.org, list@example.net").as_bytes()

    await client.send("bob@example.org", content=message)

    (event,) = process.events("message.addresses_not_shown")
    assert event["recipients"] == ["list@example.net"]


@pytest.mark.parametrize(("path", "shape"), [("/send-email", "simple"), ("/send-full", "full")])
async def test_an_attached_calendar_keeps_its_method_and_charset(
    path: str, shape: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    message = (
        b"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\ntext\r\n"
        b"--b\r\nContent-Type: text/calendar; method=REQUEST; charset=iso-8859-1; name=i.ics\r\n"
        b"Content-Disposition: attachment\r\n\r\nBEGIN:VCALENDAR\r\n--b--\r\n"
    )

    await send(
        *(start_daemon, connect, sandbox, message, "bob@example.org"),
        SMTP_BRIDGE_PROVIDER__URL=sandbox.url + path,
        SMTP_BRIDGE_PROVIDER__SHAPE=shape,
    )

    (attachment,) = sandbox.messages[0].payload["attachments"]
    assert attachment["content_type"] == "text/calendar; method=REQUEST; charset=iso-8859-1"
    assert attachment["filename"] == "i.ics"


@pytest.mark.serial
async def test_one_odd_mail_does_not_hold_up_the_others(sandbox: Sandbox, bridge_process: Any, connect: Any) -> None:
    """Three thousand addresses in domains of other scripts, ten megabytes of HTML: another client is answered meanwhile."""
    process = await bridge_process(**rest(sandbox.url))
    odd, other = await connect(process.port), await connect(process.port)
    addresses = ", ".join(f"a@b\u00fccher{n}.example" for n in range(3000)).encode()
    html = b"<p>" + b"text <b>bold</b> &amp; more " * 400_000
    waits = []
    for content in (
        b"From: ann@example.com\r\nTo: " + addresses + b"\r\nSubject: x\r\n\r\nx\r\n",
        b"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: text/html\r\n\r\n" + html + b"\r\n",
    ):
        sending = asyncio.create_task(odd.send("bob@example.org", content=content))
        while not sending.done():
            started = time.monotonic()
            await other.say("NOOP")
            waits.append(time.monotonic() - started)
            if len(waits) % 50 == 0:
                await other.send("bob@example.org")  # which forgives the NOOPs
            await asyncio.sleep(0.005)
        assert (await sending).startswith("250 2.0.0")

    assert max(waits) < 0.8
