"""Brevo: the contract, and what only its API has."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import httpx
import orjson
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from bridge.providers.base import Call
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

TO_ANN = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),))
_BOXES = {f"{at}{slot}" for at in ("", "messageVersions[].") for slot in ("to", "cc", "bcc")}


def calls_for(bench: Bench, recipients: Sequence[str], **fields: str) -> list[Call]:
    """The same mail for each of them."""
    email = parse(mails.raw(mails.build(To=None, **fields)))
    found = []
    for number, recipient in enumerate(recipients):
        (one,) = bench.provider.calls(email, SENDER, (recipient,))
        found.append(Call(email=email, addressing=one, queue_id=f"Q{number}", key=f"K{number}"))
    return found


def attached(name: str, kind: str = "application/pdf", content: bytes = mails.PDF) -> bytes:
    message = mails.build()
    maintype, subtype = kind.split("/")
    message.add_attachment(content, maintype=maintype, subtype=subtype, filename=name)
    return mails.raw(message)


class TestBrevo(ApiContract):
    kind = "brevo"
    carries_inline = False
    errors = {
        "invalid_parameter": "P",
        "invalid_recipient": "A",
        "invalid_sender": "C",
        "missing_parameter": "P",
        "out_of_range": "P",
        "document_not_found": "P",
        "invalid_format": "P",
        "bad_request": "P",
        "duplicate_request": "U",
        "no_credits_left": "Q",
        "unauthorized": "C",
        "unrecognised_ip": "C",
        "not_enough_credits": "Q",
        "account_under_validation": "C",
        "permission_denied": "C",
        "not_found": "C",
        "method_not_allowed": "C",
        "not_acceptable": "C",
        "conflict": "T",
        "payload_too_large": "B",
        "unsupported_media_type": "C",
        "failed_dependency": "T",
        "too_early": "T",
        "too_many_requests": "R",
        "internal_error": "T",
        "unavailable": "T",
    }
    documented = frozenset(
        {"sender", "sender.email", "sender.name", "replyTo", "replyTo.email", "replyTo.name", "subject", "tags"}
        | {"htmlContent", "textContent", "headers", "headers.*", "attachment", "attachment[].name"}
        | {"attachment[].content", "messageVersions"}
        | _BOXES
        | {f"{slot}[].{key}" for slot in _BOXES for key in ("email", "name")}
    )
    hostile = {"X-Mailin-Bcc": "eve@example.org"}

    # --- request

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        message = mails.build(
            text="1 < 2\n", Subject="Hello", Reply_To=f"Bob <{BOB}>", X_Order="17", Cc=BOB, X_Bridge_Tag="welcome"
        )
        email = parse(mails.raw(message))
        (call,) = bench.provider.calls(email, SENDER, (ANN, BOB, CAT))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert str(request.url).endswith("/brevo/v3/smtp/email")
        assert request.headers["api-key"] == "sandbox-secret-key"
        body = orjson.loads(request.content)
        assert uuid.UUID(body["headers"].pop("idempotencyKey")).version == 4
        assert body == {
            "sender": {"email": SENDER, "name": "The Shop"},
            "to": [{"email": ANN, "name": "Ann Lee"}],
            "cc": [{"email": BOB}],
            "bcc": [{"email": CAT}],
            "replyTo": {"email": BOB, "name": "Bob"},
            "subject": "Hello",
            "htmlContent": '<pre style="white-space: pre-wrap">1 &lt; 2\n</pre>',
            "textContent": "1 < 2\n",
            "headers": {"X-Order": "17"},
            "tags": ["welcome"],
        }

    async def test_html_stays_as_it_is(self, bench: Bench) -> None:
        message = mails.build()
        message.add_alternative("<p>Hello</p>\n", subtype="html")
        mail = await bench.received(message)

        assert mail.html.strip() == "<p>Hello</p>"
        assert bench.provider.repairs(parse(mails.raw(message)), mails.envelope()) == ()

    async def test_a_name_beyond_ascii_with_a_comma_is_not_lost(self, bench: Bench) -> None:
        message = mails.build(To=None)
        message["To"] = "=?utf-8?q?Gro=C3=9F=2C_J=C3=BCrgen?= <ann@example.org>"
        mail = await bench.received(message)

        assert mail.to == ((ANN, "Groß, Jürgen"),)
        assert orjson.loads(bench.requests[-1].content)["to"][0]["name"].startswith("=?utf-8?b?")

    async def test_header_values_are_ascii_and_threads_stay_together(self, bench: Bench) -> None:
        mail = await bench.received(mails.build(X_Shop="Müller", References="<0@example.com>", In_Reply_To="<0@x>"))

        assert dict(mail.headers) == {
            "X-Shop": "=?utf-8?b?TcO8bGxlcg==?=",
            "References": "<0@example.com>",
            "In-Reply-To": "<0@x>",
        }

    # --- attachments

    async def test_files_arrive_with_ascii_names_and_the_ending_of_their_type(self, bench: Bench) -> None:
        mail = await bench.received(attached("Rechnung für Ärger"))

        assert [(a.filename, a.content_type) for a in mail.attachments] == [
            ("Rechnung fur Arger.pdf", "application/pdf")
        ]

    @pytest.mark.parametrize(
        ("name", "kind", "taken"),
        [
            ("table.CSV", "text/csv", True),
            ("invoice", "application/pdf", True),
            ("tool.exe", "application/octet-stream", False),
            ("LICENSE", "application/octet-stream", False),
            ("data.json", "application/json", False),
        ],
    )
    async def test_only_the_endings_of_its_list_are_taken(
        self, bench: Bench, name: str, kind: str, taken: bool
    ) -> None:
        unfit = bench.provider.unfit(parse(attached(name, kind)), mails.envelope())

        assert (unfit is None) == taken
        if unfit:
            assert (unfit.reply.code, unfit.reply.enhanced, unfit.degradable) == (554, "5.6.1", False)

    async def test_a_file_of_more_than_five_megabytes_is_refused(self, bench: Bench) -> None:
        big = parse(attached("scan.pdf", content=bytes(5 * 1024 * 1024 + 1)))
        unfit = bench.provider.unfit(big, mails.envelope())

        assert unfit
        assert (unfit.reply.code, unfit.degradable) == (552, False)

    # --- features

    async def test_the_fields_of_its_smtp_service_are_read(self, bench: Bench) -> None:
        mail = await bench.received(
            mails.build(X_Mailin_Tag="news, old", X_Mailin_custom="order:17", X_Bridge_Metadata="shop=3")
        )

        assert mail.tags == ("news, old",)
        assert mail.metadata == {"custom": "order:17", "shop": "3"}
        assert not mail.headers

    @pytest.mark.parametrize(
        ("given", "sent"),
        [("order:17", "order:17"), ('{"a": {"b": 1}}', '{"a": {"b": 1}}'), ("gr\u00fcn", '{"custom": "gr\\u00fcn"}')],
    )
    async def test_a_custom_text_is_sent_in_ascii(self, bench: Bench, given: str, sent: str) -> None:
        await bench.received(mails.build(X_Mailin_custom=given))

        assert orjson.loads(bench.requests[-1].content)["headers"]["X-Mailin-custom"] == sent

    async def test_a_mail_cannot_ask_to_be_dropped_or_to_be_another(self, bench: Bench) -> None:
        message = mails.build(X_Sib_Sandbox="drop", idempotencyKey="x")
        message["sender.ip"] = "192.0.2.1"
        mail = await bench.received(message)

        assert not mail.headers
        assert bench.provider.repairs(parse(mails.raw(message)), mails.envelope()) == (
            "x-sib-sandbox not taken",
            "header idempotencyKey dropped, the provider refuses it",
            "header sender.ip dropped, the provider refuses it",
            "HTML made from the text, the provider wants some",
        )

    # --- response

    @pytest.mark.parametrize(
        ("content", "message_id"),
        [
            (b'{"messageId": "<202611230327.1@smtp-relay.mailin.fr>"}', "<202611230327.1@smtp-relay.mailin.fr>"),
            (b'{"messageIds": ["<1@smtp-relay.mailin.fr>"]}', "<1@smtp-relay.mailin.fr>"),
            (b"", ""),
        ],
    )
    def test_the_answers_of_the_documentation(self, bench: Bench, content: bytes, message_id: str) -> None:
        outcome = bench.provider.parse_response(httpx.Response(201, content=content), TO_ANN)[ANN]

        assert (outcome.status, outcome.provider_message_id) == ("sent", message_id)

    def test_codes_are_read_in_any_case(self, bench: Bench) -> None:
        body = {"code": "NOT_ENOUGH_CREDITS", "message": "no credits"}
        outcome = bench.provider.parse_response(httpx.Response(400, json=body), TO_ANN)[ANN]

        assert meant(outcome) == EXPECTED["Q"]

    async def test_the_rate_header_says_when_to_come_back(self, bench: Bench) -> None:
        bench.sandbox.fail("brevo=too_many_requests:1")

        assert (await bench.outcome()).retry_after == 60

    async def test_a_key_that_is_known_already_mails_nobody_twice(self, bench: Bench) -> None:
        bench.sandbox.fail("brevo=lost:1")
        first, second = await bench.outcome(), await bench.outcome()

        assert (meant(first), meant(second)) == (EXPECTED["U"], EXPECTED["U"])
        assert len(bench.mails) == 1

    async def test_a_bad_recipient_costs_the_others_nothing(self, bench: Bench) -> None:
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, BOB, "not-an-address"))

        assert {r: o.status for r, o in outcomes.items()} == {ANN: "sent", BOB: "sent", "not-an-address": "bounced"}
        assert meant(outcomes["not-an-address"]) == EXPECTED["A"]

    # --- batch

    async def test_a_batch_is_one_content_with_versions_and_an_id_for_each(self, bench: Bench) -> None:
        found = await bench.provider.send_many(calls_for(bench, [ANN, BOB]))

        body = orjson.loads(bench.requests[0].content)
        assert body["messageVersions"] == [{"to": [{"email": ANN}]}, {"to": [{"email": BOB}]}]
        assert "to" not in body
        ids = [next(iter(o.values())).provider_message_id for o in found]
        assert ids == [received.provider_id for received in bench.sandbox.received("brevo")]
        assert len(set(ids)) == 2

    async def test_one_bad_mail_in_a_batch_costs_the_others_nothing(self, bench: Bench) -> None:
        good = [f"person{n}@example.org" for n in range(5)]
        found = await bench.provider.send_many(calls_for(bench, [*good, "not-an-address"]))

        assert [next(iter(o.values())).status for o in found] == ["sent"] * 5 + ["bounced"]
        assert meant(found[-1]["not-an-address"]) == EXPECTED["A"]
        assert sorted(r for mail in bench.mails for r in mail.recipients) == sorted(good)

    async def test_only_mails_of_the_same_content_share_a_call(self, bench: Bench) -> None:
        (one,) = calls_for(bench, [ANN])
        (same,) = calls_for(bench, [BOB], Message_ID="<2@example.com>")
        (other,) = calls_for(bench, [BOB], Subject="another")
        (many,) = bench.provider.calls(parse(mails.raw(mails.build())), SENDER, (ANN, BOB, CAT))
        key_of = bench.provider.batch_key

        assert key_of(one) == key_of(same) != key_of(other)
        assert key_of(Call(email=one.email, addressing=many, queue_id="Q", key="K")) is None

    async def test_an_account_that_is_out_of_credits_defers_the_whole_batch(self, bench: Bench) -> None:
        bench.sandbox.fail("brevo=not_enough_credits:1")
        found = await bench.provider.send_many(calls_for(bench, [ANN, BOB]))

        assert {meant(o) for outcomes in found for o in outcomes.values()} == {EXPECTED["Q"]}
        assert len(bench.requests) == 1
