"""Every kind of the catalogue behind a real SMTP server and a real spool, against its twin: settings, call, reply, queue."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiosmtpd.smtp import SMTP

from bridge.providers.catalogue import KINDS, adapter
from bridge.sandbox import Sandbox
from bridge.sandbox.twins.gmail import service_account
from tests.e2e.conftest import KEY, eventually, statuses

SENDER, ANN, BOB, CAT = "shop@example.com", "ann@example.org", "bob@example.net", "cat@example.org"
MAIL = (
    f"From: The Shop <{SENDER}>\r\nTo: Ann <{ANN}>\r\nBcc: {CAT}\r\nSubject: Your order 17\r\n\r\nIt is on its way.\r\n"
).encode()
# Beside kind and url; the key is API_KEY unless said otherwise.
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "mailgun": {"API_KEY": KEY, "DOMAIN": "example.com"},
    "ses": {"ACCESS_KEY_ID": "AKIDEXAMPLE", "SECRET_ACCESS_KEY": KEY, "REGION": "us-east-1"},
    "mailjet": {"API_KEY": KEY, "API_SECRET": KEY},
    "scaleway": {"API_KEY": KEY, "PROJECT_ID": "p1"},
    "cloudflare": {"API_KEY": KEY, "ACCOUNT_ID": "acc1"},
    "ahasend": {"API_KEY": KEY, "ACCOUNT_ID": "acc1"},
    "azure": {"API_KEY": base64.b64encode(KEY.encode()).decode()},
    "graph": {"TENANT": "t1", "CLIENT_ID": "app1", "CLIENT_SECRET": KEY},
    "gmail": {},
}
BATCHING = [kind for kind in KINDS if adapter(kind).max_batch > 1]


def settings(kind: str, sandbox: Sandbox, folder: Path, **more: str) -> dict[str, str]:
    given = {"KIND": kind, "URL": sandbox.twin_url(kind), **SETTINGS.get(kind, {"API_KEY": KEY})}
    if kind == "graph":
        given["AUTHORITY"] = sandbox.twin_url(kind)
    if kind == "gmail":
        path = folder / "key.json"
        path.write_bytes(orjson.dumps(service_account(f"{sandbox.twin_url(kind)}/token")))
        given["SERVICE_ACCOUNT_FILE"] = str(path)
    variables = {f"SMTP_BRIDGE_PROVIDER__{name}": value for name, value in given.items()}
    return {**variables, "SMTP_BRIDGE_RETRY__FIRST": "0.05s", "SMTP_BRIDGE_RETRY__MAXIMUM": "0.2s", **more}


def mailed(sandbox: Sandbox, kind: str) -> list[str]:
    return sorted(r for received in sandbox.received(kind) for r in received.mail.recipients)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_mail_is_sent_while_its_client_waits_to_the_envelope_and_nobody_else(
    kind: str, start_daemon: Any, connect: Any, sandbox: Sandbox, tmp_path: Path
) -> None:
    daemon = await start_daemon(**settings(kind, sandbox, tmp_path))
    client = await connect(daemon.listeners[0].port)

    reply = await client.send(ANN, CAT, content=MAIL, sender=SENDER)

    assert reply.startswith("250 2.0.0 Ok: sent")
    assert mailed(sandbox, kind) == [ANN, CAT]
    for received in sandbox.received(kind):
        shown = {email for email, _ in (*received.mail.to, *received.mail.cc)}
        assert CAT not in shown or received.mail.recipients == (CAT,)
        assert b"bcc" not in {name.lower().encode() for name, _ in received.mail.headers}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_provider_that_is_down_costs_nothing_but_time(
    kind: str, start_daemon: Any, connect: Any, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fail(f"{kind}=503:2")
    daemon = await start_daemon(**settings(kind, sandbox, tmp_path))
    client = await connect(daemon.listeners[0].port)

    assert (await client.send(ANN, content=MAIL, sender=SENDER)).startswith("250 2.0.0 Ok: queued")
    await eventually(lambda: mailed(sandbox, kind) == [ANN])


@pytest.mark.parametrize("kind", BATCHING)
async def test_what_waits_in_the_queue_goes_out_together_each_once(
    kind: str, start_daemon: Any, connect: Any, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A mail to people who must not see each other, which is a call for each, and some mails of their own."""
    daemon = await start_daemon(
        **settings(kind, sandbox, tmp_path, SMTP_BRIDGE_RELAY__MODE="queue", SMTP_BRIDGE_PROVIDER__CONCURRENCY="1")
    )
    provider, gate = daemon.providers[0], asyncio.Event()
    send, send_many, batches = provider.send, provider.send_many, []

    async def slow(*args: Any, **more: Any) -> Any:
        await gate.wait()
        return await send(*args, **more)

    async def noted(calls: Any) -> Any:
        batches.append(len(calls))
        return await send_many(calls)

    provider.send, provider.send_many = slow, noted
    client = await connect(daemon.listeners[0].port)
    hidden, alone = ([f"{name}{n}@example.org" for n in range(10)] for name in ("hidden", "alone"))
    for recipients in (["first@example.org"], hidden, *([person] for person in alone)):
        shown = recipients[0] if len(recipients) == 1 else "list@lists.example"
        content = MAIL.replace(ANN.encode(), shown.encode())
        assert (await client.send(*recipients, content=content, sender=SENDER)).startswith("250 2.0.0 Ok: queued")
    gate.set()

    people = ["first@example.org", *hidden, *alone]

    async def all_sent() -> bool:
        return await statuses(daemon) == dict.fromkeys(people, "sent")

    await eventually(all_sent, 30)
    assert mailed(sandbox, kind) == sorted(people)
    assert max(batches) >= 10


async def test_two_of_a_kind_share_nothing(start_daemon: Any, connect: Any, sandbox: Sandbox) -> None:
    """One provider that cannot carry a mail is passed over for one that can."""
    config = "".join(
        f'[[provider]]\nkind = "{kind}"\nurl = "{sandbox.twin_url(kind)}"\n{more}\n'
        for kind, more in (
            ("sendgrid", f'api_key = "{KEY}"'),
            ("mailgun", f'api_key = "{KEY}"\ndomain = "example.com"'),
        )
    )
    daemon = await start_daemon(config=config)
    client = await connect(daemon.listeners[0].port)
    signed = MAIL.replace(
        b"\r\n\r\nIt is", b'\r\nContent-Type: multipart/signed; boundary=b; protocol="x/y"\r\n\r\n--b\r\n\r\nIt is'
    ) + (b"--b\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--b--\r\n")

    assert (await client.send(ANN, content=MAIL, sender=SENDER)).startswith("250 2.0.0 Ok: sent")
    assert (await client.send(BOB, content=signed, sender=SENDER)).startswith("250 2.0.0 Ok: sent")
    assert (mailed(sandbox, "sendgrid"), mailed(sandbox, "mailgun")) == ([ANN], [BOB])


async def test_a_smarthost_is_a_provider_like_any_other(start_daemon: Any, connect: Any) -> None:
    kept: list[tuple[list[str], bytes]] = []

    class Smarthost:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            kept.append((envelope.rcpt_tos, envelope.original_content))
            return "250 2.0.0 Ok: queued as ABC123"

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Smarthost(), hostname="smart.example", loop=loop), "127.0.0.1", 0)
    given = {"KIND": "smtp", "HOST": "127.0.0.1", "PORT": str(server.sockets[0].getsockname()[1]), "TLS": "none"}
    daemon = await start_daemon(**{f"SMTP_BRIDGE_PROVIDER__{name}": value for name, value in given.items()})
    client = await connect(daemon.listeners[0].port)

    reply = await client.send(ANN, CAT, content=MAIL, sender=SENDER)
    server.close()

    assert reply == "250 2.0.0 Ok: sent, id ABC123"
    ((recipients, content),) = kept
    assert recipients == [ANN, CAT]
    assert b"Bcc" not in content


def test_a_key_file_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    from tests.cli.conftest import one_line, smtp_bridge

    (tmp_path / "key.json").write_text("{}")
    done = smtp_bridge(
        tmp_path,
        "run",
        SMTP_BRIDGE_PROVIDER__KIND="gmail",
        SMTP_BRIDGE_PROVIDER__SERVICE_ACCOUNT_FILE=str(tmp_path / "key.json"),
        SMTP_BRIDGE_SMTP__LISTENER__ADDRESS="127.0.0.1:0",
        SMTP_BRIDGE_SPOOL__MIN_FREE="0",
    )

    assert done.returncode == 78
    assert "provider 'gmail'" in one_line(done)
