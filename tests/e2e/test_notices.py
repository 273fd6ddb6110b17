"""Notices to senders from end to end: a real client asks, the sandbox refuses, and the report arrives through the API."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import hmac
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

import orjson
import pytest
from flufl.bounce import all_failures

from bridge.model import Wish
from bridge.sandbox import Failure, Sandbox
from tests.delivery.conftest import FakeClock
from tests.e2e.conftest import KEY, eventually, rest, statuses

BOB, EVE = "bob@example.org", "eve@example.org"
REFUSED = Failure(status=422, recipient=BOB)


def raw(url: str, **more: str) -> dict[str, str]:
    return rest(f"{url}/send-raw".removesuffix("/send-email"), **more) | {
        "SMTP_BRIDGE_PROVIDER__URL": f"{url}/send-raw",
        "SMTP_BRIDGE_PROVIDER__SHAPE": "raw",
        "SMTP_BRIDGE_RELAY__MODE": "queue",
        **more,
    }


def mails(sandbox: Sandbox) -> list[tuple[tuple[str, ...], EmailMessage]]:
    found = []
    for message in sandbox.messages:
        octets = base64.b64decode(message.payload["raw"])
        found.append((message.recipients, email.message_from_bytes(octets, policy=email.policy.default)))
    return found  # type: ignore[return-value]


def reports(sandbox: Sandbox) -> list[tuple[tuple[str, ...], EmailMessage]]:
    return [(to, mail) for to, mail in mails(sandbox) if mail.get_content_type() == "multipart/report"]


def fields(report: EmailMessage) -> list[dict[str, str]]:
    """The groups of the machine's part: of the message, then of each recipient."""
    part = next(p for p in report.walk() if p.get_content_type() == "message/delivery-status")
    return [{k: str(v) for k, v in group.items()} for group in part.get_payload()]  # type: ignore[union-attr]


async def asked(client: Any, *, mail: str = "", rcpt: str = "", to: str = BOB, sender: str = "ann@example.com") -> str:
    assert (await client.say(f"MAIL FROM:<{sender}> {mail}".strip())).startswith("250")
    assert (await client.say(f"RCPT TO:<{to}> {rcpt}".strip())).startswith("250")
    assert (await client.say("DATA")).startswith("354")
    client.writer.write(
        f"From: {sender}\r\nTo: {to}\r\nMessage-ID: <1@example.com>\r\nSubject: hi\r\n\r\nthe text\r\n.\r\n".encode()
    )
    reply: str = await client.reply()
    return reply


async def test_a_refused_recipient_is_returned_to_its_sender_as_a_report(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**raw(sandbox.url))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(REFUSED)
    reply = await asked(client, mail="RET=HDRS ENVID=QQ+2B1", rcpt="ORCPT=rfc822;Bob+2Bx@old.example NOTIFY=FAILURE")
    assert reply.startswith("250")
    await eventually(lambda: reports(sandbox))

    ((to, report),) = reports(sandbox)
    assert to == ("ann@example.com",)
    assert report["From"] == "Mail Delivery System <ann@example.com>"
    assert (report["To"], report["Auto-Submitted"]) == ("ann@example.com", "auto-replied")
    about, bob = fields(report)
    assert (about["Reporting-MTA"], about["Original-Envelope-Id"]) == ("dns; bridge.example", "QQ+1")
    assert bob["Final-Recipient"] == "rfc822; bob@example.org"
    assert bob["Original-Recipient"] == "rfc822; Bob+x@old.example"
    assert (bob["Action"], bob["Status"]) == ("failed", "5.6.0")
    assert bob["Diagnostic-Code"].startswith("smtp; 554 5.6.0 Message refused by the mail service")
    assert bob["Remote-MTA"] == "dns; 127.0.0.1"
    returned = [part.get_content_type() for part in report.iter_parts()]
    assert returned == ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    assert "the text" not in report.as_string()
    assert all_failures(email.message_from_bytes(report.as_bytes()))[1] == {b"Bob+x@old.example"}
    await eventually(lambda: _are(daemon, {BOB: "bounced", "ann@example.com": "sent"}))


async def test_a_message_of_which_one_was_sent_and_one_refused_at_once_is_told_of_the_one(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    variables = rest(sandbox.url, SMTP_BRIDGE_BOUNCE__FROM="Postmaster <bounce@example.com>")
    daemon = await start_daemon(**variables)
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(REFUSED)
    content = b"From: ann@example.com\r\nSubject: x\r\n\r\nx\r\n"  # nobody in To: a call for each

    assert (await client.send(BOB, EVE, content=content)).startswith("250")
    await eventually(lambda: len(sandbox.messages) == 2)
    report = sandbox.messages[-1]
    assert report.recipients == ("ann@example.com",)
    assert report.sender == "bounce@example.com"
    assert "bob@example.org" in report.payload["body"]
    assert "eve@example.org" not in report.payload["body"]


@pytest.mark.parametrize(
    ("sender", "notify", "told"),
    [
        ("ann@example.com", "", 1),
        ("ann@example.com", "NOTIFY=FAILURE,DELAY", 1),
        ("ann@example.com", "NOTIFY=NEVER", 0),
        ("ann@example.com", "NOTIFY=SUCCESS", 0),
        ("ann@example.com", "NOTIFY=DELAY", 0),
        ("", "", 0),
        ("", "NOTIFY=FAILURE", 0),
    ],
)
async def test_who_is_told_is_for_the_client_to_say_and_the_null_sender_never_is(
    sender: str, notify: str, told: int, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**raw(sandbox.url))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(REFUSED)
    assert (await asked(client, rcpt=notify, sender=sender)).startswith("250")

    async def settled() -> bool:
        rows = await daemon.spool.list_messages(status="failed")
        return bool(rows) and rows[0]["resolved_at"] is not None

    await eventually(settled)
    await eventually(lambda: len(reports(sandbox)) == told)
    assert len(await daemon.spool.list_messages()) == 1 + told


@pytest.mark.parametrize("mode", ["auto", "queue"])
async def test_a_success_is_told_as_relayed_where_that_was_asked_for(
    mode: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**raw(sandbox.url, SMTP_BRIDGE_RELAY__MODE=mode))
    client = await connect(daemon.listeners[0].port)
    assert (await asked(client, rcpt="NOTIFY=SUCCESS,FAILURE")).startswith("250 2.0.0 Ok: ")
    await eventually(lambda: reports(sandbox))

    ((_, report),) = reports(sandbox)
    _, bob = fields(report)
    assert (bob["Action"], bob["Status"]) == ("relayed", "2.0.0")
    await asked(client)
    await eventually(lambda: len(sandbox.messages) == 3)
    assert len(reports(sandbox)) == 1


async def test_a_late_message_is_told_once_and_its_expiry_with_the_last_attempts_own_status(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    clock = FakeClock()
    daemon = await start_daemon(
        clock,
        **raw(
            sandbox.url,
            SMTP_BRIDGE_RETRY__MAXIMUM="30m",
            SMTP_BRIDGE_RETRY__JITTER="0",
            SMTP_BRIDGE_RETRY__EXPIRE="1d",
            SMTP_BRIDGE_BREAKER__FAILURES="1000000",
        ),
    )
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=503, recipient=BOB))
    assert (await asked(client)).startswith("250")

    async def hours(number: float) -> None:
        end = clock.now() + number * 3600
        while clock.now() < end:
            await eventually(lambda: _quiet(daemon, clock))
            due = await daemon.spool.next_due()
            clock.advance(max(due - clock.now(), 1.0) if due else 600.0)
            daemon.runner.wake()
            daemon.bounces.wake()

    await hours(5)
    await eventually(lambda: reports(sandbox))
    ((_, report),) = reports(sandbox)
    _, bob = fields(report)
    assert (bob["Action"], bob["Status"]) == ("delayed", "4.3.2")
    assert "Will-Retry-Until" in bob
    await hours(18)
    assert len(reports(sandbox)) == 1
    await hours(2)
    await eventually(lambda: len(reports(sandbox)) == 2)

    _, bob = fields(reports(sandbox)[1][1])
    assert (bob["Action"], bob["Status"]) == ("failed", "5.3.2")
    assert (await statuses(daemon))[BOB] == "expired"


async def _quiet(daemon: Any, clock: FakeClock) -> bool:
    due = await daemon.spool.next_due()
    return not daemon.runner._works and (due is None or due > clock.now())


async def test_a_notice_that_fails_itself_causes_no_other(sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    daemon = await start_daemon(**raw(sandbox.url))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=422))
    assert (await asked(client)).startswith("250")

    async def both_failed() -> bool:
        rows = await daemon.spool.list_messages(status="failed")
        return len(rows) == 2 and all(row["resolved_at"] is not None for row in rows)

    await eventually(both_failed)
    rows = await daemon.spool.list_messages()
    assert sorted(row["kind"] for row in rows) == ["dsn", "mail"]
    assert sandbox.messages == []


async def test_a_report_of_another_system_that_fails_causes_no_other(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**raw(sandbox.url))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(REFUSED)
    for field in (
        b"Auto-Submitted: auto-replied",
        b"Content-Type: multipart/report; report-type=delivery-status; boundary=b",
    ):
        content = b"From: mta@elsewhere.example\r\n" + field + b"\r\nSubject: x\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"
        assert (await client.send(BOB, content=content)).startswith("250")
    await eventually(lambda: _all_over(daemon, 2))

    assert sandbox.messages == []


@pytest.mark.parametrize("kind", ["brevo", "mailersend"])
async def test_where_an_api_takes_no_report_its_text_is_sent(
    kind: str, sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(
        SMTP_BRIDGE_PROVIDER__KIND=kind,
        SMTP_BRIDGE_PROVIDER__API_KEY=KEY,
        SMTP_BRIDGE_PROVIDER__URL=sandbox.twin_url(kind),
        SMTP_BRIDGE_RELAY__MODE="queue",
    )
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=400 if kind == "brevo" else 422, provider=kind, recipient=BOB))
    await asked(client)
    await eventually(lambda: any(m.recipients == ("ann@example.com",) for m in sandbox.received(kind)))

    report = next(m for m in sandbox.received(kind) if m.recipients == ("ann@example.com",))
    assert report.mail is not None
    assert BOB in report.mail.text


async def test_a_report_too_large_for_the_provider_goes_with_the_header_alone(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**raw(sandbox.url, SMTP_BRIDGE_PROVIDER__MAX_SIZE="300KiB"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(REFUSED)
    content = b"From: ann@example.com\r\nSubject: x\r\n\r\n" + (b"x" * 998 + b"\r\n") * 306
    assert (await client.send(BOB, content=content)).startswith("250")
    await eventually(lambda: reports(sandbox))

    ((_, report),) = reports(sandbox)
    assert [part.get_content_type() for part in report.iter_parts()][2] == "text/rfc822-headers"


async def test_a_smarthost_that_offers_dsn_is_asked_what_the_client_asked(
    start_daemon: Any, connect: Any, tmp_path: Any
) -> None:
    next_hop = await start_daemon(SMTP_BRIDGE_PROVIDER__KIND="capture")
    envelopes = []
    submit = next_hop.submission.submit

    def watched(envelope: Any, *args: Any, **named: Any) -> Any:
        envelopes.append(envelope)
        return submit(envelope, *args, **named)

    next_hop.submission.submit = watched
    daemon = await start_daemon(
        STATE_DIRECTORY=str(tmp_path / "other"),
        SMTP_BRIDGE_PROVIDER__KIND="smtp",
        SMTP_BRIDGE_PROVIDER__HOST="127.0.0.1",
        SMTP_BRIDGE_PROVIDER__PORT=str(next_hop.listeners[0].port),
        SMTP_BRIDGE_PROVIDER__TLS="none",
    )
    client = await connect(daemon.listeners[0].port)
    reply = await asked(
        client, mail="RET=HDRS ENVID=QQ+2B1", rcpt="NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bx@old.example"
    )

    assert reply.startswith("250 2.0.0 Ok: sent")
    (envelope,) = envelopes
    assert (envelope.ret, envelope.envid) == ("HDRS", "QQ+2B1")
    assert envelope.wish(BOB) == Wish("SUCCESS,FAILURE", "rfc822;b+2Bx@old.example")
    await eventually(lambda: _all_over(daemon, 1))  # "relayed" is the next system's to say


async def test_capture_keeps_a_body_also_where_its_success_is_told(start_daemon: Any, connect: Any) -> None:
    daemon = await start_daemon(SMTP_BRIDGE_PROVIDER__KIND="capture")
    client = await connect(daemon.listeners[0].port)
    assert (await asked(client, rcpt="NOTIFY=SUCCESS")).startswith("250 2.0.0 Ok: sent")
    await eventually(lambda: _all_over(daemon, 2))

    assert all(row["has_body"] for row in await daemon.spool.list_messages())


async def test_a_webhook_that_hangs_keeps_no_alert_waiting(sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    import asyncio

    async with Hook(200) as hook:
        held: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda reader, writer: held.append(writer), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        daemon = await start_daemon(
            **raw(
                sandbox.url,
                SMTP_BRIDGE_BOUNCE__FROM="off",
                SMTP_BRIDGE_BOUNCE__WEBHOOK=f"http://127.0.0.1:{port}/",
                SMTP_BRIDGE_ALERT__WEBHOOK=hook.url,
                SMTP_BRIDGE_ALERT__DISK_FREE="1000000GiB",
            )
        )
        client = await connect(daemon.listeners[0].port)
        sandbox.fail(REFUSED)
        for _ in range(3):
            await asked(client)
        await daemon.housekeeping.look()
        await eventually(lambda: hook.requests, 5)
        silent.close()
        for writer in held:
            writer.close()


async def test_the_postmaster_gets_a_copy_and_what_cannot_be_returned(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(**raw(sandbox.url, SMTP_BRIDGE_BOUNCE__POSTMASTER="post@example.com"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(REFUSED)
    await asked(client)
    await eventually(lambda: len(reports(sandbox)) == 2)
    assert sorted(to for to, _ in reports(sandbox)) == [("ann@example.com",), ("post@example.com",)]
    await asked(client, sender="")
    await eventually(lambda: len(reports(sandbox)) == 3)
    assert reports(sandbox)[2][0] == ("post@example.com",)
    sandbox.fail(Failure(status=422, recipient="ann@example.com"))
    await asked(client)
    await eventually(lambda: len(reports(sandbox)) == 5)

    assert [to for to, _ in reports(sandbox)[3:]] == [("post@example.com",)] * 2  # the copy, and the notice that failed
    sandbox.fail(Failure(status=422, recipient="post@example.com"))
    before = len(await daemon.spool.list_messages())
    await asked(client, sender="")
    await eventually(lambda: _all_over(daemon, before + 2))  # the mail and its notice, and nothing about that


async def _are(daemon: Any, wanted: dict[str, str]) -> bool:
    return await statuses(daemon) == wanted


async def _all_over(daemon: Any, count: int) -> bool:
    rows = await daemon.spool.list_messages()
    return len(rows) == count and all(row["resolved_at"] is not None for row in rows)


async def test_a_sender_that_is_the_postmaster_is_told_once(sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    daemon = await start_daemon(**raw(sandbox.url, SMTP_BRIDGE_BOUNCE__POSTMASTER="Ann@example.com"))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(REFUSED)
    await asked(client)

    await eventually(lambda: _all_over(daemon, 2))


@pytest.mark.parametrize(("off", "told"), [("off", 0), ("", 1)])
async def test_with_off_nobody_is_told(off: str, told: int, sandbox: Sandbox, start_daemon: Any, connect: Any) -> None:
    daemon = await start_daemon(**raw(sandbox.url, SMTP_BRIDGE_BOUNCE__FROM=off))
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(REFUSED)
    await asked(client)
    await eventually(lambda: _all_over(daemon, 1 + told))


async def test_a_sender_that_is_not_ours_is_not_told_and_one_that_logged_in_is(
    sandbox: Sandbox, start_daemon: Any, connect: Any, secret_hash: str
) -> None:
    daemon = await start_daemon(
        **raw(
            sandbox.url,
            SMTP_BRIDGE_BOUNCE__SENDERS="*@example.com",
            SMTP_BRIDGE_SMTP__LISTENER__AUTH_WITHOUT_TLS="true",
            SMTP_BRIDGE_USER__NAME="shop",
            SMTP_BRIDGE_USER__PASSWORD_HASH=secret_hash,
        )
    )
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(REFUSED)
    await asked(client, sender="forged@elsewhere.example")
    await eventually(lambda: _all_over(daemon, 1))
    plain = base64.b64encode(b"\0shop\0secret").decode()
    assert (await client.say(f"AUTH PLAIN {plain}")).startswith("235")
    await asked(client, sender="shop@elsewhere.example")
    await eventually(lambda: reports(sandbox))

    assert [to for to, _ in reports(sandbox)] == [("shop@elsewhere.example",)]


class Hook:
    """A web address that notes what it is sent, and answers with the statuses it is given, the last one for ever."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[tuple[dict[str, str], bytes]] = []

    async def __aenter__(self) -> Hook:
        import asyncio

        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/hook"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()

    async def _serve(self, reader: Any, writer: Any) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        self.requests.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


def _passes_until(clock: FakeClock, condition: Callable[[], bool]) -> bool:
    """Whether it is so; if not, half a minute passes: a post that failed is waited for from when that was noted, which is not
    seen from outside."""
    if condition():
        return True
    clock.advance(30)
    return False


async def _no_post_is_due(daemon: Any) -> bool:
    return list(await daemon.spool.due_posts(now=daemon.clock.now())) == []


SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


async def test_a_final_failure_is_posted_with_a_signature_and_again_until_it_is_taken(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    clock = FakeClock()
    async with Hook(500, 503, 204) as hook:
        daemon = await start_daemon(
            clock,
            **raw(
                sandbox.url,
                SMTP_BRIDGE_BOUNCE__FROM="off",
                SMTP_BRIDGE_BOUNCE__WEBHOOK=hook.url,
                SMTP_BRIDGE_BOUNCE__WEBHOOK_SECRET=SECRET,
            ),
        )
        client = await connect(daemon.listeners[0].port)
        sandbox.fail(REFUSED)
        reply = await asked(client, mail="ENVID=order-1")
        await eventually(lambda: len(hook.requests) == 1)
        await eventually(lambda: _passes_until(clock, lambda: len(hook.requests) == 3))
        clock.advance(86400)
        await eventually(lambda: _no_post_is_due(daemon))

    headers, body = hook.requests[0]
    assert len(hook.requests) == 3
    assert {h["webhook-id"] for h, _ in hook.requests} == {headers["webhook-id"]}
    for h, b in hook.requests:
        signed = f"{h['webhook-id']}.{h['webhook-timestamp']}.".encode() + b
        digest = hmac.new(base64.b64decode(SECRET.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        assert h["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    event = orjson.loads(body)
    assert event["type"] == "message.failed"
    assert reply.endswith(event["data"]["queue_id"])
    assert (event["data"]["reverse_path"], event["data"]["envid"]) == ("ann@example.com", "order-1")
    (failed,) = event["data"]["recipients"]
    assert (failed["address"], failed["status"], failed["enhanced"]) == (BOB, "bounced", "5.6.0")


async def test_a_report_reaches_its_reader_also_through_an_api_that_takes_no_mime(
    sandbox: Sandbox, start_daemon: Any, connect: Any
) -> None:
    daemon = await start_daemon(
        SMTP_BRIDGE_PROVIDER__KIND="postmark",
        SMTP_BRIDGE_PROVIDER__API_KEY=KEY,
        SMTP_BRIDGE_PROVIDER__URL=sandbox.twin_url("postmark"),
        SMTP_BRIDGE_RELAY__MODE="queue",
    )
    client = await connect(daemon.listeners[0].port)
    sandbox.fail(Failure(status=422, provider="postmark", recipient=BOB))
    await asked(client)
    await eventually(lambda: sandbox.received("postmark"))

    (report,) = sandbox.received("postmark")
    assert report.recipients == ("ann@example.com",)
    assert report.mail is not None
    assert "bob@example.org" in report.mail.text
    await eventually(lambda: _are(daemon, {BOB: "bounced", "ann@example.com": "sent"}))
