"""Provider events from end to end: mail goes out through a provider's twin, what became of it comes in as a signed webhook."""

# ruff: noqa: F811 fixtures
from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from bridge import metrics
from bridge.budget import MemoryBudget
from bridge.config.load import load_settings
from bridge.providers.events import HOOKS
from bridge.sandbox import Sandbox
from bridge.spool.base import Result, SpoolFull
from bridge.web import webhooks
from bridge.web.callers import network_of
from bridge.web.webhooks import COPIES, UNVERIFIED_S
from bridge.wiring import ProviderError
from tests.conftest import environment
from tests.delivery.conftest import FakeClock, every_line
from tests.e2e.conftest import KEY, connect, eventually, sandbox, statuses  # noqa: F401 fixtures
from tests.e2e.test_catalogue import SETTINGS as ACCOUNTS
from tests.e2e.test_catalogue import settings as twin
from tests.e2e.test_notices import Hook as Receiver
from tests.e2e.test_notices import _passes_until
from tests.providers.events import samples, signing
from tests.providers.events.signing import SECRET, TOPIC, URL, WHSEC, sign
from tests.spool.support import message

BOB, EVE = "bob@example.org", "eve@example.org"
MAIL = b"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: A subject of ten or more\r\n\r\nA text of ten or more.\r\n"
WANTED: Mapping[str, Mapping[str, str]] = {
    "sendgrid": {"WEBHOOK_KEY": signing.public(signing.ec_key())},
    "postal": {"WEBHOOK_KEY": signing.public(signing.rsa_key())},
    "ses": {"WEBHOOK_TOPIC": TOPIC},
    "resend": {"WEBHOOK_SECRET": WHSEC},
    "ahasend": {"WEBHOOK_SECRET": signing.AHA},
    "mandrill": {"WEBHOOK_SECRET": SECRET, "WEBHOOK_URL": URL},
}


class Bridge:
    """A daemon with one provider, a client of each side, and the provider's own side."""

    def __init__(self, kind: str, daemon: Any, http: httpx.AsyncClient, smtp: Any, sandbox: Sandbox) -> None:
        self.kind, self.daemon, self.http, self.smtp, self.sandbox = kind, daemon, http, smtp, sandbox

    async def sent(self, *recipients: str, content: bytes = MAIL) -> str:
        """Send a mail; its queue id."""
        assert (await self.smtp.send(*(recipients or (BOB,)), content=content)).startswith("250")
        await eventually(self._all_sent)
        rows = await self.daemon.spool.list_messages()
        return str(rows[0]["queue_id"])

    async def _all_sent(self) -> bool:
        return set((await statuses(self.daemon)).values()) == {"sent"}

    async def told(self, told: Any, *, signed_at: float = 0.0, to: str = "", **more: Any) -> httpx.Response:
        """The provider tells this."""
        headers, body = sign(self.kind, told, signed_at or self.daemon.clock.now())
        headers.setdefault("content-type", "application/json")
        return await self.http.post(f"/webhooks/{to or self.kind}", content=body, headers={**headers, **more})

    async def about(self, told: Any) -> Any:
        """A sample with the id that the provider gave the mail."""
        rows = await self.daemon.spool.list_messages()
        found = next(r["provider_message_id"] for row in rows for r in row["recipients"] if r["address"] == BOB)
        raw = orjson.dumps(told).decode()
        return orjson.loads(raw.replace(samples.ID, found.strip("<>") if self.kind == "mailgun" else found))

    async def bounce(self) -> httpx.Response:
        return await self.told(await self.about(samples.hard_bounce(self.kind)))

    def reports(self) -> list[Any]:
        return [r.mail for r in self.sandbox.received(self.kind) if "ann@example.com" in r.mail.recipients]

    async def events(self, queue_id: str) -> list[str]:
        shown = await self.daemon.spool.show(queue_id)
        return [event["event"] for event in shown["events"]]


@pytest.fixture
async def bridge(start_web: Any, connect: Any, sandbox: Sandbox, tmp_path: Path) -> Any:
    async def start(kind: str = "postmark", clock: Any = None, **more: str) -> Bridge:
        wanted = WANTED.get(kind, {"WEBHOOK_SECRET": SECRET})
        wanted = {f"SMTP_BRIDGE_PROVIDER__{name}": value for name, value in wanted.items()}
        daemon, http = await start_web(clock=clock, **twin(kind, sandbox, tmp_path), **{**wanted, **more})
        if daemon.web.webhooks:
            daemon.web.webhooks.fetch = amazon
        return Bridge(kind, daemon, http, await connect(daemon.listeners[0].port), sandbox)

    return start


async def amazon(url: str) -> bytes:
    assert url == signing.CERTIFICATE
    return signing.certificate()


def counts(response: httpx.Response) -> tuple[int, int, int]:
    assert response.status_code == 200, response.text
    found = response.json()
    return found["events"], found["duplicates"], found["unjoined"]


async def test_every_provider_s_bounce_finds_its_mail_by_the_id_that_its_api_gave(
    start_web: Any, connect: Any, sandbox: Sandbox
) -> None:
    """One mail through each; the reports all go through the first."""
    daemon, http = await start_web(config=every_kind(sandbox))
    daemon.web.webhooks.fetch = amazon
    smtp = await connect(daemon.listeners[0].port)
    people = {kind: f"bob@{kind}.example" for kind in HOOKS}
    for bob in people.values():
        assert (await smtp.send(bob, content=MAIL.replace(BOB.encode(), bob.encode()))).startswith("250")
    await eventually(lambda: _count(daemon, "sent", len(HOOKS)))
    rows = await daemon.spool.list_messages()
    ids = {one["address"]: one["provider_message_id"] for row in rows for one in row["recipients"]}
    for kind, bob in people.items():
        raw = orjson.dumps(samples.hard_bounce(kind)).decode()
        message_id = ids[bob].strip("<>") if kind == "mailgun" else ids[bob]
        headers, body = sign(kind, orjson.loads(raw.replace(samples.ID, message_id).replace(BOB, bob)), time.time())
        answers = [await http.post(f"/webhooks/{kind}", content=body, headers=headers) for _ in range(2)]
        assert [counts(answer) for answer in answers] == [(1, 0, 0), (0, 1, 0)], kind
    await eventually(lambda: _count(daemon, "bounced", len(HOOKS)))
    await eventually(lambda: _count(daemon, "sent", len(HOOKS)))

    found = [r.mail for r in sandbox.received("sendgrid") if "ann@example.com" in r.mail.recipients]
    assert sorted(bob for mail in found for bob in people.values() if bob in mail.text) == sorted(people.values())
    assert set(await daemon.spool.suppressions()) == set(people.values())


async def _count(daemon: Any, status: str, count: int) -> bool:
    rows = await daemon.spool.list_messages()
    return sum(one["status"] == status for row in rows for one in row["recipients"]) == count


@pytest.mark.parametrize("kind", ["postmark", "mailgun"])
async def test_a_late_hard_bounce_is_told_once_and_never_mailed_again(bridge: Any, kind: str) -> None:
    running = await bridge(kind)
    queue_id = await running.sent()

    assert counts(await running.bounce()) == (1, 0, 0)
    await eventually(running.reports)
    assert counts(await running.bounce()) == (0, 1, 0)
    if delivered := [told for of, told, what, *_ in samples.SAMPLES if (of, what) == (kind, "delivered")]:
        assert counts(await running.told(await running.about(delivered[0]))) == (1, 0, 0)
    await eventually(lambda: _is(running, {BOB: "bounced", "ann@example.com": "sent"}))
    assert len(running.reports()) == 1
    (report,) = running.reports()
    text = base64.b64decode(report.raw).decode() or report.text
    assert BOB in text
    assert await running.events(queue_id) == ["sent", "bounced", *["delivered"] * bool(delivered)]
    (row,) = await running.daemon.spool.list_messages(status="failed")
    assert row["queue_id"] == queue_id
    assert await running.smtp.say("MAIL FROM:<ann@example.com>")
    assert (await running.smtp.say(f"RCPT TO:<{BOB.upper()}>")).startswith("550 5.7.1 Recipient is suppressed")


async def _is(running: Bridge, wanted: dict[str, str]) -> bool:
    return await statuses(running.daemon) == wanted


async def test_the_report_says_what_the_provider_said_and_returns_what_is_known(bridge: Any) -> None:
    running = await bridge("mailgun")
    await running.sent()
    await running.bounce()
    await eventually(running.reports)

    raw = base64.b64decode(running.reports()[0].raw).decode()
    assert "Final-Recipient: rfc822; bob@example.org" in raw
    assert "Action: failed" in raw
    assert "Status: 5.1.1" in raw
    assert "Diagnostic-Code: smtp; 550 5.1.1 no such user" in raw
    assert "text/rfc822-headers" in raw
    assert "Subject: A subject of ten or more" in raw
    assert "Message-ID: <" in raw.split("text/rfc822-headers", 1)[1]


@pytest.mark.parametrize("mode", ["auto", "queue"])
async def test_delivered_is_noted_and_a_bounce_after_it_still_told(bridge: Any, mode: str) -> None:
    running = await bridge("postmark", SMTP_BRIDGE_RELAY__MODE=mode)
    queue_id = await running.sent()

    assert counts(await running.told(await running.about(samples.told("postmark", "delivered")))) == (1, 0, 0)
    assert await statuses(running.daemon) == {BOB: "delivered"}
    assert counts(await running.bounce()) == (1, 0, 0)
    await eventually(running.reports)
    assert await running.events(queue_id) == ["sent", "delivered", "bounced"]


async def test_what_may_still_arrive_changes_nothing(bridge: Any) -> None:
    running = await bridge("brevo")
    queue_id = await running.sent()
    for event in ("sent", "deferred", "opened", "clicked"):
        assert counts(await running.told(await running.about(samples.told("brevo", event)))) == (1, 0, 0)
    soft = next(
        told for of, told, what, final, _ in samples.SAMPLES if (of, what, final) == ("brevo", "bounced", False)
    )
    assert counts(await running.told(await running.about(soft))) == (1, 0, 0)

    assert await statuses(running.daemon) == {BOB: "sent"}
    assert await running.events(queue_id) == ["sent", "sent", "deferred", "opened", "clicked", "bounced"]
    assert not running.reports()
    raw = [orjson.loads(one["raw"]) for one in await running.daemon.spool.provider_events(queue_id)]
    assert [one["event"] for one in raw] == ["request", "deferred", "unique_opened", "click", "soft_bounce"]


@pytest.mark.parametrize(("event", "words"), [("complained", "complained"), ("unsubscribed", "unsubscribed")])
async def test_who_wants_no_more_gets_no_more(bridge: Any, event: str, words: str) -> None:
    running = await bridge("postmark")
    await running.sent()
    await running.told(await running.about(samples.told("postmark", event)))

    assert await statuses(running.daemon) == {BOB: "sent"}
    await running.smtp.say("MAIL FROM:<ann@example.com>")
    assert await running.smtp.say(f"RCPT TO:<{BOB}>") == f"550 5.7.1 Recipient is suppressed: the recipient {words}"
    (row,) = await running.daemon.spool.list_suppressions()
    assert (row["address"], row["provider"]) == (BOB, "postmark")


async def test_suppressing_can_be_left_out(bridge: Any) -> None:
    running = await bridge("postmark", SMTP_BRIDGE_EVENTS__SUPPRESS="false")
    await running.sent()
    await running.bounce()

    assert not await running.daemon.spool.suppressions()
    await eventually(running.reports)


async def test_the_failure_of_a_report_of_ours_causes_no_other(bridge: Any) -> None:
    running = await bridge("postmark")
    await running.sent()
    await running.bounce()
    await eventually(running.reports)
    await eventually(lambda: _is(running, {BOB: "bounced", "ann@example.com": "sent"}))
    rows = await running.daemon.spool.list_messages()
    ours = next(r for row in rows if row["kind"] == "dsn" for r in row["recipients"])
    raw = orjson.dumps(samples.hard_bounce("postmark")).decode().replace('"ID":4', '"ID":5')
    told = raw.replace(samples.ID, ours["provider_message_id"]).replace(BOB, "ann@example.com")

    assert counts(await running.told(orjson.loads(told))) == (1, 0, 0)
    await eventually(lambda: _is(running, {BOB: "bounced", "ann@example.com": "bounced"}))
    await eventually(lambda: _settled(running))


async def test_one_that_finds_its_message_later_is_told_once_more_with_its_id(bridge: Any) -> None:
    async with Receiver(200) as receiver:
        running = await bridge("postmark", SMTP_BRIDGE_EVENTS__WEBHOOK=receiver.url)
        await running.told(samples.hard_bounce("postmark"))
        now = running.daemon.clock.now()
        mail = replace(message(BOB), created_at=now, expires_at=now + 1000)
        result = Result(status="sent", provider="postmark", provider_message_id=samples.ID)
        await running.daemon.spool.put_history(mail, {BOB: result}, durable=True)
        await running.daemon.housekeeping.house()
        await running.daemon.housekeeping.house()
        await eventually(lambda: len(receiver.requests) == 2)

    told = [orjson.loads(body)["data"] for _, body in receiver.requests]
    assert [one["provider"] for one in told] == ["postmark", "postmark"]
    (first,), (second,) = (one["events"] for one in told)
    assert (first["queue_id"], first["status"]) == (None, None)
    assert (second["queue_id"], second["status"], second["suppressed"]) == (mail.queue_id, "bounced", True)
    assert first["id"] == second["id"]


async def test_a_late_bounce_is_counted(bridge: Any) -> None:
    running = await bridge("postmark")
    queue_id = await running.sent()
    before = metrics.bounced.values.get(("postmark",), 0)
    await running.bounce()
    await running.bounce()  # told again
    numbers = await running.daemon.spool.numbers(now=running.daemon.clock.now())

    assert metrics.bounced.values[("postmark",)] == before + 1
    assert sum(minute["bounced"] for minute in numbers["minutes"]) == 1
    (error,) = numbers["errors"]
    assert (error["queue_id"], error["address"], error["provider"]) == (queue_id, BOB, "postmark")
    assert (error["status"], error["enhanced"]) == ("bounced", "5.1.1")
    await eventually(lambda: _settled(running))
    assert len(await running.daemon.spool.list_messages()) == 2  # the mail and its bounce


async def _settled(running: Bridge) -> bool:
    return not await running.daemon.spool.notices()


# --- who may call


def every_kind(sandbox: Sandbox | None = None) -> str:
    """The settings of a daemon with a provider of each; mail to `KIND.example` goes through that."""
    tables = []
    for kind in HOOKS:
        given = {
            "KIND": kind,
            "URL": sandbox.twin_url(kind) if sandbox else "http://127.0.0.1:1",
            **ACCOUNTS.get(kind, {"API_KEY": KEY}),
        }
        given |= WANTED.get(kind, {"WEBHOOK_SECRET": SECRET})
        tables.append("[[provider]]\n" + "".join(f'{name.lower()} = "{value}"\n' for name, value in given.items()))
        tables.append(f'[[route]]\nrecipient = "*@{kind}.example"\nproviders = ["{kind}"]\n')
    return "".join(tables)


async def test_what_is_forged_or_old_is_refused_and_changes_nothing(start_web: Any) -> None:
    daemon, http = await start_web(config=every_kind())
    daemon.web.webhooks.fetch = amazon
    found: dict[str, list[int]] = {}
    for kind in HOOKS:
        told, now = samples.hard_bounce(kind), time.time()
        headers, body = sign(kind, told, now)
        forged = body.replace(b'ignature":"', b'ignature":"0')
        old_headers, old = sign(kind, told, now - (3601 if kind == "ses" else 301))
        calls = (
            ({}, forged, "?secret=0123456789abcdef"),
            (headers, body.replace(b"bob", b"eve"), ""),
            (old_headers, old, ""),
            (headers, body, ""),
        )
        answers = [await http.post(f"/webhooks/{kind}{end}", content=c, headers=h) for h, c, end in calls]
        found[kind] = [answer.status_code for answer in answers]

    stamped = {"sendgrid", "resend", "ahasend", "lettermint", "ses"}
    whole = {"mailersend", "mailtrap", "mandrill", "postal"} | stamped
    assert found == {
        kind: [401, 401 if kind in whole else 200, 401 if kind in stamped | {"mailgun"} else 200, 200] for kind in HOOKS
    }


async def test_what_is_no_webhook_is_told_so(bridge: Any) -> None:
    running = await bridge("postmark", SMTP_BRIDGE_EVENTS__MAX_SIZE="10KiB")
    secret = {"x-webhook-secret": SECRET}

    async def stream() -> Any:
        for _ in range(12):
            yield b"[" * 1024

    too_large = await running.http.post("/webhooks/postmark", content=b" " * 10241, headers=secret)
    streamed = await running.http.post("/webhooks/postmark", content=stream(), headers=secret)
    malformed = await running.http.post("/webhooks/postmark", content=b"{", headers=secret)
    unknown = await running.http.post("/webhooks/nobody", content=b"{}", headers=secret)

    found = [response.status_code for response in (too_large, streamed, malformed, unknown)]
    assert found == [413, 413, 400, 404]
    assert (await running.http.head("/webhooks/postmark")).status_code == 200
    assert (await running.http.head("/webhooks/nobody")).status_code == 404
    assert (await running.http.get("/webhooks/postmark")).status_code == 405
    asked = await running.http.post("/webhooks/postmark", content=b"{}")
    assert (asked.status_code, asked.headers["www-authenticate"]) == (401, 'Basic realm="webhooks"')


async def test_of_who_has_not_the_secret_no_body_is_read(bridge: Any) -> None:
    running = await bridge("postmark")
    reader, writer = await asyncio.open_connection("127.0.0.1", running.daemon.http.port)
    writer.write(b"POST /webhooks/postmark HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()

    assert line.startswith(b"HTTP/1.1 401")


async def begun(
    running: Bridge, octets: int, of: int, *, client: str = "127.0.0.1"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A call whose body has come so far."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.daemon.http.port, local_addr=(client, 0))
    head = f"POST /webhooks/{running.kind} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {of}\r\n\r\n"
    writer.write(head.encode() + b"x" * octets)
    return reader, writer


async def test_bodies_have_a_bound_together(bridge: Any) -> None:
    running = await bridge("mailersend")
    running.daemon.web.webhooks.budget = MemoryBudget(3000 * COPIES, wait_s=0.05)
    _, writer = await begun(running, 2500, 2501)
    await eventually(lambda: running.daemon.web.webhooks.budget.used == 2500 * COPIES)
    refused = await running.told(samples.hard_bounce("mailersend") | {"filler": "x" * 1000})
    writer.close()
    await eventually(lambda: running.daemon.web.webhooks.budget.used == 0)

    assert refused.status_code == 503
    assert counts(await running.told(samples.hard_bounce("mailersend"))) == (1, 0, 1)


async def test_who_only_announces_a_body_holds_nothing(bridge: Any) -> None:
    running = await bridge("mailersend")
    running.daemon.web.webhooks.budget = MemoryBudget(300_000, wait_s=0)
    slow = [await begun(running, 0, 1 << 20) for _ in range(6)]
    await eventually(lambda: len(running.daemon.web.bodies) == 6)

    assert counts(await running.told(samples.hard_bounce("mailersend"))) == (1, 0, 1)
    for _, writer in slow:
        writer.close()


async def test_one_client_s_unverified_bodies_are_no_more_than_a_part(bridge: Any) -> None:
    running = await bridge("mailersend")
    webhooks = running.daemon.web.webhooks
    webhooks.max_size, webhooks.budget = 10_000, MemoryBudget(20 * 10_000 * COPIES, wait_s=0)
    slow = [await begun(running, 9000, 9001, client="127.0.0.2") for _ in range(5)]  # a quarter is five of the largest
    await eventually(lambda: webhooks.budget.used == 5 * 9000 * COPIES)
    reader, writer = await begun(running, 9000, 9000, client="127.0.0.2")
    told = samples.hard_bounce("mailersend") | {"filler": "x" * 8000}

    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 503 ")
    assert counts(await running.told(told)) == (1, 0, 1)
    for _, one in [*slow, (reader, writer)]:
        one.close()
    await eventually(lambda: webhooks.budget.used == 0)
    reader, writer = await begun(running, 9000, 9000, client="127.0.0.2")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_an_unverified_body_has_a_few_seconds(bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert UNVERIFIED_S == 10
    monkeypatch.setattr(webhooks, "UNVERIFIED_S", 0.05)
    running = await bridge("mailersend")
    reader, writer = await begun(running, 10, 1000)
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()

    assert line.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::/64"),
        ("2001:db8::ff:8", "2001:db8::/64"),
        ("unix", "unix"),
    ],
)
def test_a_client_is_its_address_or_its_network(host: str, network: str) -> None:
    assert network_of(host) == network


async def test_a_provider_without_a_secret_takes_nothing(start_web: Any, sandbox: Sandbox, tmp_path: Path) -> None:
    _, http = await start_web(**twin("postmark", sandbox, tmp_path))
    response = await http.post("/webhooks/postmark?secret=", content=b"{}")

    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_set_up")
    assert "webhook_secret" in response.json()["error"]["message"]


async def test_a_provider_is_found_by_its_name_and_by_its_kind_when_that_is_its_own(start_web: Any) -> None:
    one = '[[provider]]\nname = "{}"\nkind = "{}"\napi_key = "k"\nwebhook_secret = "0123456789abcdef"\n'
    config = one.format("a", "postmark") + one.format("b", "postmark") + one.format("c", "brevo")
    _, http = await start_web(config=config + '[[provider]]\nkind = "capture"\n')

    names = ("a", "b", "c", "brevo", "postmark", "capture")
    found = {name: (await http.head(f"/webhooks/{name}")).status_code for name in names}
    assert found == {"a": 200, "b": 200, "c": 200, "brevo": 200, "postmark": 404, "capture": 404}


async def test_a_key_that_is_none_is_told_at_the_start(start_web: Any, sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="provider 'sendgrid': webhook_key: not a public key"):
        await start_web(**twin("sendgrid", sandbox, tmp_path), SMTP_BRIDGE_PROVIDER__WEBHOOK_KEY="nonsense")


async def test_another_secret_holds_after_a_reload(bridge: Any, sandbox: Sandbox, tmp_path: Path) -> None:
    running = await bridge("postmark")
    again = twin("postmark", sandbox, tmp_path, SMTP_BRIDGE_PROVIDER__WEBHOOK_SECRET="another-secret-of-it")
    again["SMTP_BRIDGE_HTTP__ADDRESS"] = "127.0.0.1:0"
    await running.daemon.reload(load_settings(environ=environment(tmp_path, **again), cwd=tmp_path))
    told = samples.hard_bounce("postmark")

    assert (await running.told(told)).status_code == 401
    assert counts(await running.told(told, **{"x-webhook-secret": "another-secret-of-it"})) == (1, 0, 1)


# --- what cannot be joined, or kept


async def test_what_belongs_to_no_message_is_kept_and_counted(bridge: Any) -> None:
    running = await bridge("sendgrid")
    told = [{"event": "delivered", "email": f"r{n}@example.org", "sg_event_id": str(n)} for n in range(450)]
    before = metrics.provider_events_unjoined.values.get(("sendgrid",), 0)
    delivered = metrics.provider_events.values.get(("sendgrid", "delivered"), 0)

    assert counts(await running.told([*told, *told[:3]])) == (450, 3, 450)
    assert await running.daemon.spool.count_unjoined() == 450
    assert metrics.provider_events_unjoined.values[("sendgrid",)] - before == 450
    assert metrics.provider_events.values[("sendgrid", "delivered")] - delivered == 450
    (last,) = await running.daemon.spool.unjoined_events(limit=1)
    assert orjson.loads(last["raw"]) == told[-1]


async def test_what_is_older_than_the_history_is_not_believed(bridge: Any) -> None:
    """It may have been told, and forgotten."""
    running = await bridge("mailersend")
    old = {**samples.hard_bounce("mailersend"), "created_at": signing.iso(time.time() - 8 * 86400)}
    response = await running.told(old)

    assert counts(response) == (0, 0, 0)
    assert response.json()["old"] == 1


async def test_a_full_spool_is_told_to_the_provider(bridge: Any) -> None:
    running = await bridge("postmark")
    take = running.daemon.spool.take_events

    async def full(*args: Any, **kwargs: Any) -> Any:
        raise SpoolFull("no room")

    running.daemon.spool.take_events = full
    refused = await running.told(samples.hard_bounce("postmark"))
    running.daemon.spool.take_events = take

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
    assert counts(await running.told(samples.hard_bounce("postmark"))) == (1, 0, 1)


async def test_the_same_event_from_many_calls_at_once_is_one(bridge: Any) -> None:
    running = await bridge("postmark")
    await running.sent()
    found = await asyncio.gather(*(running.bounce() for _ in range(20)))

    assert sorted(counts(response) for response in found) == [(0, 1, 0)] * 19 + [(1, 0, 0)]
    await eventually(running.reports)
    await eventually(lambda: _is(running, {BOB: "bounced", "ann@example.com": "sent"}))
    assert len(running.reports()) == 1


async def test_a_subscription_of_amazon_is_confirmed(bridge: Any) -> None:
    running, visited = await bridge("ses"), []

    async def fetch(url: str) -> bytes:
        visited.append(url)
        return signing.certificate()

    running.daemon.web.webhooks.fetch = fetch
    headers, body = signing.confirmation(time.time())
    response = await running.http.post("/webhooks/ses", content=body, headers=headers)

    assert (response.status_code, visited) == (200, [signing.CERTIFICATE, signing.SUBSCRIBE])

    async def down(url: str) -> bytes:
        raise OSError("no route")

    running.daemon.web.webhooks.fetch = down
    again = await running.http.post("/webhooks/ses", content=body, headers=headers)
    assert again.status_code == 503


async def test_event_grid_gets_its_answer(bridge: Any) -> None:
    running = await bridge("azure")
    asked = [{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "C-1"}}]

    assert (await running.told(asked)).json() == {"validationResponse": "C-1"}


async def test_event_grid_may_send_its_events_as_cloud_events(bridge: Any) -> None:
    """https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md section 4"""
    running = await bridge("azure")
    asked = {"WebHook-Request-Origin": "eventgrid.azure.net", "WebHook-Request-Rate": "120"}
    answer = await running.http.options(f"/webhooks/azure?secret={SECRET}", headers=asked)
    queue_id = await running.sent()
    (told,) = await running.about(samples.told("azure", "delivered"))
    told = {"specversion": "1.0", "type": told.pop("eventType"), "time": "2026-11-24T20:15:00Z", **told}

    assert (answer.status_code, answer.headers["webhook-allowed-origin"]) == (200, "eventgrid.azure.net")
    assert answer.headers["webhook-allowed-rate"] == "*"
    assert (await running.http.options("/webhooks/azure?secret=other", headers=asked)).status_code == 401
    assert (await running.http.options(f"/webhooks/azure?secret={SECRET}")).status_code == 405
    assert counts(await running.told(told)) == (1, 0, 0)
    assert (await running.events(queue_id))[-1] == "delivered"


async def test_others_do_not_ask_first(bridge: Any) -> None:
    running = await bridge("postmark")
    answer = await running.http.options(
        f"/webhooks/postmark?secret={SECRET}", headers={"WebHook-Request-Origin": "eventgrid.azure.net"}
    )

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "webhook-allowed-origin" not in answer.headers


# --- to the operator's own address


async def test_events_are_told_on_signed_and_until_they_are_taken(bridge: Any) -> None:
    clock = FakeClock()
    async with Receiver(500, 200) as receiver:
        running = await bridge(
            clock=clock, SMTP_BRIDGE_EVENTS__WEBHOOK=receiver.url, SMTP_BRIDGE_EVENTS__WEBHOOK_SECRET=WHSEC
        )
        queue_id = await running.sent()
        delivered = await running.about(samples.told("postmark", "delivered"))
        assert counts(await running.told([delivered, delivered])) == (1, 1, 0)
        assert counts(await running.told(delivered)) == (0, 1, 0)
        await eventually(lambda: _passes_until(clock, lambda: len(receiver.requests) == 2))

    assert {headers["webhook-id"] for headers, _ in receiver.requests} == {receiver.requests[0][0]["webhook-id"]}
    headers, body = receiver.requests[-1]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(base64.b64decode(WHSEC.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    told = orjson.loads(body)
    assert (told["type"], told["data"]["provider"]) == ("provider.events", "postmark")
    (event,) = told["data"]["events"]
    assert (event["event"], event["queue_id"], event["recipient"]) == ("delivered", queue_id, BOB)
    assert (event["status"], event["suppressed"]) == ("delivered", False)
    assert event["raw"] == delivered


async def test_only_who_expects_events_pays_for_the_index(bridge: Any, sandbox: Sandbox, tmp_path: Path) -> None:
    running = await bridge("postmark")
    path = running.daemon.settings.spool_path
    with_it = _indexes(path)
    without = twin("postmark", sandbox, tmp_path, SMTP_BRIDGE_HTTP__ADDRESS="127.0.0.1:0")
    await running.daemon.reload(load_settings(environ=environment(tmp_path, **without), cwd=tmp_path))

    assert "recipient_provider_id" in with_it
    assert _indexes(path) == with_it - {"recipient_provider_id"}
    assert (await running.told(samples.hard_bounce("postmark"))).status_code == 404


def _indexes(path: Path) -> set[str]:
    with sqlite3.connect(path) as db:
        return {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}


async def test_a_late_bounce_is_posted_as_a_failure_and_logged(bridge: Any) -> None:
    with every_line() as logged:
        async with Receiver(200) as receiver:
            running = await bridge("postmark", SMTP_BRIDGE_BOUNCE__WEBHOOK=receiver.url)
            queue_id = await running.sent()
            await running.bounce()
            await eventually(lambda: receiver.requests)

    told = orjson.loads(receiver.requests[0][1])
    assert (told["type"], told["data"]["queue_id"]) == ("message.failed", queue_id)
    assert told["data"]["recipients"][0]["enhanced"] == "5.1.1"
    (line,) = [line for line in logged if line["event"] == "webhook.event"]
    assert (line["kind"], line["queue_id"], line["recipient"], line["status"]) == ("bounced", queue_id, BOB, "bounced")
    assert not [line for line in logged if SECRET in str(line)]


async def test_one_that_came_before_its_message_was_known_is_looked_at_again(bridge: Any) -> None:
    running = await bridge("postmark")
    assert counts(await running.told(samples.hard_bounce("postmark"))) == (1, 0, 1)
    now = running.daemon.clock.now()
    mail = replace(message(BOB), created_at=now, expires_at=now + 1000)
    result = Result(status="sent", provider="postmark", provider_message_id=samples.ID)
    await running.daemon.spool.put_history(mail, {BOB: result}, durable=True)
    await running.daemon.housekeeping.house()

    assert (await statuses(running.daemon))[BOB] == "bounced"
    assert BOB in await running.daemon.spool.suppressions()
    assert running.daemon.suppressions.refusal(BOB) is not None
    await eventually(lambda: _settled(running))
