"""Resend: the contract, and what only its API has."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import orjson
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Fault, Mailbox
from bridge.providers.base import Call
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER


def calls_for(bench: Bench, recipients: Sequence[str], **fields: str | None) -> list[Call]:
    """A mail for each of them, with a text of its own."""
    found = []
    for number, recipient in enumerate(recipients):
        email = parse(mails.raw(mails.build(To=None, text=f"for {number}\n", **fields)))
        (one,) = bench.provider.calls(email, SENDER, (recipient,))
        found.append(Call(email=email, addressing=one, queue_id=f"Q{number}", key=f"K{number}"))
    return found


class TestResend(ApiContract):
    kind = "resend"
    takes_tags = False  # they are tags with a name, like metadata
    errors = {
        "bad_request": "P",
        "invalid_idempotency_key": "P",
        "expired_api_key": "C",
        "missing_api_key": "C",
        "restricted_api_key": "C",
        "invalid_api_key": "C",
        "domain_not_verified": "C",
        "testing_domain": "C",
        "not_found": "C",
        "method_not_allowed": "C",
        "concurrent_idempotent_requests": "U",
        "invalid_idempotent_request": "U",
        "validation_error": "P",
        "invalid_recipient": "A",
        "missing_required_field": "P",
        "missing_required_fields": "P",
        "invalid_attachment": "P",
        "invalid_from_address": "C",
        "invalid_parameter": "P",
        "invalid_access": "P",
        "invalid_region": "P",
        "rate_limit_exceeded": "R",
        "daily_quota_exceeded": "Q",
        "monthly_quota_exceeded": "Q",
        "security_error": "C",
        "application_error": "T",
        "internal_server_error": "T",
        "unavailable": "T",
    }
    documented = frozenset(
        {"from", "to", "cc", "bcc", "reply_to", "subject", "html", "text", "headers", "headers.*"}
        | {"attachments", "tags", "tags[].name", "tags[].value"}
        | {f"attachments[].{key}" for key in ("content", "filename", "content_type", "content_id")}
    )

    # --- request

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        message = mails.build(
            text="Hi\n", Subject="Hello", From=f'"Shop, The" <{SENDER}>', Reply_To=BOB, X_Order="17", Cc=BOB
        )
        email = parse(mails.raw(message))
        (call,) = bench.provider.calls(email, SENDER, (ANN, BOB, CAT))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert str(request.url).endswith("/resend/emails")
        assert request.headers["authorization"] == "Bearer sandbox-secret-key"
        assert request.headers["idempotency-key"] == "K1"
        assert request.headers["user-agent"].startswith("smtp-rest-bridge/")
        assert orjson.loads(request.content) == {
            "from": f'"Shop, The" <{SENDER}>',
            "to": [f"Ann Lee <{ANN}>"],
            "cc": [BOB],
            "bcc": [CAT],
            "reply_to": [BOB],
            "subject": "Hello",
            "text": "Hi\n",
            "headers": {"X-Order": "17", "Message-ID": "<1@example.com>"},
        }

    async def test_a_mail_for_more_than_fifty_goes_in_calls_of_fifty(self, bench: Bench) -> None:
        people = [f"person{n}@example.org" for n in range(60)]
        await bench.send(mails.build(To=", ".join(people[:30]), Cc=", ".join(people[30:])), mails.envelope(*people))

        assert [len(mail.recipients) for mail in bench.mails] == [50, 10]

    async def test_tags_and_metadata_get_names_and_only_the_letters_that_are_taken(self, bench: Bench) -> None:
        message = mails.build(X_Bridge_Tag="welcome, new users", X_Bridge_Metadata="order no=17.5; shop=")
        mail = await bench.received(message)

        assert mail.metadata == {"tag": "welcome", "tag-2": "new_users", "order_no": "17_5"}
        repairs = bench.provider.repairs(parse(mails.raw(message)), mails.envelope())
        assert repairs == (
            "tag 'new users' sent as new_users",
            "tag 'order no' sent as order_no",
            "tag '17.5' sent as 17_5",
            "metadata 'shop' without a value not taken",
        )

    async def test_a_key_of_the_mail_itself_does_not_stand_beside_ours(self, bench: Bench) -> None:
        message = mails.build(Resend_Idempotency_Key="mine")
        mail = await bench.received(message)

        assert "mine" not in repr(mail)
        repairs = bench.provider.repairs(parse(mails.raw(message)), mails.envelope())
        assert repairs == ("header Resend-Idempotency-Key dropped, the provider refuses it",)

    async def test_a_file_is_of_the_type_its_ending_says(self, bench: Bench) -> None:
        message = mails.build()
        message.add_attachment(mails.PDF, maintype="application", subtype="pdf", filename="scan.png")
        mail = await bench.received(message)

        assert [(a.filename, a.content_type) for a in mail.attachments] == [("scan.png", "image/png")]

    async def test_a_content_id_that_the_html_does_not_show_makes_no_file_inline(self, bench: Bench) -> None:
        message = mails.build()
        message.add_attachment(mails.PDF, maintype="application", subtype="pdf", filename="scan.pdf", cid="<x@shop>")
        mail = await bench.received(message)

        assert [(a.disposition, a.content_id) for a in mail.attachments] == [("attachment", "")]

    # --- response

    def test_the_answer_of_the_documentation(self, bench: Bench) -> None:
        to = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),))
        response = httpx.Response(200, json={"id": "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"})

        outcome = bench.provider.parse_response(response, to)[ANN]
        assert outcome.provider_message_id == "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"

    async def test_the_rate_header_says_when_to_come_back(self, bench: Bench) -> None:
        bench.sandbox.fail("resend=rate_limit_exceeded:1")

        assert (await bench.outcome()).retry_after == 1

    async def test_a_quota_waits_for_an_hour_whatever_the_rate_headers_say(self, bench: Bench) -> None:
        bench.sandbox.fail("resend=daily_quota_exceeded:1,retry_after=1")

        assert (await bench.outcome()).retry_after == 3600

    async def test_a_lost_answer_is_asked_for_again_with_the_same_key(self, bench: Bench) -> None:
        bench.sandbox.fail("resend=lost:1")
        first = await bench.outcome()
        second = await bench.outcome()

        assert (first.status, second.status) == ("unknown", "sent")
        assert len(bench.mails) == 1

    async def test_the_same_key_with_another_payload_is_unknown(self, bench: Bench) -> None:
        await bench.outcome(mails.build())
        outcome = await bench.outcome(mails.build(text="another\n"))

        assert meant(outcome) == EXPECTED["U"]
        assert len(bench.mails) == 1

    async def test_a_bad_recipient_costs_the_others_nothing(self, bench: Bench) -> None:
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, BOB, "not-an-address"))

        assert {r: o.status for r, o in outcomes.items()} == {ANN: "sent", BOB: "sent", "not-an-address": "bounced"}
        assert meant(outcomes["not-an-address"]) == EXPECTED["A"]

    # --- batch

    async def test_one_bad_mail_in_a_batch_costs_the_others_nothing(self, bench: Bench) -> None:
        good = [f"person{n}@example.org" for n in range(5)]
        found = await bench.provider.send_many(calls_for(bench, [*good[:2], "not-an-address", *good[2:]]))

        assert [next(iter(o.values())).status for o in found] == ["sent", "sent", "bounced", "sent", "sent", "sent"]
        assert meant(found[2]["not-an-address"]) == EXPECTED["A"]
        assert len(bench.requests) == 1
        ids = [next(iter(o.values())).provider_message_id for n, o in enumerate(found) if n != 2]
        assert ids == [received.provider_id for received in bench.sandbox.received("resend")]
        assert [mail.recipients for mail in bench.mails] == [(person,) for person in good]

    def test_the_permissive_answer_of_the_documentation(self, bench: Bench) -> None:
        calls = calls_for(bench, [ANN, BOB, CAT])
        body = {
            "data": [{"id": "ae2014de-c168-4c61-8267-70d2662a1ce1"}, {"id": "faccb7a5-8a28-4e9a-ac64-8da1cc3bc1cb"}],
            "errors": [{"index": 1, "message": "The `html` field is required."}],
        }
        found = bench.provider.parse_batch(httpx.Response(200, json=body), calls)

        assert found is not None
        ann, bob, cat = (next(iter(o.values())) for o in found)
        assert ann.provider_message_id.startswith("ae2014de")
        assert cat.provider_message_id.startswith("faccb7a5")
        assert meant(bob) == EXPECTED["P"]
        assert "`html`" in bob.reply.text

    @pytest.mark.parametrize(
        ("body", "letters"),
        [
            ({"data": [{"id": "1"}]}, "UU"),
            ({"data": [{"id": "1"}, {"id": "2"}], "errors": [{"index": 0, "message": "bad"}]}, "PU"),
            ({"data": [], "errors": [{"index": 0, "message": "The x.example domain is not verified."}]}, "CU"),
            ({"ok": True}, "UU"),
            ([], "UU"),
        ],
    )
    def test_a_batch_answer_that_does_not_add_up_is_unknown(self, bench: Bench, body: object, letters: str) -> None:
        found = bench.provider.parse_batch(httpx.Response(200, json=body), calls_for(bench, [ANN, BOB]))

        assert found is not None
        assert [meant(next(iter(o.values()))) for o in found] == [EXPECTED[letter] for letter in letters]

    @pytest.mark.parametrize("failure", ["invalid_idempotent_request:9", "html:9,status=502"])
    async def test_an_unknown_batch_may_mail_twice_when_it_is_tried_again(self, bench: Bench, failure: str) -> None:
        bench.sandbox.fail(f"resend={failure}")
        found = await bench.provider.send_many(calls_for(bench, [ANN, BOB]))

        outcomes = [o for outcomes in found for o in outcomes.values()]
        assert [(o.status, o.keyless) for o in outcomes] == [("unknown", True)] * 2

    @pytest.mark.parametrize("failure", ["lost:1", "html:1,status=504", "concurrent_idempotent_requests:1"])
    async def test_a_lost_batch_is_asked_for_again_under_its_key_and_mails_once(
        self, bench: Bench, failure: str
    ) -> None:
        bench.sandbox.fail(f"resend={failure}")
        found = await bench.provider.send_many(calls_for(bench, [ANN, BOB]))

        assert [o.status for outcomes in found for o in outcomes.values()] == ["sent"] * 2
        assert sorted(r for mail in bench.mails for r in mail.recipients) == [ANN, BOB]
        assert len({r.headers["idempotency-key"] for r in bench.requests}) == 1

    async def test_a_batch_that_was_lost_once_is_unknown_whatever_comes_after(self, bench: Bench) -> None:
        bench.sandbox.fail("resend=reset:1")
        bench.sandbox.fail("resend=503:9")
        found = await bench.provider.send_many(calls_for(bench, [ANN, BOB]))

        assert [(o.status, o.keyless) for outcomes in found for o in outcomes.values()] == [("unknown", True)] * 2

    async def test_a_batch_refused_as_a_whole_is_tried_in_halves(self, bench: Bench) -> None:
        bench.sandbox.fail("resend=validation_error:1")
        found = await bench.provider.send_many(calls_for(bench, [ANN, BOB]))

        assert {o.status for outcomes in found for o in outcomes.values()} == {"sent"}
        assert [request.url.path for request in bench.requests] == [
            "/resend/emails/batch",
            "/resend/emails",
            "/resend/emails",
        ]

    @pytest.mark.parametrize(("error", "letter"), [("rate_limit_exceeded", "R"), ("monthly_quota_exceeded", "Q")])
    async def test_a_batch_that_comes_too_early_is_deferred_as_a_whole(
        self, bench: Bench, error: str, letter: str
    ) -> None:
        bench.sandbox.fail(f"resend={error}:1")
        found = await bench.provider.send_many(calls_for(bench, [ANN, BOB]))

        assert {meant(o) for outcomes in found for o in outcomes.values()} == {EXPECTED[letter]}
        assert len(bench.requests) == 1

    async def test_a_mail_with_files_goes_alone(self, bench: Bench) -> None:
        (call,) = calls_for(bench, [ANN])
        with_files = Call(email=parse(mails.raw(mails.with_parts())), addressing=call.addressing, queue_id="Q", key="K")

        assert bench.provider.batch_key(call) is not None
        assert bench.provider.batch_key(with_files) is None

    # --- credentials

    def test_a_key_that_may_only_send_is_good(self, bench: Bench) -> None:
        body = {
            "statusCode": 401,
            "name": "restricted_api_key",
            "message": "This API key is restricted to only send emails",
        }
        verified = bench.provider.read_probe(httpx.Response(401, json=body))

        assert verified.ok

    async def test_the_wrong_key_is_the_accounts_fault_in_any_words(self, bench: Bench) -> None:
        to = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),))
        body = {"statusCode": 400, "name": "validation_error", "message": "API key is invalid"}
        outcome = bench.provider.parse_response(httpx.Response(400, json=body), to)[ANN]

        assert outcome.fault is Fault.ACCOUNT
