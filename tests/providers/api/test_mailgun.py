"""Mailgun: the contract for the MIME call and for the call of parts, and what only its API has."""

from __future__ import annotations

import base64
import email.utils
import re
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from bridge.mime.parse import parse
from bridge.model import Fault, Mailbox
from bridge.providers.catalogue import adapter
from bridge.providers.mailgun import MAX_PARAMETERS
from bridge.sandbox import Sandbox
from bridge.sandbox.forms import Form, read_form
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, PDF, SENDER

ERRORS = {
    "invalid_to": "A",
    "from_missing": "P",
    "no_body": "P",
    "sandbox_domain": "C",
    "unauthorized": "C",
    "payment_required": "C",
    "domain_not_allowed": "C",
    "domain_not_found": "C",
    "too_large": "B",
    "rate_limit": "R",
    "internal_error": "T",
    "bad_gateway": "U",  # may have passed it on before
    "unavailable": "T",
    "gateway_timeout": "U",
}
HOSTILE = {
    "X-Mailgun-Recipient-Variables": '{"eve@example.org": {"a": 1}}',
    "X-Mailgun-Drop-Message": "yes",
    "X-Mailgun-To": "eve@example.org",
    "X-Mailgun-Template-Variables": '{"a": "eve@example.org"}',
}


def form_of(request: httpx.Request) -> Form:
    return read_form(request.headers["content-type"], request.content)


def request_of(bench: Bench, message: Any, *recipients: str) -> httpx.Request:
    content = parse(mails.raw(message))
    (call,) = bench.provider.calls(content, SENDER, recipients or (ANN,))
    return bench.provider.build_request(content, call, queue_id="Q1", key="K1")


class TestMailgunMime(ApiContract):
    kind = "mailgun"
    settings = {"api_key": KEY, "domain": "example.com"}
    errors = ERRORS
    documented = frozenset({"to", "message", "o:*", "v:*"})
    carries_signed = True
    carries_invitation = True
    hostile = HOSTILE
    split = 1100

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        """Retyped from the facts: recipients in `to`, the message as a file, Basic with the user `api`."""
        request = request_of(bench, mails.build(Bcc=CAT), ANN, BOB, CAT)

        assert str(request.url).endswith("/v3/example.com/messages.mime")
        assert base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode() == f"api:{KEY}"
        form = form_of(request)
        assert form.values("to") == [ANN, BOB, CAT]
        assert form.names() == ["to", "message"]
        assert b"\r\nBcc:" not in form.files[0].content

    async def test_eight_bit_octets_arrive_as_they_are(self, bench: Bench) -> None:
        body = "grüße ".encode() * 300 + b"\xff\xfe\r\n--bridge-x\r\n"
        content = f"From: {SENDER}\r\nTo: {ANN}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n".encode() + body
        await bench.send(content)

        sent = base64.b64decode(bench.mails[-1].raw)
        assert sent.endswith(b"\r\n\r\n" + body)

    async def test_the_fields_of_the_smtp_service_are_parameters_and_leave_the_mail(self, bench: Bench) -> None:
        soon = email.utils.formatdate(bench.provider.clock.now() + 3600)
        message = mails.build(
            X_Mailgun_Tag=["a, b", "c"],
            X_Mailgun_Variables='{"order": 17, "who": {"id": 3}}',
            X_Mailgun_Track="no",
            X_Mailgun_Track_Clicks="htmlonly",
            X_Mailgun_Track_Opens="True",
            X_Mailgun_Dkim="yes",
            X_Mailgun_Require_TLS="yes",
            X_Mailgun_Skip_Verification="no",
            X_Mailgun_Sending_Ip_Pool="fast",
            X_Mailgun_Deliver_By=soon,
            X_Mailgun_Deliver_Within="1h30m",
        )
        mail = await bench.received(message)

        assert (mail.tags, mail.metadata) == (("a, b", "c"), {"order": "17", "who": '{"id":3}'})
        payload = bench.sandbox.received("mailgun")[-1].payload
        assert {name: values[0] for name, values in payload.items() if name.startswith("o:") and name != "o:tag"} == {
            "o:tracking": "no",
            "o:tracking-clicks": "htmlonly",
            "o:tracking-opens": "yes",
            "o:dkim": "yes",
            "o:require-tls": "yes",
            "o:skip-verification": "no",
            "o:sending-ip-pool": "fast",
            "o:deliverytime": soon,
            "o:deliver-within": "1h30m",
        }
        assert not [name for name, _ in mail.headers if name.lower().startswith("x-mailgun-")]

    async def test_a_delivery_time_that_has_passed_is_not_sent(self, bench: Bench) -> None:
        """It would be refused, and the mail may have waited here."""
        await bench.received(mails.build(X_Mailgun_Deliver_By="Thu, 13 Oct 2011 18:02:00 GMT"))

        assert "o:deliverytime" not in bench.sandbox.received("mailgun")[-1].payload

    @pytest.mark.parametrize(
        ("name", "value"),
        [("Deliver-Within", "3m"), ("Deliver-By", "tomorrow"), ("Track", "maybe"), ("Sending-Ip", "192.0.2.1")],
    )
    async def test_a_value_that_would_be_refused_is_not_taken(self, bench: Bench, name: str, value: str) -> None:
        message = mails.build(**{f"X_Mailgun_{name.replace('-', '_')}": value})
        await bench.received(message)

        assert [k for k in bench.sandbox.received("mailgun")[-1].payload if k.startswith("o:")] == []
        repairs = bench.provider.repairs(parse(mails.raw(message)), mails.envelope())
        assert repairs == (f"x-mailgun-{name.lower()} not taken",)

    async def test_parameters_stay_below_sixteen_kilobytes_and_what_goes_is_said(self, bench: Bench) -> None:
        pairs = "; ".join(f"k{n}={'v' * 900}" for n in range(20))
        message = mails.build(X_Bridge_Metadata=pairs, X_Bridge_Tag="a, b, c, d")
        mail = await bench.received(message)

        assert list(mail.metadata) == [f"k{n}" for n in range(17)]
        assert mail.tags == ("a", "b", "c")
        said = " ".join(bench.provider.repairs(parse(mails.raw(message)), mails.envelope()))
        assert all(f"metadata 'k{n}' dropped" in said for n in (17, 18, 19))
        assert "tag 'd' dropped" in said

    async def test_a_bad_recipient_is_found_by_trying_each_alone(self, bench: Bench) -> None:
        bad = "invalid@refused.example"
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, bad, BOB))

        assert {r: o.status for r, o in outcomes.items()} == {ANN: "sent", bad: "bounced", BOB: "sent"}
        assert meant(outcomes[bad]) == EXPECTED["A"]

    # --- answers

    async def test_the_seconds_in_the_text_of_a_429_are_believed(self, bench: Bench) -> None:
        bench.sandbox.fail("mailgun=rate_limit:1")

        assert (await bench.outcome()).retry_after == 120

    @pytest.mark.parametrize(
        ("status", "body", "letter"),
        [
            (200, b"Mailgun Magnificent API", "C"),
            (200, b'{"message": "Queued. Thank you."}', "U"),
            (200, b"", "U"),
            (401, b"Forbidden", "C"),
            (400, b'{"message": "cc parameter is not a valid address. please check documentation"}', "A"),
            (400, b'{"message": "from parameter is not a valid address. please check documentation"}', "P"),
        ],
    )
    async def test_answers_are_read_by_their_text_where_there_is_no_code(
        self, bench: Bench, status: int, body: bytes, letter: str
    ) -> None:
        (call,) = bench.provider.calls(parse(mails.raw(mails.build())), SENDER, (ANN,))
        found = bench.provider.parse_response(httpx.Response(status, content=body), call)

        assert meant(found[ANN]) == EXPECTED[letter]

    async def test_the_id_is_the_message_id(self, bench: Bench) -> None:
        outcome = await bench.outcome()

        assert (outcome.status, outcome.provider_message_id) == ("sent", "<1@example.com>")

    # --- domain and region

    async def test_without_any_domain_a_mail_that_would_lose_something_is_no_better(self, sandbox: Sandbox) -> None:
        provider = self.make(sandbox, domain="", content="json")
        email = parse(mails.raw(mails.invitation()))
        unfit = provider.unfit(replace(email, sender=Mailbox("shop@a/b")), mails.envelope())
        await provider.aclose()

        assert unfit is not None
        assert not unfit.degradable  # its path would be /v3//messages

    async def test_without_a_domain_that_of_the_sender_is_taken(self, sandbox: Sandbox) -> None:
        provider = self.make(sandbox, domain="")
        bench = Bench(provider, sandbox)
        await bench.received(mails.build())
        nobody = provider.unfit(parse(mails.raw(mails.build(From="shop@a/b"))), mails.envelope(sender=""))
        verified = await provider.verify()
        await provider.aclose()

        assert bench.requests[0].url.path.endswith("/v3/example.com/messages.mime")
        assert nobody is not None
        assert nobody.reply.enhanced == "5.6.0"
        assert verified.ok is None  # there is no domain to ask about

    @pytest.mark.parametrize(("domain", "ok"), [("unknown.example", False), ("example.com", True)])
    async def test_the_domain_is_verified_too(self, sandbox: Sandbox, domain: str, ok: bool) -> None:
        provider = self.make(sandbox, domain=domain)
        verified = await provider.verify()
        await provider.aclose()

        assert verified.ok is ok

    def test_a_region_has_its_own_address(self) -> None:
        cls = adapter("mailgun")
        found = [cls.base_of(cls.Settings(region=region)) for region in ("", "us", "EU")]

        assert found == ["https://api.mailgun.net", "https://api.mailgun.net", "https://api.eu.mailgun.net"]


class TestMailgunParts(ApiContract):
    kind = "mailgun"
    settings = {"api_key": KEY, "domain": "example.com", "content": "json"}
    errors = ERRORS
    documented = frozenset(
        {"from", "to", "cc", "bcc", "subject", "text", "html", "amp-html", "h:*", "v:*", "o:*", "attachment", "inline"}
    )
    hostile = HOSTILE
    split = 1100

    async def test_a_mail_without_files_is_urlencoded(self, bench: Bench) -> None:
        """Retyped from the facts."""
        message = mails.build(text="Hi\n", Subject="Hello", Cc=f'"Lee, Bob" <{BOB}>', Reply_To=BOB, X_Order="17")
        request = request_of(bench, message, ANN, BOB, CAT)

        assert str(request.url).endswith("/v3/example.com/messages")
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        assert parse_qsl(request.content.decode()) == [
            ("from", f"The Shop <{SENDER}>"),
            ("to", f"Ann Lee <{ANN}>"),
            ("cc", f'"Lee, Bob" <{BOB}>'),
            ("bcc", CAT),
            ("subject", "Hello"),
            ("text", "Hi\n"),
            ("h:X-Order", "17"),
            ("h:Reply-To", BOB),
            ("h:Message-Id", "<1@example.com>"),
        ]

    async def test_files_are_parts_in_utf8_and_an_inline_image_is_named_by_its_content_id(self, bench: Bench) -> None:
        request = request_of(bench, mails.with_parts())

        form = form_of(request)
        assert [(f.name, f.filename, f.content_type) for f in form.files] == [
            ("inline", "logo@shop", "image/png"),
            ("attachment", "Rechnung für Ärger.pdf", "application/pdf"),
            ("attachment", "table.csv", "text/csv"),
        ]
        assert form.files[1].content == PDF
        assert "filename*" not in request.content.decode("latin-1")

    async def test_a_long_text_is_a_part_too(self, bench: Bench) -> None:
        """The escapes of a URL would be many times its size."""
        message = mails.build(text="Gr\u00fc\u00dfe\n" * 50_000)

        assert request_of(bench, message).headers["content-type"].startswith("multipart/form-data")
        assert (await bench.received(message)).text == "Gr\u00fc\u00dfe\n" * 50_000

    async def test_a_file_without_a_name_gets_one(self, bench: Bench) -> None:
        """It would be dropped without a word."""
        message = mails.build()
        message.add_attachment(PDF, maintype="application", subtype="pdf")

        assert [a.filename for a in (await bench.received(message)).attachments] == ["attachment-1.pdf"]

    async def test_a_file_name_cannot_start_a_part(self, bench: Bench) -> None:
        message = mails.build()
        message.add_attachment(PDF, maintype="application", subtype="pdf", filename='a"; name="bcc.pdf')
        mail = await bench.received(message)

        assert (mail.recipients, len(mail.attachments)) == ((ANN,), 1)

    async def test_the_boundary_comes_from_the_content(self, bench: Bench) -> None:
        one = request_of(bench, mails.with_parts()).headers["content-type"]
        other = request_of(bench, mails.with_parts(), BOB).headers["content-type"]

        assert re.fullmatch(r"multipart/form-data; boundary=bridge-[0-9a-f]{40}", one)
        assert one != other

    async def test_punctuation_in_a_name_beyond_ascii_becomes_blanks(self, bench: Bench) -> None:
        message = mails.build(To=f'"Groß, Jürgen" <{ANN}>')
        mail = await bench.received(message)

        assert mail.to == ((ANN, "Groß Jürgen"),)
        repairs = bench.provider.repairs(parse(mails.raw(message)), mails.envelope())
        assert "punctuation in a display name became blanks" in repairs

    async def test_header_fields_of_more_than_sixteen_kilobytes_are_not_cut(self, bench: Bench) -> None:
        references = " ".join(f"<{n}@example.com>" for n in range(1200))
        email_ = parse(mails.raw(mails.build(References=references)))
        unfit = bench.provider.unfit(email_, mails.envelope())

        assert len(references) > MAX_PARAMETERS
        assert unfit is not None
        assert unfit.degradable

    async def test_a_bad_copy_is_a_bad_recipient(self, bench: Bench) -> None:
        bad = "invalid@refused.example"
        outcomes = await bench.send(mails.build(Cc=bad), mails.envelope(ANN, bad))

        assert (outcomes[ANN].status, outcomes[bad].fault) == ("sent", Fault.RECIPIENT)
