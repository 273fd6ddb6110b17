"""A smarthost: a stock aiosmtpd with STARTTLS, implicit TLS and AUTH, and one whose replies are written down."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

from bridge.mime.parse import parse
from bridge.model import Addressing, Email, Fault, Mailbox, Outcome
from bridge.providers.base import Policy
from bridge.providers.smtp import SmtpProvider, SmtpSettings
from tests.providers.api import mails
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

PASSWORD = "smarthost-secret"
# aiosmtpd, and a login without TLS is what is tested
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


class Kept:
    """aiosmtpd's handler: what came in."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], bytes]] = []
        self.connections = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.original_content))
        return "250 2.0.0 Ok: queued as ABC123"


Start = Callable[..., Awaitable[tuple[SmtpProvider, Kept]]]


@pytest.fixture
async def start(certificates: tuple[ssl.SSLContext, str]) -> AsyncIterator[Start]:
    """`await start(tls="starttls", ...)` -> a provider for a smarthost of its own, and what that one keeps."""
    context, ca_file = certificates
    servers: list[asyncio.Server] = []
    providers: list[SmtpProvider] = []

    async def begin(tls: Any = "none", username: str = "", password: str = PASSWORD, **options: Any) -> Any:
        kept = Kept()

        def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
            good = (data.login, data.password) == (b"bridge", PASSWORD.encode())
            return AuthResult(success=good, handled=False)

        def protocol() -> SMTP:
            kept.connections += 1
            return SMTP(
                kept,
                hostname="smart.example",
                tls_context=context if tls == "starttls" else None,
                require_starttls=tls == "starttls",
                authenticator=check,
                auth_required=bool(username),
                auth_require_tls=False,
                enable_SMTPUTF8=options.pop("smtputf8", True),
                loop=asyncio.get_running_loop(),
            )

        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=context if tls == "implicit" else None)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        settings = SmtpSettings(
            host="localhost", port=port, tls=tls, username=username, password=password, ca_file=options.get("ca_file", ca_file)
        )  # fmt: skip
        providers.append(SmtpProvider("smart", Policy(timeout=5), settings, hostname="bridge.example"))
        return providers[-1], kept

    yield begin
    for provider in providers:
        await provider.aclose()
    for server in servers:
        server.close()


def to(*recipients: str, sender: str = SENDER) -> Addressing:
    return Addressing(reverse_path=sender, to=tuple(Mailbox(r) for r in recipients or (ANN,)))


async def send(
    provider: SmtpProvider, addressing: Addressing | None = None, email: Email | None = None
) -> dict[str, Outcome]:
    addressing = addressing or to()
    found = await provider.send(email or parse(mails.raw(mails.build(Bcc=CAT))), addressing, queue_id="Q1", key="K")
    assert set(found) == set(addressing.recipients)
    return dict(found)


async def test_the_mail_goes_on_with_its_envelope_and_without_bcc(start: Start) -> None:
    provider, kept = await start()

    outcomes = await send(provider, to(ANN, BOB, CAT))

    assert {o.status for o in outcomes.values()} == {"sent"}
    assert outcomes[ANN].provider_message_id == "ABC123"
    ((sender, recipients, content),) = kept.mails
    assert (sender, recipients) == (SENDER, [ANN, BOB, CAT])
    assert b"Bcc:" not in content
    assert content.startswith(b"Received: from client")
    assert content.endswith(mails.raw(mails.build()).partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_tls_and_a_login(start: Start, tls: str) -> None:
    provider, kept = await start(tls=tls, username="bridge")

    assert (await send(provider))[ANN].status == "sent"
    assert (await provider.verify()).ok is True
    assert len(kept.mails) == 1


async def test_a_wrong_password_is_the_accounts_and_never_bounces(start: Start) -> None:
    provider, kept = await start(tls="starttls", username="bridge", password="wrong-password")

    outcome = (await send(provider))[ANN]

    assert (outcome.status, outcome.fault, outcome.reply.code) == ("deferred", Fault.ACCOUNT, 451)
    assert "wrong-password" not in outcome.detail + outcome.reply.text
    verified = await provider.verify()
    assert verified.ok is False
    assert "wrong-password" not in verified.text
    assert not kept.mails


async def test_starttls_is_required_never_only_tried(start: Start) -> None:
    plain, kept = await start(tls="none")
    settings = SmtpSettings(host="localhost", port=plain.settings.port, tls="starttls")
    provider = SmtpProvider("smart", Policy(timeout=5), settings)

    outcome = (await send(provider))[ANN]

    assert (outcome.status, outcome.fault) == ("deferred", Fault.ACCOUNT)
    assert not kept.mails


async def test_a_certificate_that_nobody_trusts_sends_nothing(start: Start) -> None:
    provider, kept = await start(tls="starttls", ca_file="")

    outcome = (await send(provider))[ANN]

    assert (outcome.status, outcome.fault, outcome.reply.enhanced) == ("deferred", Fault.PROVIDER, "4.4.1")
    assert not kept.mails


async def test_a_connection_is_used_again(start: Start) -> None:
    provider, kept = await start()
    for _ in range(3):
        await send(provider)

    assert (len(kept.mails), kept.connections) == (3, 1)


async def test_the_null_reverse_path_stays_null(start: Start) -> None:
    provider, kept = await start()

    await send(provider, to(ANN, sender=""))

    assert kept.mails[0][0] in ("", "<>")  # as aiosmtpd shows the null one


async def test_an_international_address_needs_a_smarthost_that_takes_it(start: Start) -> None:
    provider, kept = await start(smtputf8=True)
    assert (await send(provider, to("jürgen@example.org")))["jürgen@example.org"].status == "sent"
    assert kept.mails[0][1] == ["jürgen@example.org"]

    provider, kept = await start(smtputf8=False)
    outcome = (await send(provider, to("jürgen@example.org")))["jürgen@example.org"]
    assert (outcome.status, outcome.reply.enhanced) == ("bounced", "5.6.7")
    assert not kept.mails


async def test_nobody_listens(start: Start) -> None:
    settings = SmtpSettings(host="127.0.0.1", port=1, tls="none")
    outcome = (await send(SmtpProvider("smart", Policy(timeout=5), settings)))[ANN]

    assert (outcome.status, outcome.fault, outcome.reply.enhanced) == ("deferred", Fault.PROVIDER, "4.4.1")


# --- a smarthost whose replies are written down: command -> reply, "" closes the connection

Scripted = Callable[..., Awaitable[SmtpProvider]]


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    servers: list[asyncio.Server] = []
    providers: list[SmtpProvider] = []

    async def begin(
        timeout: float = 5.0, greeting: str = "220 smart", received: list[bytes] | None = None, **replies: str
    ) -> SmtpProvider:
        answers = {"EHLO": "250-smart\r\n250 8BITMIME", "DATA": "354 go on", ".": "250 2.0.0 Ok", **replies}

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(f"{greeting}\r\n".encode())
                in_data = False
                while line := await reader.readline():
                    if received is not None:
                        received.append(line)
                    text = line.decode().rstrip("\r\n")
                    if in_data and text != ".":
                        continue
                    word = "." if in_data else text
                    in_data = word == "DATA" and answers["DATA"].startswith("354")
                    found = next((r for start, r in answers.items() if word.startswith(start)), "250 Ok")
                    if found == "hang":
                        await asyncio.sleep(30)
                    if not found:
                        break
                    writer.write(f"{found}\r\n".encode())
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        settings = SmtpSettings(host="127.0.0.1", port=port, tls="none")
        providers.append(SmtpProvider("smart", Policy(timeout=timeout), settings))
        return providers[-1]

    yield begin
    for provider in providers:
        await provider.aclose()
    for server in servers:
        server.close()


async def test_each_recipient_has_its_own_verdict(scripted: Scripted) -> None:
    provider = await scripted(
        **{f"RCPT TO:<{BOB}>": "550 5.1.1 No such user", f"RCPT TO:<{CAT}>": "450 4.2.0 Greylisted"}
    )

    outcomes = await send(provider, to(ANN, BOB, CAT))

    assert outcomes[ANN].status == "sent"
    assert (outcomes[BOB].status, str(outcomes[BOB].reply), outcomes[BOB].fault) == (
        "bounced",
        "550 5.1.1 No such user",
        Fault.RECIPIENT,
    )
    assert (outcomes[CAT].status, str(outcomes[CAT].reply), outcomes[CAT].fault) == (
        "deferred",
        "450 4.2.0 Greylisted",
        Fault.RECIPIENT,
    )


@pytest.mark.parametrize(
    ("replies", "status", "reply", "fault"),
    [
        ({"MAIL": "550 5.7.1 Sender denied"}, "bounced", "550 5.7.1", Fault.MESSAGE),
        ({"MAIL": "452 4.3.1 Full"}, "deferred", "452 4.3.1", Fault.PROVIDER),
        ({"MAIL": "530 5.7.0 Log in first"}, "deferred", "451 4.3.5", Fault.ACCOUNT),
        ({"DATA": "554 5.7.1 No"}, "bounced", "554 5.7.1", Fault.MESSAGE),
        ({".": "554 5.7.1 Spam"}, "bounced", "554 5.7.1", Fault.MESSAGE),
        ({".": "451 4.7.1 Later"}, "deferred", "451 4.7.1", Fault.PROVIDER),
        ({".": "552 too big"}, "bounced", "552 5.0.0", Fault.MESSAGE),
        ({".": ""}, "unknown", "451 4.4.2", Fault.PROVIDER),
        ({"RCPT": ""}, "deferred", "451 4.4.1", Fault.PROVIDER),
        ({"greeting": "554 5.7.1 Not you"}, "deferred", "451 4.3.5", Fault.ACCOUNT),
        ({"greeting": "421 4.3.2 Busy"}, "deferred", "451 4.4.1", Fault.PROVIDER),
    ],
)
async def test_what_a_reply_means(
    scripted: Scripted, replies: dict[str, str], status: str, reply: str, fault: Fault
) -> None:
    outcome = (await send(await scripted(**replies)))[ANN]

    assert (outcome.status, f"{outcome.reply.code} {outcome.reply.enhanced}", outcome.fault) == (status, reply, fault)


async def test_a_smarthost_that_hangs_after_the_message_is_unknown(scripted: Scripted) -> None:
    outcome = (await send(await scripted(timeout=0.3, **{".": "hang"})))[ANN]

    assert outcome.status == "unknown"


async def test_eight_bit_content_becomes_seven_bit_where_it_must(scripted: Scripted) -> None:
    received: list[bytes] = []
    head = f"From: {SENDER}\r\nTo: {ANN}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    content = f"{head}\r\nmit freundlichen gr\u00fc\u00dfen\r\n".encode()

    outcome = (await send(await scripted(received=received, EHLO="250 old"), email=parse(mails.raw(content))))[ANN]

    assert outcome.status == "sent"
    assert b"mit freundlichen gr=C3=BC=C3=9Fen\r\n" in b"".join(received)
    assert b"".join(received).isascii()


async def test_a_message_that_is_too_large_is_refused_before_it_is_sent() -> None:
    provider = SmtpProvider("smart", Policy(), SmtpSettings(host="x.example", max_size=100))
    unfit = provider.unfit(parse(mails.raw(mails.build())), mails.envelope())

    assert unfit
    assert unfit.reply.code == 552
